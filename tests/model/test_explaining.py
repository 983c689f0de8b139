"""Explanations: exact sums, what reverses a preference, rankings, the front, and the words."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from armorm import Backbone, Objective, ObjectiveSet, RewardModel, Steering
from armorm.errors import ArmormError, CheckpointError, StoreError
from armorm.model import Comparison, ModelReference, Predictions, Reference
from armorm.model.explanations import Explanation, ObjectiveDifference, ObjectiveShare
from armorm.model.flips import nearest_on_plane
from armorm.model.ranking import dominance
from tests.tiny_models import PROMPT, conversation, make_heads, make_rated_model

OBJECTIVES = ObjectiveSet(
    [
        Objective(name="tone", minimum=0, maximum=4, unit_zero=-0.5, unit_one=4.5),
        Objective(name="errors", maximum=10, direction="lower"),
        Objective(name="verbosity", minimum=0, maximum=4, direction="neutral"),
        Objective(name="safe"),
    ]
)
NAMES, K = OBJECTIVES.names, len(OBJECTIVES)
HEADS = make_heads(hidden=4, objectives=OBJECTIVES)
HEADS.transform[2, 2] = 0.0  # verbosity is dropped
SEEDS = st.integers(0, 10_000)
number = st.floats(-2, 2, width=32)
share = st.floats(0, 1, width=32)
by_name = st.dictionaries(st.sampled_from(NAMES), number, max_size=3)


@st.composite
def steerings(draw) -> Steering:
    kind = draw(st.sampled_from(["factors", "weights", "mixture", "renormalise"]))
    strength = draw(share | st.dictionaries(st.sampled_from(NAMES), share, max_size=2))
    knobs = {"debiasing": strength, "add": draw(by_name)}
    if kind == "weights":
        return Steering(weights=draw(by_name), **knobs)
    factors = draw(by_name)
    if kind == "mixture":
        mixture = draw(st.floats(0, 0.9375, width=32))
        return Steering(factors, weights=draw(by_name), mixture=mixture, **knobs)
    if kind == "renormalise":
        positive = {name: abs(factor) + 0.125 for name, factor in factors.items()}
        return Steering(positive, renormalise=True, **knobs)
    return Steering(factors, **knobs)


def predictions_of(seed: int, responses: int) -> Predictions:
    generator = np.random.default_rng(seed)
    rewards = generator.normal(0.5, 0.3, (responses, K))
    return Predictions(
        features=torch.zeros(responses, 4),
        prompts=torch.from_numpy(generator.normal(size=(1, 4))).float(),
        rewards=torch.from_numpy(rewards).float(),
        gating=torch.from_numpy(generator.dirichlet(np.ones(K), 1)).float(),
        owners=(0,) * responses,
        responses=tuple(range(responses)),
        sizes=(responses,),
    )


def reference_of(seed: int, prompts: int = 40) -> Reference:
    generator = np.random.default_rng(seed)
    return Reference.of(
        torch.from_numpy(generator.normal(size=(prompts, 4))),
        torch.from_numpy(generator.dirichlet(np.ones(K), prompts)),
        torch.from_numpy(generator.normal(0.5, 0.3, (2 * prompts, K))),
        torch.arange(prompts).repeat(2),
    )


def model_of(seed: int = 0, steering: Steering | None = None) -> RewardModel:
    """Return a model that weighs given predictions; it has no backbone to make them."""
    reference = ModelReference(reference_of(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings without effect
        return RewardModel(Mock(), HEADS, steering, reference=reference)


def compared(steering: Steering | None, found: Predictions) -> Comparison:
    model = model_of(steering=steering)
    return model.comparison(model.weigh(found))


def scored_margin(steering: Steering, found: Predictions) -> float:
    """Return the margin that a model of this steering gives."""
    scores = model_of(steering=steering).weigh(found).score.tolist()
    return scores[0] - scores[1]


def margin_under(steering: Steering, found: Predictions) -> float:
    """Return the margin from the definition of the steering, in float64."""
    scores = found.rewards.double().numpy() @ coefficients_under(steering, found)
    return float(scores[0] - scores[1])


def coefficients_under(steering: Steering, found: Predictions) -> np.ndarray:
    def vector(values, otherwise):
        return np.array([values.get(name, otherwise) for name in NAMES])

    gate = found.gating[0].double().numpy()
    steered = gate * vector(steering.factors, 1.0)
    if steering.renormalise:
        steered *= gate.sum() / steered.sum()
    if steering.weights is not None:
        t = steering.mixture
        steered = t * vector(steering.weights, 0.0) + (1 - t) * steered
    strength = steering.debiasing
    strength = vector(strength if isinstance(strength, dict) else {}, 1.0) * (
        1.0 if isinstance(strength, dict) else strength
    )
    transform = HEADS.transform.double().numpy()
    debias = np.eye(K) + (transform - np.eye(K)) * strength
    return debias @ steered + vector(steering.add, 0.0)


def between(old: Steering, new: Steering, knob: str, share: float) -> Steering:
    """Return the steering a share of the way from the old values of a setting to the new ones."""
    default = 1.0 if knob == "factors" else 0.0
    before, after = getattr(old, knob), getattr(new, knob)
    moved = {
        name: (1 - share) * before.get(name, default) + share * after.get(name, default)
        for name in NAMES
    }
    return Steering.from_dict({**old.as_dict(), knob: moved})


# One response


@settings(deadline=None, max_examples=30)
@given(SEEDS, steerings())
def test_contributions_add_up_with_and_without_the_mean(seed, steering):
    model = model_of(seed, steering=steering)
    found = predictions_of(seed, 1)
    explanation = model.explanation(model.weigh(found, neighbours=True))
    shares = explanation.objectives
    size = sum(abs(one.contribution) for one in shares) + 1
    assert sum(one.contribution for one in shares) == pytest.approx(
        explanation.score, abs=1e-6 * size
    )
    # The reference's mean score under this prompt's coefficients, one response at a time.
    coefficients = coefficients_under(steering, found)
    scores = [row @ coefficients for row in reference_of(seed).rewards.double().numpy()]
    assert explanation.mean_score == pytest.approx(np.mean(scores), abs=1e-5 * size)
    assert sum(one.above_mean for one in shares) == pytest.approx(
        explanation.score - explanation.mean_score, abs=1e-5 * size
    )
    sizes = [abs(one.above_mean) for one in shares]
    assert sizes == sorted(sizes, reverse=True)
    json.dumps(explanation.as_dict(), allow_nan=False)


def test_the_percentile_of_a_steered_score_is_that_among_scores_steered_alike():
    steering = Steering({"safe": 3.0}, debiasing=0.5, add={"tone": 0.2})
    model, sample = model_of(3, steering=steering), reference_of(3)
    found = predictions_of(5, 1)
    scores = []
    for row, owner in zip(sample.rewards.double().numpy(), sample.owners.tolist(), strict=True):
        own = replace(found, gating=sample.gating[[owner]])
        scores.append(row @ coefficients_under(steering, own))
    rewards = model.weigh(found)
    below = 100 * np.mean(np.array(scores) < float(rewards.score[0]))
    assert model.explanation(rewards).percentile == pytest.approx(below, abs=1.5)


def test_the_gate_is_compared_with_that_of_the_nearest_prompts():
    model, sample = model_of(1), reference_of(1)
    found = predictions_of(2, 2)
    generator = np.random.default_rng(1)
    features = generator.normal(size=(40, 4))
    center = features.mean(axis=0)
    asked = found.prompts[0].double().numpy() - center
    cosines = [
        asked @ (row - center) / np.linalg.norm(asked) / np.linalg.norm(row - center)
        for row in features
    ]
    nearest = np.argsort(cosines)[-16:]
    expected = sample.gating.numpy()[nearest].mean(axis=0)
    rewards = model.weigh(found, neighbours=True)
    np.testing.assert_allclose(rewards.neighbours.numpy(), np.stack([expected] * 2), atol=1e-6)
    explanation = model.explanation(rewards)
    assert explanation.neighbours == 16
    by_name = {one.objective: one for one in explanation.objectives}
    assert [by_name[name].neighbours_gating for name in NAMES] == pytest.approx(expected.tolist())
    everywhere = sample.gating.double().mean(dim=0).tolist()
    assert [by_name[name].mean_gating for name in NAMES] == pytest.approx(everywhere)


def test_what_the_folder_does_not_hold_is_none(tiny_backbone: Backbone):
    explanation = RewardModel(tiny_backbone, make_heads()).explain(conversation("Paris"))
    assert (explanation.mean_score, explanation.percentile, explanation.neighbours) == (None,) * 3
    one = explanation.objectives[0]
    assert (one.above_mean, one.neighbours_gating, one.interval) == (None,) * 3
    assert one.effect == one.contribution


def test_intervals_are_in_the_units_of_the_raters(tiny_backbone: Backbone):
    model, uncertainty, _ = make_rated_model(tiny_backbone)
    conformal = uncertainty.with_conformal(
        np.zeros((200, 3)), np.ones((200, 3)), np.tile(np.linspace(-1, 1, 200)[:, None], 3)
    )
    model = RewardModel(tiny_backbone, model.heads, uncertainty=type(model.uncertainty)(conformal))
    shares = {one.objective: one for one in model.explain(conversation("Paris")).objectives}
    tone = shares["tone"]
    deviation = 5 * float(
        model.score([conversation("Paris")], uncertainty=True).uncertainty.deviations[0, 0]
    )
    low, high = tone.normal_interval
    assert (low, high) == pytest.approx(
        (tone.rating - 1.6449 * deviation, tone.rating + 1.6449 * deviation), rel=1e-3
    )
    low, high = tone.interval
    factor = float(conformal.conformal[0])
    assert high - low == pytest.approx(2 * factor * deviation, rel=1e-4)


def test_a_reference_is_saved_with_the_model_and_checked(tiny_backbone: Backbone, tmp_path: Path):
    heads = make_heads()
    generator = torch.Generator().manual_seed(0)
    reference = Reference.of(
        torch.randn(20, 32, generator=generator),
        torch.rand(20, 3, generator=generator),
        torch.rand(30, 3, generator=generator),
        torch.randint(0, 20, (30,), generator=generator),
    )
    model = RewardModel(tiny_backbone, heads, reference=ModelReference(reference))
    model.save_pretrained(tmp_path / "model")
    loaded = RewardModel.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    loaded.score([conversation("Paris")])
    assert "sample" not in vars(loaded.reference)  # plain scoring has not read the file
    one, two = (it.explain(conversation("Paris")) for it in (model, loaded))
    assert one.mean_score == pytest.approx(two.mean_score)
    assert one.neighbours == two.neighbours == 16
    model.save_pretrained(tmp_path / "model")  # a folder with one is recognised and replaced
    file = tmp_path / "model" / "reference" / "prompts.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    damaged = RewardModel.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    with pytest.raises(StoreError, match="cannot be read"):
        damaged.explain(conversation("Paris"))
    file.write_bytes(replace(reference, owners=reference.owners + 20).to_bytes())
    with pytest.raises(StoreError, match="do not fit together"):
        _ = ModelReference(file).sample
    file.write_bytes(reference_of(0).to_bytes())
    other = RewardModel.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    with pytest.raises(CheckpointError, match="4 objectives and 4 features, not 3 and 32"):
        other.explain(conversation("Paris"))


# Two responses


@settings(deadline=None, max_examples=30)
@given(SEEDS, steerings())
def test_each_change_of_one_coefficient_reverses_and_half_of_it_does_not(seed, steering):
    found = predictions_of(seed, 2)
    comparison = compared(steering, found)
    assume(comparison.flips is not None and abs(comparison.margin) > 1e-3)
    for flip in comparison.flips.coefficients:
        if abs(flip.change) > 1e3:  # beyond what float32 tells apart
            continue
        old = steering.add.get(flip.objective, 0.0)
        margins = [
            scored_margin(
                steering.model_copy(
                    update={"add": {**steering.add, flip.objective: old + share * flip.change}}
                ),
                found,
            )
            for share in (0.5, 1.01)
        ]
        assert margins[0] * comparison.margin > 0, flip
        assert margins[1] * comparison.margin < 0, flip
        assert flip.feasible == (
            flip.flipped * flip.coefficient >= 0 if flip.coefficient else flip.change > 0
        )
    sizes = [abs(flip.change) for flip in comparison.flips.coefficients]
    assert sizes == sorted(sizes)
    smallest = comparison.flips.smallest
    feasible = [abs(flip.change) for flip in comparison.flips.coefficients if flip.feasible]
    assert (smallest is None) == (not feasible)
    assert smallest is None or abs(smallest.change) == min(feasible)
    json.dumps(comparison.as_dict(), allow_nan=False)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_the_nearest_coefficients_tie_and_no_nearer_ones_do(seed):
    found = predictions_of(seed, 2)
    comparison = compared(None, found)
    assume(comparison.flips is not None)
    change = np.array([comparison.flips.nearest[name] for name in NAMES])
    difference = (found.rewards[0] - found.rewards[1]).double().numpy()
    coefficients = coefficients_under(Steering(), found)
    assert (coefficients + change) @ difference == pytest.approx(0.0, abs=1e-6)
    assert comparison.flips.distance == pytest.approx(np.linalg.norm(change))
    # Cauchy-Schwarz: a shorter change moves the margin by less than its size.
    assert comparison.flips.distance == pytest.approx(
        abs(coefficients @ difference) / np.linalg.norm(difference), rel=1e-4
    )


@settings(deadline=None, max_examples=50)
@given(SEEDS, steerings())
def test_the_smallest_steering_reverses_and_half_of_it_does_not(seed, steering):
    found = predictions_of(seed, 2)
    comparison = compared(steering, found)
    assume(comparison.flips is not None and abs(comparison.margin) > 1e-3)
    flip = comparison.flips.steering
    knob = "weights" if steering.weights is not None and steering.mixture == 1 else "factors"
    if flip is None:
        assert not reversible(steering, found, knob, comparison.margin)
        return
    assert flip.knob == knob
    assert scored_margin(flip.steering, found) * comparison.margin < 0
    assert margin_under(flip.steering, found) * comparison.margin < 0
    values = {**getattr(steering, knob), **flip.changes}
    tie = Steering.from_dict({**steering.as_dict(), knob: values})
    half = scored_margin(between(steering, tie, knob, 0.5), found)
    assert half * comparison.margin > 0
    assert abs(margin_under(tie, found)) < 1e-4 * max(1, flip.distance)
    old, new = getattr(steering, knob), getattr(flip.steering, knob)
    assert all(value >= min(old.get(name, 0), 0) - 1e-5 for name, value in new.items())


def reversible(steering: Steering, found: Predictions, knob: str, margin: float) -> bool:
    """Return true if a linear program finds values of the setting that reverse the order."""
    default = 1.0 if knob == "factors" else 0.0
    now = np.array([getattr(steering, knob).get(name, default) for name in NAMES])

    def at(values):
        changed = dict(zip(NAMES, values.tolist(), strict=True))
        return margin_under(Steering.from_dict({**steering.as_dict(), knob: changed}), found)

    if steering.renormalise:  # the margin's sign is linear after multiplying by the gate's sum
        gating = found.gating[0].double().numpy()
        axes = np.array([at(axis) * (gating @ axis) for axis in np.eye(K)])
    else:
        zero = at(np.zeros(K))
        axes = np.array([at(axis) - zero for axis in np.eye(K)])
    sign = np.sign(margin)
    constant = sign * margin - sign * axes @ now if not steering.renormalise else 0.0
    low = np.minimum(now, 0)
    solved = linprog(sign * axes, bounds=[(one, 1e4) for one in low])
    return bool(solved.fun + constant < -1e-3)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 6))
def test_the_nearest_point_on_a_plane_is_that_of_a_solver(seed, size):
    generator = np.random.default_rng(seed)
    start, normal = generator.uniform(0.1, 2, size), generator.normal(size=size)
    if normal @ start < 0:
        normal = -normal
    lower = np.zeros(size)
    height = float(generator.uniform(-1, 1)) * float(normal @ start)
    found = nearest_on_plane(start, lower, normal, height)
    if found is None:
        assert height < float(np.minimum(normal, 0).sum())
        assert (normal > 0).all()
        return
    assert normal @ found == pytest.approx(height, abs=1e-9)
    assert (found >= lower).all()
    solved = minimize(
        lambda x: np.square(x - start).sum(),
        start,
        jac=lambda x: 2 * (x - start),
        bounds=[(0, None)] * size,
        constraints={"type": "eq", "fun": lambda x: normal @ x - height, "jac": lambda _: normal},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    if solved.success:
        assert np.linalg.norm(found - start) <= np.linalg.norm(solved.x - start) + 1e-6
        np.testing.assert_allclose(found, solved.x, atol=1e-4)


def test_equal_responses_need_no_change():
    found = predictions_of(0, 2)
    found = replace(found, rewards=found.rewards[[0, 0]])
    comparison = compared(None, found)
    assert (comparison.preferred, comparison.flips) == ("tie", None)
    assert comparison.sentence.endswith("no objective tells them apart.")


def test_a_response_that_is_better_in_all_is_reversed_by_no_factors():
    found = predictions_of(0, 2)
    better = found.rewards[[0]] + torch.tensor([[0.5, 0.5, 0.0, 0.5]])
    found = replace(found, rewards=torch.cat([better, found.rewards[[0]]]))
    flips = compared(None, found).flips
    assert flips is not None
    assert flips.steering is None
    # Lowering one weight is not enough, and verbosity is equal.
    assert "verbosity" not in [flip.objective for flip in flips.coefficients]
    assert flips.smallest is None
    assert "unless its sign changes" in compared(None, found).sentence


# Several responses


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 7), steerings())
def test_ranks_and_front_are_those_of_the_definition(seed, count, steering):
    found = predictions_of(seed, count + 1)
    found.rewards[count] = found.rewards[0]
    found.rewards.round_(decimals=1)
    model = model_of(steering=steering)
    rewards = model.weigh(found)
    ranking = model.ranking(rewards)
    assert ranking.left_out == ("verbosity",)
    debias = Steering(weights={}, debiasing=steering.debiasing)
    table = [
        [
            row @ coefficients_under(debias.model_copy(update={"weights": {name: 1.0}}), found)
            for name in ranking.objectives
        ]
        for row in found.rewards.double().numpy()
    ]
    by_position = {one.response: one for one in ranking.responses}
    for row, one in by_position.items():
        assert list(one.rewards.values()) == pytest.approx(table[row], abs=1e-5)
        better = [
            other
            for other, values in by_position.items()
            if all(values.rewards[n] >= one.rewards[n] for n in ranking.objectives)
            and any(values.rewards[n] > one.rewards[n] for n in ranking.objectives)
        ]
        assert list(one.dominated_by) == sorted(better)
        assert one.on_front == (not better)
        for name in ranking.objectives:
            above = [o for o in by_position.values() if o.rewards[name] > one.rewards[name]]
            assert one.ranks[name] == 1 + len(above)
        assert one.rank == 1 + int((rewards.score > rewards.score[row]).sum())
    first, last = by_position[0], by_position[count]  # equal responses
    assert (first.rank, first.ranks, first.on_front) == (last.rank, last.ranks, last.on_front)
    assert [one.response for one in ranking.responses] == rewards.ranking()
    json.dumps(ranking.as_dict(), allow_nan=False)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.lists(st.floats(0, 3, width=32), min_size=K, max_size=K))
def test_no_factors_put_a_dominated_response_first(seed, factors):
    found = predictions_of(seed, 6)
    # Two objectives agree, so that some responses are dominated.
    found.rewards[:, 3] = found.rewards[:, 0]
    steering = Steering(dict(zip(NAMES, factors, strict=True)))
    model = model_of(steering=steering)
    ranking = model.ranking(model.weigh(found))
    best = max(one.score for one in ranking.responses if one.on_front)
    assert all(one.score <= best + 1e-5 for one in ranking.responses)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 12), st.integers(1, 4))
def test_dominance_is_a_strict_order(seed, count, size):
    values = np.random.default_rng(seed).integers(0, 3, (count, size)).astype(float)
    table = dominance(values)
    assert not table.diagonal().any()
    assert not (table & table.T).any()
    assert not ((table.astype(int) @ table.astype(int) > 0) & ~table).any()  # transitive
    assert not table.all(axis=1).any()
    assert not table.any(axis=1).all()  # someone is on the front


def test_floors_come_before_scores(tiny_backbone: Backbone):
    model = RewardModel(tiny_backbone, make_heads())
    texts = ["Paris", "ok", "Lyon"]
    rewards = model.score_responses(PROMPT, texts)
    safe = rewards.rewards[:, 1]
    floor = float(safe.sort().values[1])
    ranking = model.rank(PROMPT, texts, floors={"safe": floor})
    assert ranking.responses[-1].response == int(safe.argmin())
    assert ranking.responses[-1].rank == 3


# Words


def explained(effects: dict[str, float], **fields) -> Explanation:
    shares = tuple(
        ObjectiveShare(name, 0.5, 2.0, 0.2, 1.0, effect) for name, effect in effects.items()
    )
    return Explanation(sum(effects.values()), shares, **fields)


def difference(name: str, value: float) -> ObjectiveDifference:
    return ObjectiveDifference(name, 1.0, 1.0, 1.0, 0.5, 0.5, value)


@pytest.mark.parametrize(
    ("explanation", "sentence"),
    [
        (
            explained({"a": 0.5, "b": 0.1, "c": 0.0}),
            "The score is 0.6000: a (0.5000) raises it.",
        ),
        (
            explained({"a": -0.3, "b": -0.2}),
            "The score is -0.5000: a (0.3000) and b (0.2000) lower it.",
        ),
        (explained({"a": 0.0}), "The score is 0: no objective moves it."),
        (
            explained({"a": 0.2, "b": -0.1}, steering=Steering({"a": 2.0}), novel=True),
            "The steered score is 0.1000: a (0.2000) raises it, b (0.1000) lowers it. The response "
            "is unlike anything rated, so its rewards are guesses.",
        ),
        (
            explained({"a": 0.2}, mean_score=0.3, percentile=17.9),
            "The score 0.2000 is 0.1000 below the reference mean 0.3000, higher than 17% of the "
            "reference scores: a (0.2000) raises it.",
        ),
        (  # three lower it, yet the sum is above 0: the largest that raises it is named too
            explained({"a": -0.3, "b": -0.3, "c": -0.3, **{f"d{i}": 0.1 for i in range(10)}}),
            "The score is 0.1000: d0 (0.1000) raises it, a (0.3000), b (0.3000) and c (0.3000) "
            "lower it.",
        ),
    ],
)
def test_the_sentence_of_a_score(explanation, sentence):
    assert explanation.sentence == sentence


def test_the_sentence_of_a_preference():
    a = Comparison(0.5, 0.3, 0.2, None, "a", (difference("x", 0.3), difference("y", -0.1)))
    assert a.sentence == (
        "a is preferred by 0.2000: x (0.3000) speaks for a, y (0.1000) speaks for b."
    )
    b = Comparison(0.3, 0.5, -0.2, None, "b", (difference("x", -0.3), difference("y", 0.1)))
    assert b.sentence == (
        "b is preferred by 0.2000: x (0.3000) speaks for b, y (0.1000) speaks for a."
    )
    tie = Comparison(0.5, 0.5, 0.0, 0.5, "tie", (difference("x", 0.1), difference("y", -0.1)))
    assert tie.sentence == "a and b tie at 0.5000: x (0.1000) for a and y (0.1000) for b cancel."


def test_names_with_control_characters_are_written_as_escapes():
    sentence = explained({"bad\x1b[31m\n<b>": 0.5}).sentence
    assert sentence == "The score is 0.5000: bad\\x1b[31m\\n<b> (0.5000) raises it."


def test_the_sentence_of_a_ranking():
    model = model_of()
    found = predictions_of(4, 3)
    sentence = model.ranking(model.weigh(found)).sentence
    order = model.weigh(found).ranking()
    assert sentence.startswith(f"Response {order[0] + 1} of 3 is first with ")
    assert f"ahead of response {order[1] + 1}." in sentence


# shap


def test_shap_gets_the_values_that_its_own_explainer_finds(monkeypatch):
    shap = pytest.importorskip("shap")
    import matplotlib

    matplotlib.use("Agg")
    model, found = model_of(7), predictions_of(7, 1)
    explanation = model.explanation(model.weigh(found))
    exported = explanation.to_shap()
    coefficients = coefficients_under(Steering(), found)
    background = reference_of(7).rewards.double().numpy()
    masker = shap.maskers.Independent(background, max_samples=len(background))
    theirs = shap.LinearExplainer((coefficients, 0.0), masker)(found.rewards.double().numpy())
    by_name = dict(zip(exported.feature_names, exported.values, strict=True))
    assert [by_name[name] for name in NAMES] == pytest.approx(theirs.values[0], abs=1e-5)
    assert exported.base_values == pytest.approx(float(theirs.base_values[0]), abs=1e-5)
    shap.plots.waterfall(exported, show=False)
    shap.plots.bar(exported, show=False)
    texts = [text.get_text() for text in matplotlib.pyplot.gcf().findobj(matplotlib.text.Text)]
    assert any("errors" in text for text in texts)
    matplotlib.pyplot.close("all")
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ArmormError, match="pip install shap"):
        explanation.to_shap()

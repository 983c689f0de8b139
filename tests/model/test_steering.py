"""Steering: four settings in a fixed order, one matrix, the same everywhere."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification

from armorm import Backbone, RewardModel, Steering
from armorm.errors import ArmormError, CheckpointError, InputError, RecipeError
from armorm.heads import fit_debiasing
from tests.tiny_models import OBJECTIVES, PROMPT, conversation, make_heads

NAMES = OBJECTIVES.names
V = NAMES.index("verbosity")
finite = st.floats(-3, 3, width=32)
share = st.floats(0, 1, width=32)
by_name = st.dictionaries(st.sampled_from(NAMES), finite, max_size=3)


@st.composite
def steerings(draw) -> Steering:
    weights = draw(st.none() | by_name.filter(bool))
    mixture = draw(st.floats(0, 0.9375, width=32)) if weights is not None else 1.0
    strength = draw(share | st.dictionaries(st.sampled_from(NAMES), share, max_size=3))
    return Steering(
        draw(by_name), weights=weights, mixture=mixture, debiasing=strength, add=draw(by_name)
    )


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    heads = make_heads()
    transform = torch.eye(3)
    transform[V] -= torch.tensor([0.3, -0.2, 1.0])
    heads.gate.logit_scale.fill_(1.5)
    return RewardModel(tiny_backbone, replace(heads, transform=transform))


def vector(values, otherwise):
    return np.array([values.get(name, otherwise) for name in NAMES])


def by_hand(model: RewardModel, steering: Steering, gating: np.ndarray) -> np.ndarray:
    """Coefficients as the definition says, step by step, for one prompt."""
    transform = model.heads.transform.double().numpy()
    gate = gating * vector(steering.factors, 1.0)
    if steering.weights is not None:
        t = steering.mixture
        gate = t * vector(steering.weights, 0.0) + (1 - t) * gate
    strength = steering.debiasing
    strength = vector(strength, 1.0) if isinstance(strength, dict) else np.full(3, strength)
    debiasing = np.eye(3) - strength * (np.eye(3) - transform)
    return debiasing @ gate + vector(steering.add, 0.0)


def quietly(model: RewardModel, steering: Steering) -> RewardModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.steer(steering)


@settings(max_examples=60, deadline=None)
@given(steerings(), st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3))
def test_all_settings_fold_into_one_matrix(model, steering, logits):
    gating = 1.5 * torch.softmax(torch.tensor([logits], dtype=torch.float64), dim=1)
    compiled = quietly(model, steering)._compiled
    folded = gating.float().numpy() @ compiled.as_transform().T
    expected = by_hand(model, steering, gating[0].numpy())
    np.testing.assert_allclose(folded[0], expected, atol=2e-6 * (1 + abs(expected).max()))


@settings(max_examples=30, deadline=None)
@given(steerings())
def test_steering_is_the_same_from_python_files_and_the_command_line(steering):
    assert Steering.from_dict(json.loads(json.dumps(steering.as_dict()))) == steering
    items = [f"factors.{name}={value!r}" for name, value in steering.factors.items()]
    for knob in ("weights", "add", "debiasing"):
        values = getattr(steering, knob)
        if isinstance(values, dict):
            items += [f"{knob}.{name}={value!r}" for name, value in values.items()]
    if not isinstance(steering.debiasing, dict):
        items.append(f"debiasing={steering.debiasing!r}")
    if steering.weights:
        items.append(f"mixture={steering.mixture!r}")
    parsed = Steering.parse(items)
    assert parsed == steering.model_copy(
        update={"debiasing": parsed.debiasing if steering.debiasing == {} else steering.debiasing}
    )


def planted(seed: int = 0, n: int = 4000):
    """Rewards that all correlate with verbosity, their debiasing, and gate outputs."""
    generator = np.random.default_rng(seed)
    verbosity = generator.normal(size=n)
    rewards = np.stack(
        [
            0.6 * verbosity + generator.normal(size=n),
            0.4 * verbosity + generator.normal(size=n),
            verbosity,
        ],
        axis=1,
    )
    debiasing = fit_debiasing(rewards, V)
    gating = generator.dirichlet([2, 2, 2], size=n)
    return rewards, debiasing.transform.astype(np.float32), gating


def steered_scores(steering: Steering, rewards, transform, gating):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = steering.compile(OBJECTIVES, transform, 1.0)
    coefficients = compiled.coefficients(gating.astype(np.float32)).astype(np.float64)
    return (coefficients * rewards).sum(axis=1), coefficients


def correlation(a, b) -> float:
    return float(spearmanr(a, b).statistic)


def test_factors_never_undo_debiasing():
    rewards, transform, gating = planted()
    for steering in (Steering(), Steering({"verbosity": 0}), Steering({"tone": 0, "safe": 3})):
        scores, _ = steered_scores(steering, rewards, transform, gating)
        assert abs(correlation(scores, rewards[:, V])) < 0.03


def test_factor_zero_removes_an_objective_and_its_length_penalty():
    rewards, transform, gating = planted()
    _, coefficients = steered_scores(
        Steering({"tone": 0, "verbosity": 0}), rewards, transform, gating
    )
    assert (coefficients[:, 0] == 0).all()
    penalty = -float(transform[V, 1])
    np.testing.assert_allclose(coefficients[:, V], -penalty * gating[:, 1], atol=1e-6)


def test_weights_order_by_the_debiased_objective_alone():
    rewards, transform, gating = planted()
    scores, _ = steered_scores(Steering(weights={"tone": 1}), rewards, transform, gating)
    debiased = rewards @ transform.astype(np.float64)
    np.testing.assert_allclose(scores, debiased[:, 0], atol=1e-5)
    assert abs(correlation(scores, rewards[:, V])) < 0.03
    raw, _ = steered_scores(Steering(weights={"tone": 1}, debiasing=0), rewards, transform, gating)
    np.testing.assert_allclose(raw, rewards[:, 0], atol=1e-5)


def test_strength_zero_is_the_reward_before_debiasing_and_add_pays_for_verbosity():
    rewards, transform, gating = planted()
    scores, coefficients = steered_scores(Steering(debiasing=0), rewards, transform, gating)
    np.testing.assert_allclose(coefficients, gating, atol=1e-6)
    halfway, _ = steered_scores(Steering(debiasing=0.5), rewards, transform, gating)
    fitted, _ = steered_scores(Steering(), rewards, transform, gating)
    np.testing.assert_allclose(halfway, (scores + fitted) / 2, atol=1e-5)
    paid, _ = steered_scores(Steering(add={"verbosity": 0.5}), rewards, transform, gating)
    np.testing.assert_allclose(paid - fitted, 0.5 * rewards[:, V], atol=1e-5)
    assert correlation(paid, rewards[:, V]) > 0.3


def test_a_factor_on_the_debiased_objective_does_nothing_and_says_so(model):
    with pytest.warns(UserWarning, match="'verbosity' by a factor or weight has no effect"):
        steered = model.steer({"verbosity": 0.0})
    same = model.score([conversation("Paris")])
    torch.testing.assert_close(steered.score([conversation("Paris")]).score, same.score)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.steer({"tone": 0.0})
        model.steer(add={"verbosity": 0.1})
        model.steer({"verbosity": 2.0}, debiasing=0.5)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.floats(0.125, 3, width=32), min_size=1))
def test_renormalised_factors_keep_the_sum_of_the_gate(model, factors):
    steering = Steering(factors, renormalise=True)
    gating = 1.5 * torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), 1)
    steered = quietly(model, steering)
    found = steered._compiled.coefficients(gating.numpy())
    moved = gating.numpy() * vector(factors, 1.0)
    moved *= 1.5 / moved.sum(axis=1, keepdims=True)
    expected = moved @ model.heads.transform.numpy().T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert steered.preference_probability(0.1) == model.preference_probability(0.1)


def test_probabilities_are_given_only_where_the_scale_is_the_learned_one(model):
    assert model.compare(PROMPT, "Paris", "Lyon").probability is not None
    for knobs in (
        {"factors": {"tone": 0.5}},
        {"weights": {"tone": 1}},
        {"debiasing": 0.5},
        {"add": {"tone": 0.1}},
        {"factors": {"tone": 0.5}, "renormalise": True, "add": {"tone": 0.1}},
    ):
        steered = model.steer(Steering(**knobs))
        assert steered.compare(PROMPT, "Paris", "Lyon").probability is None, knobs
    assert model.steer({"tone": 1.0}).compare(PROMPT, "Paris", "Lyon").probability is not None


def test_what_is_steered_is_recorded_with_every_answer(model):
    steering = Steering({"tone": 2.0}, debiasing=0.5)
    steered = model.steer(steering)
    record = {"factors": {"tone": 2.0}, "debiasing": 0.5}
    rewards = steered.score([conversation("Paris")])
    assert rewards.steering == steering
    assert rewards.as_dicts()[0]["steering"] == record
    assert rewards.split([1])[0].steering == steering
    assert steered.explain(conversation("Paris")).as_dict()["steering"] == record
    assert steered.compare(PROMPT, "Paris", "Lyon").as_dict()["steering"] == record
    assert steered.fingerprint() != model.fingerprint()
    for answer in (model.score([conversation("Paris")]).as_dicts()[0], model.steer().fingerprint()):
        assert "steering" not in answer
    assert model.steer().fingerprint() == model.fingerprint()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"factors": {"ton": 1.0}}, "no objective 'ton'"),
        ({"weights": {"ton": 1.0}}, "no objective 'ton'"),
        ({"debiasing": {"ton": 0.5}}, "no objective 'ton'"),
        ({"add": {"ton": 1.0}}, "no objective 'ton'"),
        ({"factors": {"tone": math.inf}}, r"factors.tone = inf: .*finite"),
        ({"factors": {"tone": 10**400}}, "valid number"),
        ({"weights": {"tone": "1"}}, "weights.tone = '1': .*number"),
        ({"weights": {"tone": 1}, "mixture": 1.5}, "mixture = 1.5: .*less than or equal to 1"),
        ({"mixture": 0.5}, "give weights too"),
        ({"factors": {"tone": 2}, "weights": {"safe": 1}}, "which weights replace"),
        ({"debiasing": -0.1}, "= -0.1: .*greater than or equal to 0"),
        ({"debiasing": {"tone": math.nan}}, "finite"),
        ({"add": 3}, "add = 3: .*dictionary"),
        ({"factors": {"tone": -1}, "renormalise": True}, "0 or more"),
        ({"factors": dict.fromkeys(NAMES, 0), "renormalise": True}, "nothing is left"),
        ({"factor": {"tone": 1}}, "Did you mean 'factors'"),
    ],
)
def test_steering_that_makes_no_sense_is_refused(model, knobs, message):
    with pytest.raises(RecipeError, match=message):
        model.steer(Steering.from_dict(knobs))


@pytest.mark.parametrize("item", ["tone", "tone=", "=1", "tone=x", "weights.tone=yes", "tone=true"])
def test_a_steering_item_of_another_form_is_refused(item):
    with pytest.raises(RecipeError, match="--steer"):
        Steering.parse([item])


def test_a_direction_is_a_unit_vector_at_an_angle():
    steering = Steering.direction("tone", "verbosity", 30, debiasing=0)
    assert steering.weights == pytest.approx({"tone": math.cos(math.pi / 6), "verbosity": 0.5})
    with pytest.raises(RecipeError, match="two objectives"):
        Steering.direction("tone", "tone", 30)


def test_a_response_below_a_floor_loses_to_every_other(model):
    responses = ["Paris", "Lyon", "ok , yes", "one two three"]
    rewards = model.score_responses(PROMPT, responses)
    best = rewards.ranking()[0]
    safe = rewards.rewards[:, NAMES.index("safe")]
    floor = float(safe[best]) + 1e-6
    ranking = rewards.ranking({"safe": floor})
    passed = [i for i in range(4) if safe[i] >= floor]
    assert set(ranking[: len(passed)]) == set(passed)
    assert ranking.index(best) >= len(passed)
    assert model.best_of(PROMPT, responses, floors={"safe": floor})[0] == ranking[0]
    assert model.best_of(PROMPT, responses, floors={"safe": 1e9})[0] == best  # none passes
    with pytest.raises(InputError, match="Did you mean 'safe'"):
        model.best_of(PROMPT, responses, floors={"saf": 1})


@pytest.mark.parametrize(
    "knobs",
    [
        {"factors": {"tone": 0.0}},
        {"weights": {"tone": 1.0}, "mixture": 0.25, "factors": {"safe": 2.0}},
        {"debiasing": {"tone": 0.0}, "add": {"verbosity": -0.3}},
    ],
)
def test_an_exported_steered_model_scores_the_same_everywhere(model, tmp_path, knobs):
    steered = model.steer(Steering(**knobs))
    steered.save_pretrained(tmp_path / "m")
    text = conversation("Paris")
    expected = steered.score([text])
    loaded = RewardModel.from_pretrained(tmp_path / "m", device="cpu", dtype="float32")
    assert loaded.steering == steered.steering
    assert loaded.score([text]).steering == steered.steering
    torch.testing.assert_close(loaded.score([text]).score, expected.score)
    assert loaded.compare(PROMPT, "Paris", "Lyon").probability is None
    torch.testing.assert_close(loaded.steer().score([text]).score, model.score([text]).score)
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    ids = loaded.backbone.tokenizer.apply_chat_template(text, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).score, expected.score, rtol=1e-4, atol=1e-5)
    assert "This model is steered" in (tmp_path / "m" / "README.md").read_text()


def test_a_renormalised_model_is_not_exported(model, tmp_path):
    steered = model.steer({"tone": 2.0}, renormalise=True)
    with pytest.raises(ArmormError, match="renormalise cannot be saved"):
        steered.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_recorded_steering_that_does_not_lead_to_the_matrix_is_refused(model, tmp_path):
    model.steer({"tone": 2.0}).save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "armorm.json"
    content = json.loads(file.read_text())
    for change in ({"factors": {"tone": 3.0}}, {"factors": {"ton": 2.0}}, {"x": 1}, []):
        file.write_text(json.dumps({**content, "steering": change}))
        with pytest.raises(CheckpointError, match="steering"):
            RewardModel.from_pretrained(tmp_path / "m", device="cpu", verify=False)

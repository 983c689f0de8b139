"""The confounder kept beside its reverse: exact sums, and what is left when it is switched off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from armorm import Objective, ObjectiveSet, Recipe, RewardModel, train
from armorm.cli import app
from armorm.errors import RecipeError
from armorm.heads import DebiasingOptions, RewardHead, fit_debiasing
from armorm.heads.uncertainty import HeadUncertainty
from armorm.model import Steering
from armorm.model.confounder import Confounder
from armorm.quickstart import generate_corpus
from armorm.training import head_influence
from tests.tiny import TEMPLATES, save_tiny_backbone

K, LENGTH, MIRROR = 4, 1, 4  # four objectives of which the second is length, and its reverse
NAMES = ObjectiveSet(
    [Objective(name=name) for name in ("tone", "length", "truth", "safe")]
).mirrored("length")
SEEDS = st.integers(0, 10_000)
KEPT = DebiasingOptions(objective="length", confounder="kept")


def rewards_of(seed: int, rows: int = 400) -> np.ndarray:
    """Return rewards that go with length, and its reverse as the last column."""
    generator = np.random.default_rng(seed)
    length = generator.normal(size=(rows, 1))
    rewards = length * generator.normal(size=K) + generator.normal(size=(rows, K))
    rewards[:, LENGTH] = length[:, 0]
    return np.concatenate([rewards, -length], axis=1)


def gating_of(seed: int, rows: int = 400, total: float = 1.0) -> torch.Tensor:
    draws = np.random.default_rng(seed + 1).dirichlet(np.full(K + 1, 0.7), rows)
    return torch.from_numpy(total * draws).float()


def steerings() -> st.SearchStrategy[Steering]:
    by_name = st.dictionaries(st.sampled_from(NAMES.names), st.floats(-2, 2), max_size=3)
    shares = st.dictionaries(st.sampled_from(NAMES.names), st.floats(0, 1), max_size=3)
    return st.builds(
        lambda factors, weights, mixture, debiasing, add: Steering(
            factors, weights=weights, mixture=mixture, debiasing=debiasing, add=add
        ),
        by_name,
        by_name,
        st.floats(0, 0.9),
        shares,
        by_name,
    )


@settings(deadline=None, max_examples=60)
@given(SEEDS, steerings(), st.sampled_from(["spearman", "pearson"]))
def test_a_score_is_the_debiased_rest_and_one_coefficient_of_length(seed, steering, correlation):
    rewards = rewards_of(seed)
    options = DebiasingOptions(objective="length", confounder="kept", correlation=correlation)
    fitted = fit_debiasing(rewards, LENGTH, options, mirror=MIRROR)
    transform = torch.from_numpy(fitted.transform).float()
    compiled = steering.compile(NAMES, transform.numpy(), 1.0, warn=False)
    coefficients = torch.from_numpy(compiled.coefficients(gating_of(seed).numpy()))
    c = coefficients.double().numpy()
    score = (c * rewards).sum(axis=1)
    rest = sum(
        c[:, i] * (rewards[:, i] - np.float32(fitted.penalties[i]) * rewards[:, LENGTH])
        for i in (0, 2, 3)
    )
    confounder = Confounder.of(NAMES, transform)
    assert confounder is not None
    part = confounder.coefficient(coefficients).numpy() * rewards[:, LENGTH]
    np.testing.assert_allclose(rest + part, score, atol=1e-10 * max(1, np.abs(c).max()))


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_without_steering_the_coefficient_is_what_the_gate_gives_length_less_its_reverse(seed):
    fitted = fit_debiasing(rewards_of(seed), LENGTH, KEPT, mirror=MIRROR)
    transform, gating = torch.from_numpy(fitted.transform), gating_of(seed).double()
    confounder = Confounder.of(NAMES, transform)
    assert confounder is not None
    found = confounder.coefficient(gating @ transform.T)
    np.testing.assert_allclose(found, gating[:, LENGTH] - gating[:, MIRROR], atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from(["keep", "solve"]))
def test_kept_without_its_weights_is_dropped(seed, negative):
    """Weights of zero, factors of zero, and the dropped transform give the same scores."""
    rewards, gating = rewards_of(seed), gating_of(seed)
    options = DebiasingOptions(objective="length", negative=negative)
    dropped = fit_debiasing(rewards[:, :K], LENGTH, options)
    kept = fit_debiasing(
        rewards, LENGTH, options.model_copy(update={"confounder": "kept"}), mirror=MIRROR
    )
    expected = (gating[:, :K].double().numpy() * (rewards[:, :K] @ dropped.transform)).sum(axis=1)
    without = gating.double().numpy().copy()
    without[:, [LENGTH, MIRROR]] = 0.0
    np.testing.assert_allclose((without * (rewards @ kept.transform)).sum(axis=1), expected)

    off = Steering({"length": 0.0, "length-reversed": 0.0})
    compiled = off.compile(NAMES, kept.transform.astype(np.float32), 1.0)
    scores = (compiled.coefficients(gating.numpy()).astype(np.float64) * rewards).sum(axis=1)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.lists(st.floats(0.1, 1), min_size=3, max_size=3))
def test_switched_off_the_score_does_not_go_with_length(seed, weights):
    rewards = rewards_of(seed, rows=2000)
    others = [0, 2, 3]
    for correlation, measure in (("spearman", spearmanr), ("pearson", pearsonr)):
        options = DebiasingOptions(
            objective="length", confounder="kept", correlation=correlation, negative="solve"
        )
        kept = fit_debiasing(rewards, LENGTH, options, mirror=MIRROR)
        debiased = (rewards @ kept.transform)[:, others]
        for column in debiased.T:
            assert abs(measure(column, rewards[:, LENGTH]).statistic) < 1e-4
        # Ranks do not add up exactly; covariances do.
        most = 0.05 if correlation == "spearman" else 1e-9
        assert abs(measure(debiased @ weights, rewards[:, LENGTH]).statistic) < most


@given(st.floats(-5, 5), st.floats(0.5, 9), st.floats(-3, 3), st.sampled_from(["higher", "lower"]))
def test_the_reverse_has_the_same_ratings_and_minus_the_rewards(low, width, reward, direction):
    one = Objective(name="length", minimum=low, maximum=low + width, direction=direction)
    reverse = one.mirrored()
    assert reverse.to_rating(-reward) == pytest.approx(one.to_rating(reward), abs=1e-9)
    assert reverse.to_reward(one.to_rating(reward)) == pytest.approx(-reward, abs=1e-9)
    assert Objective.model_validate(reverse.model_dump(mode="json")) == reverse


@given(SEEDS)
def test_the_deviation_of_a_score_knows_that_the_two_are_one_quantity(seed):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(K, K))
    covariance = mixing @ mixing.T
    scale = np.sqrt(np.diag(covariance))
    weight = generator.normal(size=(K, 3))
    head = RewardHead(weight, (1.0,) * K, (9,) * K)
    sure = HeadUncertainty(
        factors=np.eye(3)[None],
        group=np.zeros(K, np.int64),
        noise=scale,
        correlation=covariance / np.outer(scale, scale),
        overlap=np.ones((K, K)),
        novelty_factor=np.eye(3),
        typical_leverage=1.0,
        weight_sha256="00" * 32,
    )
    mirrored = sure.mirrored(LENGTH, head.mirrored(LENGTH).weight)
    features, c = generator.normal(size=(5, 3)), generator.normal(size=(5, K + 1))
    net = c[:, :K].copy()
    net[:, LENGTH] -= c[:, MIRROR]
    np.testing.assert_allclose(mirrored.score_noise(c), sure.score_noise(net))
    np.testing.assert_allclose(
        mirrored.score_epistemic(mirrored.leverages(features), c),
        sure.score_epistemic(sure.leverages(features), net),
    )
    again = HeadUncertainty.from_bytes(mirrored.to_bytes())
    np.testing.assert_array_equal(again.correlation, mirrored.correlation)


ASKED = [
    {"role": "user", "content": "How do I keep my keys?"},
    {"role": "assistant", "content": "I am happy to help you with this. Hang a hook."},
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    rows = generate_corpus(0).rated[:450]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "objectives": ["quickstart", {"name": "length", "computed": "log_tokens"}],
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"path": str(folder / "rated.jsonl")}],
            "preferences": [{"catalog": "quickstart", "limit": 150}],
            "held_out": {"fraction": 0.2},
        },
        "head": {"alphas": [1.0]},
        "debiasing": {"objective": "length", "confounder": "kept"},
        "gate": {"hidden_dim": 8, "n_hidden": 1, "steps": 20, "batch_size": 32},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return Recipe.load(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> RewardModel:
    return RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")


def test_the_model_has_length_and_its_reverse(model):
    names = model.objectives.names
    assert names[-2:] == ("length", "length-reversed")
    torch.testing.assert_close(model.heads.weight[-1], -model.heads.weight[-2])
    rewards = model.score([ASKED], uncertainty=True)
    assert rewards.rewards[0, -1] == pytest.approx(-float(rewards.rewards[0, -2]), abs=1e-6)
    ratings = model.objectives.to_ratings(rewards.rewards.numpy())[0]
    assert ratings[-1] == pytest.approx(ratings[-2], abs=1e-4)
    assert rewards.uncertainty is not None
    assert rewards.uncertainty.deviations[0, -1] == rewards.uncertainty.deviations[0, -2]


def test_an_explanation_names_the_share_of_length(model):
    rewards, part = model.score([ASKED]), model.explain(ASKED).confounder
    assert part is not None
    gating, length = rewards.gating[0], float(rewards.rewards[0, -2])
    assert (part.objective, part.kept) == ("length", True)
    assert part.gate_share == pytest.approx(float(gating[-2] + gating[-1]), abs=1e-6)
    assert part.coefficient == pytest.approx(float(gating[-2] - gating[-1]), abs=1e-5)
    assert part.contribution == pytest.approx(part.coefficient * length, abs=1e-6)
    assert "of the gate is length" in part.sentence


def test_switched_off_the_margin_is_what_is_left(model, tmp_path):
    prompt, a, b = "How do I keep my keys?", "Hang a hook.", "I am happy to help you. Hang a hook."
    comparison = model.compare(prompt, a, b)
    part = comparison.confounder
    assert part is not None
    assert part.share == pytest.approx(part.contribution / comparison.margin)
    off = model.steer({"length": 0.0, "length-reversed": 0.0})
    rest = off.compare(prompt, a, b)
    assert rest.margin == pytest.approx(comparison.margin - part.contribution, abs=1e-5)
    assert rest.confounder is not None
    assert rest.confounder.contribution == pytest.approx(0.0, abs=1e-5)
    # Exported, it is switched off in transformers too.
    off.save_pretrained(tmp_path / "off")
    exported = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "off", trust_remote_code=True
    )
    ids = model.backbone.encoder.encode(ASKED[:1], [a]).sequences[0]
    with torch.inference_mode():
        score = exported(input_ids=torch.tensor([ids])).score
    assert float(score[0]) == pytest.approx(rest.score_a, abs=1e-5)


def test_metrics_and_report_show_the_share_by_source(run):
    metrics = json.loads((run / "metrics.json").read_text())
    on = metrics["gate_on_confounder"]
    assert (on["objective"], on["confounder"]) == ("length", "kept")
    assert list(on["share"]) == ["length", "length-reversed"]
    assert on["by_source"].keys() == metrics["coefficients_by_source"].keys()
    assert 0 <= on["switched_off"]["balanced"]["accuracy"] <= 1
    assert metrics["debiasing"]["names"] == ["length", "length-reversed"]
    assert metrics["verbosity_spearman"]["after"] < metrics["verbosity_spearman"]["before"]
    page = (run / "report.html").read_text()
    assert "How much of the gate is length" in page
    assert "--steer length=0 --steer length-reversed=0" in page


def test_the_commands_say_how_much_is_length(run):
    model, prompt = str(run / "model"), ["--prompt", ASKED[0]["content"]]
    response = ["--response", ASKED[1]["content"]]
    explained = CliRunner().invoke(app, ["explain", model, *prompt, *response])
    assert "of the gate is length" in explained.output, explained.output
    sides = ["--a", "Hang a hook.", "--b", ASKED[1]["content"]]
    compared = CliRunner().invoke(app, ["compare", model, *prompt, *sides])
    assert "preference" in compared.output, compared.output
    assert "length" in compared.output.splitlines()[-1]


def test_influence_counts_length_and_its_reverse_as_one(run):
    assert head_influence(run, ASKED[0]["content"], ASKED[1]["content"]).objective in (
        *Recipe.load(run / "recipe.yaml").objective_set().names,
    )


def test_what_is_kept_must_be_named(recipe):
    with pytest.raises(RecipeError, match=r"needs debiasing\.objective"):
        Recipe.validated({**recipe.model_dump(mode="json"), "debiasing": {"confounder": "kept"}})


def test_a_recipe_names_no_reverse_itself(recipe):
    reverse = {"name": "brevity", "mirrors": "length"}
    with pytest.raises(RecipeError, match="brevity mirrors another one"):
        Recipe.validated(
            {**recipe.model_dump(mode="json"), "objectives": [*recipe.objectives, reverse]}
        )


def test_a_dropped_confounder_is_no_opinion(tiny_backbone):
    from tests.tiny_models import make_heads

    model = RewardModel(tiny_backbone, make_heads())
    transform = model.heads.transform.clone()
    transform[2, 2] = 0.0
    model = RewardModel(tiny_backbone, replace(model.heads, transform=transform))
    part = model.explain(ASKED).confounder
    assert part is not None
    assert not part.kept
    assert part.coefficient == pytest.approx(0.0, abs=1e-6)
    assert "no opinion" in part.sentence
    undone = model.steer(debiasing=0).explain(ASKED).confounder
    assert undone is not None
    assert abs(undone.coefficient) > 1e-3

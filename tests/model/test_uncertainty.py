"""A model that says how sure it is: on request only, and only of its own weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from armorm import Backbone, RewardModel, Risk
from armorm.cli import app
from armorm.errors import ArmormError, CheckpointError, InputError, RecipeError, StoreError
from armorm.heads import HeadUncertainty
from armorm.integrations import group_components, trl_reward_funcs
from armorm.model import ModelUncertainty
from tests.commands import invoke, write
from tests.tiny_models import OBJECTIVES, conversation, make_heads, make_rated_model

TEXTS = ["Paris", "Lyon , very long answer", "ok", "one two three four"]


@pytest.fixture(scope="module")
def rated(tiny_backbone: Backbone) -> tuple[RewardModel, HeadUncertainty, np.ndarray]:
    """A model whose head is fitted on the features of random answers; the features too."""
    return make_rated_model(tiny_backbone)


@pytest.fixture(scope="module")
def folder(rated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sure") / "model"
    rated[0].save_pretrained(folder)
    return folder


def test_uncertainty_comes_on_request_and_changes_nothing_else(rated):
    model, uncertainty, _ = rated
    rows = [conversation(text) for text in TEXTS]
    plain, full = model.score(rows), model.score(rows, uncertainty=True)
    assert plain.uncertainty is None
    torch.testing.assert_close(plain.score, full.score, rtol=0, atol=0)
    features = model.backbone.features(
        [model.backbone.encoder.encode(row[:-1], [row[-1]["content"]]) for row in rows]
    ).responses.double()
    found = full.uncertainty
    np.testing.assert_allclose(found.deviations, uncertainty.deviations(features.numpy()), 1e-5)
    np.testing.assert_allclose(found.novelty, uncertainty.novelty(features.numpy()), 1e-5)
    # All objectives are rated in the same rows with the same penalty.
    parts = full.coefficients.double() * found.deviations
    correlation = torch.from_numpy(uncertainty.correlation)
    variance = (parts @ correlation * parts).sum(dim=1)
    torch.testing.assert_close(found.score.double(), variance.sqrt(), rtol=1e-5, atol=1e-7)
    noise = torch.from_numpy(uncertainty.noise).float()
    torch.testing.assert_close(found.epistemic.hypot(noise), found.deviations)
    assert bool((found.score_epistemic < found.score).all())
    pieces = full.split([1, 3])
    assert torch.equal(pieces[1].uncertainty.novelty, found.novelty[1:])


def test_a_saved_model_knows_it_again_and_reads_it_only_when_asked(rated, folder, tmp_path):
    row = [conversation("Paris")]
    expected = rated[0].score(row, uncertainty=True).uncertainty
    loaded = RewardModel.from_pretrained(folder, device="cpu", dtype="float32")
    loaded.score(row)
    assert "head" not in vars(loaded.uncertainty)  # plain scoring has not read the file
    found = loaded.score(row, uncertainty=True).uncertainty
    torch.testing.assert_close(found.deviations, expected.deviations, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.novelty, expected.novelty, rtol=1e-4, atol=1e-6)
    assert found.usual_novelty == pytest.approx(expected.usual_novelty)
    result = CliRunner().invoke(app, ["export", str(folder), "-o", str(tmp_path / "exported")])
    assert result.exit_code == 0, result.output
    files = [f / "uncertainty" / "head.safetensors" for f in (folder, tmp_path / "exported")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_steering_an_objective_away_takes_its_uncertainty_out_of_the_score(rated):
    row = [conversation("Paris")]
    silent = rated[0].steer(dict.fromkeys(OBJECTIVES.names, 0.0)).score(row, uncertainty=True)
    assert float(silent.uncertainty.score[0]) == 0.0
    assert (silent.uncertainty.deviations > 0).all()


def test_a_model_without_it_says_so(tiny_backbone, tmp_path, rated):
    model = RewardModel(tiny_backbone, make_heads())
    with pytest.raises(ArmormError, match="cannot say how sure"):
        model.score([conversation("Paris")], uncertainty=True)
    assert model.explain(conversation("Paris")).novelty is None
    rated[0].save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)  # other weights: the older uncertainty must not stay
    assert not (tmp_path / "uncertainty" / "head.safetensors").exists()


def test_uncertainty_of_other_weights_or_damaged_is_refused(rated, folder, tmp_path):
    stranger = RewardModel(rated[0].backbone, make_heads(), uncertainty=rated[0].uncertainty)
    with pytest.raises(CheckpointError, match="another regression layer"):
        stranger.score([conversation("Paris")], uncertainty=True)
    file = tmp_path / "head.safetensors"
    file.write_bytes((folder / "uncertainty" / "head.safetensors").read_bytes()[:500])
    with pytest.raises(StoreError, match="cannot be read"):
        _ = ModelUncertainty(file).head


def test_the_command_line_shows_it(folder, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"messages": conversation(t)}) + "\n" for t in TEXTS))
    command = ["score", str(folder), str(source), "-o", str(output), "--uncertainty", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    model = RewardModel.from_pretrained(folder, device="cpu", dtype="float32")
    expected = model.score([conversation(t) for t in TEXTS], uncertainty=True).uncertainty
    for i, line in enumerate(output.read_text().splitlines()):
        row = json.loads(line)
        assert row["novelty"] == pytest.approx(float(expected.novelty[i]), rel=1e-3)
        assert row["novel"] is bool(expected.novel[i])
        assert row["score_deviation"] == pytest.approx(float(expected.score[i]), rel=1e-3)
        assert list(row["deviations"]) == list(OBJECTIVES.names)
    words = ["--prompt", "hello", "--response", "user system [INST] ### \\ Knowledge"]
    strange = CliRunner().invoke(app, ["explain", str(folder), *words])
    assert "Novelty" in " ".join(strange.output.split())
    assert "unlike anything rated" in " ".join(strange.output.split())


def test_an_explanation_gives_deviations_in_rating_units(rated):
    explanation = rated[0].explain(conversation("Paris"))
    found = rated[0].score([conversation("Paris")], uncertainty=True).uncertainty
    spans = {"tone": 5.0, "safe": 1.0, "verbosity": 4.0}
    for share in explanation.objectives:
        column = OBJECTIVES.column(share.objective)
        expected = spans[share.objective] * float(found.deviations[0, column])
        assert share.deviation == pytest.approx(expected, rel=1e-6)
    assert explanation.deviation == pytest.approx(float(found.score[0]))


def deviations_of_differences(model, uncertainty, prompt, texts):
    """Return the epistemic deviations of scores less their mean, from a dense posterior."""
    encoded = [model.backbone.encoder.encode(prompt, [text]) for text in texts]
    x = model.backbone.features(encoded).responses.double().numpy()
    c = model.score_encoded(encoded).coefficients[0].double().numpy()
    factor = uncertainty.factors[0]  # all objectives have the same
    inverse = np.linalg.inv(factor @ factor.T)
    parts = c * uncertainty.noise
    moved = x - x.mean(axis=0)
    leverages = np.sum(moved @ inverse * moved, axis=1)
    return np.sqrt(parts @ uncertainty.correlation @ parts * leverages)


def test_risk_takes_the_doubt_of_differences_off_the_scores_of_a_group(rated):
    model, uncertainty, _ = rated
    prompt = conversation("")[:-1]
    deviations = deviations_of_differences(model, uncertainty, prompt, TEXTS)
    plain = model.score_responses(prompt, TEXTS)
    assert plain.pessimistic is None
    found = model.score_responses(prompt, TEXTS, risk=2.0)
    torch.testing.assert_close(found.score, plain.score, rtol=0, atol=0)
    expected = plain.score.double() - 2.0 * torch.from_numpy(deviations)
    torch.testing.assert_close(found.pessimistic.double(), expected, rtol=1e-4, atol=1e-5)
    robust = model.score_responses(prompt, TEXTS, risk=Risk(kl=0.5)).pessimistic
    expected = plain.score.double() - torch.from_numpy(deviations) ** 2
    torch.testing.assert_close(robust.double(), expected, rtol=1e-4, atol=1e-5)
    best, rewards = model.best_of(prompt, TEXTS, risk=50.0)
    assert best == int(rewards.pessimistic.argmax()) == int(np.argmin(deviations))
    assert model.best_of(prompt, TEXTS, risk=0.0)[0] == model.best_of(prompt, TEXTS)[0]


def test_conversations_alone_are_priced_by_their_own_doubt(rated):
    model, _, _ = rated
    rows = [conversation(text) for text in TEXTS]
    found = model.score(rows, uncertainty=True, risk=1.5)
    expected = found.score - 1.5 * found.uncertainty.score_epistemic
    torch.testing.assert_close(found.pessimistic, expected)
    one = model.score(rows[:1], risk=1.5).pessimistic
    torch.testing.assert_close(one, expected[:1], rtol=1e-4, atol=1e-5)  # whatever else is scored
    alone = model.score_responses(rows[0][:-1], TEXTS[:1], risk=1.5).pessimistic
    torch.testing.assert_close(alone, expected[:1], rtol=1e-4, atol=1e-5)
    assert found.as_dicts()[0]["pessimistic"] == float(found.pessimistic[0])
    pieces = found.split([1, 3])
    assert torch.equal(type(found).join(pieces).pessimistic, found.pessimistic)
    assert torch.equal(
        type(found).join(pieces).uncertainty.half_widths.isnan(),
        found.uncertainty.half_widths.isnan(),
    )


def test_what_has_no_price_is_refused(rated):
    model, uncertainty, _ = rated
    with pytest.raises(ArmormError, match="cannot say how sure"):
        RewardModel(model.backbone, model.heads).score_responses("hello", TEXTS, risk=1.0)
    unknown = replace(uncertainty, noise=np.append(np.nan, uncertainty.noise[1:]))
    vague = RewardModel(model.backbone, model.heads, uncertainty=ModelUncertainty(unknown))
    with pytest.raises(ArmormError, match="too few rows"):
        vague.score_responses("hello", TEXTS, risk=1.0)
    for bad in ({"aversion": -1.0}, {"kl": 0.0}, {}, {"aversion": 1.0, "kl": 1.0}):
        with pytest.raises(RecipeError, match="Risk cannot be used"):
            Risk(**bad)
    with pytest.raises(RecipeError, match=r"Risk\(kl=1e-300\): takes more off a score"):
        model.score_responses("hello", TEXTS, risk=Risk(kl=1e-300))


def test_trainers_and_files_rank_by_the_pessimistic_score(rated, folder, tmp_path):
    model, _, _ = rated
    prompt = conversation("")[:-1]
    expected = model.score_responses(prompt, TEXTS, risk=3.0)
    logged: dict[str, float] = {}
    (reward,) = trl_reward_funcs(model, risk=3.0)
    got = reward(prompts=[prompt] * 4, completions=TEXTS, log_metric=logged.__setitem__)
    assert got == pytest.approx(expected.pessimistic.tolist(), abs=1e-5)
    price = (expected.score - expected.pessimistic).mean()
    assert logged["armorm/risk"] == pytest.approx(float(price), rel=1e-3)
    found = group_components(expected, [0] * 4, "gate_weighted")
    assert torch.equal(found.optimised["gate_weighted"].argsort(), expected.pessimistic.argsort())
    assert set(found.parts) == {*model.objectives.names, "risk"}
    with pytest.raises(InputError, match="of the score"):
        trl_reward_funcs(model, components="contributions", risk=1.0)
    source = write(tmp_path / "in.jsonl", [{"prompt": prompt, "responses": TEXTS}])
    words = ("--risk", "3", "--keep", "4")
    invoke("best-of", folder, source, "-o", tmp_path / "out.jsonl", *words)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["best"] == int(expected.pessimistic.argmax())
    assert row["pessimistic"] == pytest.approx(float(expected.pessimistic.max()), abs=1e-4)
    order = expected.pessimistic.argsort(descending=True).tolist()
    assert [one["position"] for one in row["ranked"]] == order

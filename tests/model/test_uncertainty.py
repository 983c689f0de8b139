"""A model that says how sure it is: on request only, and only of its own weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from armorm import Backbone, RewardModel
from armorm.cli import app
from armorm.errors import ArmormError, CheckpointError, StoreError
from armorm.heads import HeadUncertainty
from armorm.model import ModelUncertainty
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
    parts = full.coefficients.double() * found.deviations
    correlation = torch.from_numpy(uncertainty.correlation)
    variance = (parts @ correlation * parts).sum(dim=1)
    torch.testing.assert_close(found.score.double(), variance.sqrt(), rtol=1e-5, atol=1e-7)
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
    assert "Novelty" in strange.output
    assert "unlike anything rated" in strange.output


def test_an_explanation_gives_deviations_in_rating_units(rated):
    explanation = rated[0].explain(conversation("Paris"))
    found = rated[0].score([conversation("Paris")], uncertainty=True).uncertainty
    spans = {"tone": 5.0, "safe": 1.0, "verbosity": 4.0}
    for share in explanation.objectives:
        column = OBJECTIVES.column(share.objective)
        expected = spans[share.objective] * float(found.deviations[0, column])
        assert share.deviation == pytest.approx(expected, rel=1e-6)
    assert explanation.deviation == pytest.approx(float(found.score[0]))

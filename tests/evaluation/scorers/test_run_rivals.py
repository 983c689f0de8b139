"""Rivals of the gate from its own run: on new text they have the figures of the run."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from armorm.data import DataSource, read_preferences
from armorm.errors import CheckpointError, DamagedFileError
from armorm.evaluation import evaluate
from armorm.evaluation.scorers import RewardModelScorer, open_scorer


@pytest.fixture(scope="module")
def pairs(quickstart_run):
    return read_preferences([DataSource(path=str(quickstart_run / "held_out_pairs.jsonl"))]).rows


def test_rivals_of_a_run_score_new_text_as_the_run_did(quickstart_run, pairs):
    accuracy = json.loads((quickstart_run / "metrics.json").read_text())["accuracy"]
    head = evaluate(open_scorer(f"bradley-terry-head:{quickstart_run}"), pairs)
    assert head.accuracy == pytest.approx(accuracy["bradley_terry_head"], abs=1.5 / head.n)
    gated = open_scorer(f"{quickstart_run}/model")
    rewards = np.array([one.rewards for one in gated.score(pairs)])
    scores = rewards @ gated.fixed_coefficients
    fixed = (scores[:, 0] > scores[:, 1]).mean()
    assert fixed == pytest.approx(accuracy["fixed_weights"], abs=1.5 / head.n)


def test_fixed_weights_need_no_second_pass(quickstart_run, pairs):
    gated = open_scorer(f"{quickstart_run}/model")
    assert isinstance(gated, RewardModelScorer)
    fixed = open_scorer(f"fixed:{quickstart_run}/model").score(pairs[:4])
    for one, other in zip(gated.score(pairs[:4]), fixed, strict=True):
        scores = np.array(one.rewards) @ gated.fixed_coefficients
        assert scores == pytest.approx(other.scores, abs=1e-5)


def test_a_run_without_its_rivals_is_refused(quickstart_run, tmp_path, tiny_folder):
    with pytest.raises(CheckpointError, match="name the run folder of `armorm train`"):
        open_scorer(f"bradley-terry-head:{quickstart_run}/model")
    damaged = tmp_path / "run"
    damaged.mkdir()
    (damaged / "bradley_terry_head.safetensors").write_bytes(b"?")
    with pytest.raises(DamagedFileError, match=re.escape(str(damaged))):
        open_scorer(f"bradley-terry-head:{damaged}")

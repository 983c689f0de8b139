"""The interface of scorers: reward models, rules, and the account of rows without scores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from armorm import InputError, PreferencePair, RewardModel, Steering, evaluate
from armorm.errors import RecipeError
from armorm.evaluation.scorers import (
    RewardModelScorer,
    Scored,
    Scorer,
    open_scorer,
    score_all,
)
from tests.tiny_models import OBJECTIVES, PROMPT, make_heads


def pair(chosen: str, rejected: str, name: str = "") -> PreferencePair:
    return PreferencePair(tuple(PROMPT), chosen, rejected, id=name)


PAIRS = [pair("Paris", "Lyon"), pair("ok no", "a b c d"), pair("yes", "yes")]


@pytest.fixture(scope="module")
def model(tiny_backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


def test_a_reward_model_scores_with_its_parts(model):
    scorer = RewardModelScorer(model, "tiny")
    assert scorer.objectives == OBJECTIVES.names
    for row, scored in zip(PAIRS, scorer.score(PAIRS), strict=True):
        expected = model.score_responses(PROMPT, row.responses)
        assert scored.scores == pytest.approx(expected.score.tolist(), abs=1e-5)
        for score, rewards in zip(scored.scores, scored.rewards, strict=True):
            parts = (c * r for c, r in zip(scored.coefficients, rewards, strict=True))
            assert sum(parts) == pytest.approx(score, abs=1e-5)
        assert scored.gating == pytest.approx(expected.gating[0].tolist(), abs=1e-5)
    assert scorer.identity["fingerprint"] == model.fingerprint()


def test_a_folder_opens_as_a_reward_model_with_steering(model, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    scorer = open_scorer(str(folder), steer=Steering.parse(["tone=2"]))
    assert isinstance(scorer, RewardModelScorer)
    assert scorer.name == str(folder)
    assert scorer.model.steering.factors == {"tone": 2.0}


def test_rules_score_without_a_model():
    scores = [scored.scores for scored in open_scorer("length").score(PAIRS)]
    assert scores == [(5, 4), (5, 7), (3, 3)]
    random = open_scorer("random:7")
    first = random.score(PAIRS)
    assert random.score(PAIRS[::-1])[::-1] == first
    assert open_scorer("random").score(PAIRS) != first
    assert first[2].scores[0] == first[2].scores[1]  # equal responses tie
    many = [pair(f"a {i}", f"b {i}") for i in range(2000)]
    assert evaluate(random, many).accuracy == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("spec", ["length:3", "random:x", "random:-1"])
def test_a_misspelt_rule_is_refused(spec):
    with pytest.raises(RecipeError, match=r"write length, random, or random:SEED"):
        open_scorer(spec)


def test_a_rule_cannot_be_steered():
    with pytest.raises(RecipeError, match="no objectives to steer"):
        open_scorer("length", steer=Steering.parse(["tone=2"]))


class Partial(Scorer):
    """Scores of one kind each: fine, too long, refused, not a number."""

    name = "partial"
    identity = {"kind": "partial"}  # noqa: RUF012

    def score(self, rows):
        error = InputError("messages", "x", "bad", "Mend it.")
        kinds = [
            Scored.of([1.0, 0.0]),
            Scored.failed(error, too_long=True),
            Scored.failed(error),
            Scored.of([float("nan"), 0.0]),
        ]
        return [kinds[int(row.id)] for row in rows]


def test_rows_without_scores_are_counted_or_stop():
    rows = [pair("a", "b", str(i)) for i in (0, 1, 2, 3, 0)]
    found = score_all(Partial(), rows, invalid="skip")
    assert [one.row.id for one in found.rows] == ["0", "0"]
    assert found.rows[0].margin == 1.0
    assert found.too_long == 1
    assert [one["reason"] for one in found.invalid] == ["bad", "not a finite number"]
    with pytest.raises(InputError, match="pair 2: messages"):
        score_all(Partial(), rows)


def test_rules_and_options_do_not_import_torch():
    code = (
        "import sys; from armorm.evaluation.scorers import open_scorer, score_all, ScorerOptions;"
        "open_scorer('length'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Rewards along a response, their credits, and what they must agree with."""

from __future__ import annotations

import json

import pytest
import torch

from armorm import Backbone, RewardModel, Steering
from armorm.conversations import EncodedPrompt
from armorm.errors import ArmormError, InputError, NonFiniteError
from tests.commands import invoke
from tests.tiny_models import PROMPT, conversation, make_heads, make_rated_model

TEXTS = ["Paris", "Lyon , very long answer", "ok", "one two three four"]


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.mark.parametrize("steering", [{}, {"factors": {"tone": 2.0}}, {"weights": {"safe": 1.0}}])
def test_credits_sum_to_the_score(model, steering):
    steered = model.steer(**steering)
    for text in TEXTS:
        one = steered.trajectory(conversation(text))
        score = steered.score([conversation(text)])
        assert one.score == pytest.approx(float(score.score[0]), abs=1e-5)
        assert one.start + float(one.credits.sum()) == pytest.approx(one.score, abs=1e-6)
        assert one.rewards.dtype == torch.float64
        torch.testing.assert_close(one.objective_credits.sum(dim=1), one.credits)
        torch.testing.assert_close(one.rewards[-1].float(), score.rewards[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.coefficients.float(), score.coefficients[0])
        assert one.steering == (Steering.from_dict(steering) if steering else None)
        assert "".join(one.tokens) == one.text == text
        assert len(one) == len(one.tokens) == len(one.credits) == len(one.rewards) - 1


def test_each_reward_is_that_of_the_prefix_of_ids(model):
    text = "one two three four"
    one = model.trajectory(conversation(text))
    encoded = model.backbone.encoder.encode(PROMPT, [text])
    ids = encoded.sequences[0]
    start = len(ids) - len(one)
    assert tuple(ids[start:]) == one.token_ids
    for i in range(len(one) + 1):
        prefix = EncodedPrompt((ids[: start + i],), encoded.boundary)
        alone = model.score_encoded([prefix])
        torch.testing.assert_close(one.rewards[i].float(), alone.rewards[0], rtol=1e-4, atol=1e-5)


def test_closed_rewards_are_the_scores_of_the_response_cut_there(model):
    text = "one two three four"
    one = model.trajectory(conversation(text), closed=True)
    assert "".join(one.tokens) == text
    assert (one.closing, one.closed) == (0, True)
    cut = ["".join(one.tokens[:i]) for i in range(len(one) + 1)]
    for i, beginning in enumerate(cut):
        if beginning:
            score = model.score([conversation(beginning)])
            assert float(one.scores[i]) == pytest.approx(float(score.score[0]), abs=1e-5)
    assert one.start + float(one.credits.sum()) == pytest.approx(one.score, abs=1e-9)


def test_many_are_those_of_each_and_fit_in_memory_by_groups(model, monkeypatch):
    rows = [conversation(text) for text in [*TEXTS, TEXTS[0]]]
    apart = [model.trajectory(row) for row in rows]
    monkeypatch.setattr("armorm.model.trajectory.NUMBERS_AT_ONCE", 1000)
    for found in (model.trajectories(rows), [model.trajectories([row])[0] for row in rows]):
        for one, other in zip(found, apart, strict=True):
            torch.testing.assert_close(one.rewards, other.rewards, rtol=1e-4, atol=1e-6)
            assert one.tokens == other.tokens


def test_uncertainty_along_the_way_ends_with_the_responses(tiny_backbone):
    model = make_rated_model(tiny_backbone)[0]
    row = conversation("one two three")
    one = model.trajectory(row)
    whole = model.score([row], uncertainty=True).uncertainty
    assert one.uncertainty.novelty.shape == (len(one) + 1,)
    torch.testing.assert_close(one.uncertainty.novelty[-1:], whole.novelty, rtol=1e-3, atol=1e-4)
    record = one.as_dict()["tokens"][-1]
    assert record["novelty"] == pytest.approx(float(whole.novelty[0]), rel=1e-3)
    assert isinstance(record["novel"], bool)
    assert model.trajectories([row])[0].uncertainty is None


def test_the_record_is_strict_json_and_adds_up(model):
    one = model.steer({"tone": 2.0}).trajectory(conversation("one two"))
    record = json.loads(json.dumps(one.as_dict(), allow_nan=False))
    credits = [token["credit"] for token in record["tokens"]]
    assert record["start"] + sum(credits) == pytest.approx(record["score"], abs=1e-9)
    for token in record["tokens"]:
        assert sum(token["credits"].values()) == pytest.approx(token["credit"], abs=1e-9)
    assert "".join(token["text"] for token in record["tokens"]) == record["text"] == "one two"
    assert record["steering"]["factors"] == {"tone": 2.0}


def test_what_cannot_be_scored_is_refused(model, tiny_folder):
    with pytest.raises(InputError, match="row 2"):
        model.trajectories([conversation("ok"), PROMPT])
    with pytest.raises(ArmormError, match="no uncertainty"):
        model.trajectories([conversation("ok")], uncertainty=True)
    broken = Backbone.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    broken.model.norm.weight.data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="tokens of the response"):
        RewardModel(broken, make_heads()).trajectory(conversation("ok"))


def test_the_command_shows_each_token(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    question = ("--prompt", "what is the capital of France ?", "--response", "one two")
    shown = invoke("explain", tmp_path / "model", *question, "--tokens")
    assert "start" in shown
    assert "two" in shown
    record = json.loads(invoke("explain", tmp_path / "model", *question, "--tokens", "--json"))
    assert next(token["text"] for token in record["tokens"]) == "one"

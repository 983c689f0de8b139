"""Reward models behind HTTP, against a local server that answers as vLLM and OpenRLHF do."""

from __future__ import annotations

import itertools

import pytest

from armorm import ArmormError, InputError, PreferencePair
from armorm.errors import CheckpointError, RecipeError
from armorm.evaluation.scorers import ScorerOptions, open_scorer, score_all
from armorm.http_json import HttpError, request_json
from tests.json_server import JsonServer
from tests.tiny_models import PROMPT

PAIRS = [
    PreferencePair(tuple(PROMPT), "Paris it is", "Lyon"),
    PreferencePair(tuple(PROMPT), "ok", "no no no"),
]
MODELS = {"data": [{"id": "served"}]}


def length(messages) -> float:
    return float(len(messages[-1]["content"]))


def vllm(path: str, body):
    if path == "/v1/models":
        return MODELS
    assert body["model"] == "served"
    if path == "/classify":
        assert body["use_activation"] is False
        return {"data": [{"probs": [length(body["messages"])]}]}
    if path == "/pooling":
        return {"data": [{"data": [0.5, length(body["messages"])]}]}
    if path == "/score":
        scores = [{"index": i, "score": float(len(t))} for i, t in enumerate(body["text_2"])]
        return {"data": scores[::-1]}
    return 404, {}, {"error": {"message": "no such route"}}


@pytest.mark.parametrize("route", ["", "/", "/classify", "/pooling", "/score"])
def test_routes_of_vllm(route):
    with JsonServer(vllm) as server:
        scorer = open_scorer(server.address + route)
        assert [one.scores for one in scorer.score(PAIRS)] == [(11, 4), (2, 8)]
        assert scorer.identity["model"] == "served"


def test_the_numbers_of_a_gated_reward_model_are_read_with_their_parts():
    def gated(path, body):
        if path == "/v1/models":
            return MODELS
        size = length(body["messages"])
        return {"data": [{"probs": [size, 1.0, 0.25, 0.75, 0.25 * size + 0.75]}]}

    with JsonServer(gated) as server:
        scored = open_scorer(server.address).score(PAIRS)[0]
    assert scored.rewards == ((11, 1), (4, 1))
    assert scored.gating == (0.25, 0.75)
    assert scored.scores == (3.5, 1.75)


def test_openrlhfs_reward_server_gets_the_text_in_the_models_template(tiny_folder):
    def reward(path, body):
        assert path == "/get_reward"
        for query, prompt in zip(body["query"], body["prompts"], strict=True):
            assert query.startswith(prompt)
        return {"rewards": [float(len(query)) for query in body["query"]]}

    with JsonServer(reward) as server:
        with pytest.raises(RecipeError, match="--template"):
            open_scorer(f"{server.address}/get_reward")
        options = ScorerOptions(template=str(tiny_folder))
        scorer = open_scorer(f"{server.address}/get_reward", options)
        scores = scorer.score(PAIRS)[0].scores
        assert scores[0] - scores[1] == len("Paris it is") - len("Lyon")
        assert "<|im_start|>" in server.requests[0][1]["query"][0]


def test_a_refused_conversation_is_accounted_for_in_its_row():
    def strict(path, body):
        if path == "/classify" and "no" in body["messages"][-1]["content"]:
            return 400, {}, {"error": {"message": "too long"}}
        return vllm(path, body)

    with JsonServer(strict) as server:
        found = score_all(open_scorer(server.address), PAIRS, invalid="skip")
        assert [one.scores for one in found.rows] == [(11, 4)]
        assert "too long" in found.invalid[0]["reason"]
        with pytest.raises(InputError, match="too long"):
            score_all(open_scorer(server.address), PAIRS)


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [{"probs": ["x"]}]},
        {"data": [{"probs": ["0.5"]}]},
        {"data": [{"probs": [True]}]},
        {"data": [{"probs": [10**400]}]},
        {"data": [{"probs": [1.0, 2.0]}]},
        b"hi",
    ],
)
def test_an_answer_of_another_form_stops(answer):
    with (
        JsonServer(lambda path, body: MODELS if body is None else answer) as server,
        pytest.raises(ArmormError, match=r"answers|does not answer in JSON"),
    ):
        open_scorer(server.address).score(PAIRS)


def test_an_overloaded_server_is_tried_again():
    count = itertools.count()
    waits: list[float] = []

    def busy(path, body):
        return {"ok": True} if next(count) == 3 else (503, {"Retry-After": "4"}, {"detail": "busy"})

    with JsonServer(busy) as server:
        assert request_json(server.address, {}, retries=5, sleep=waits.append) == {"ok": True}
    assert len(waits) == 3
    assert all(2 <= wait <= 4 for wait in waits)  # half of what the server asks for is random


def test_retries_end_and_a_refusal_is_not_tried_again():
    with JsonServer(lambda path, body: (503, {}, {"detail": "busy"})) as server:
        with pytest.raises(HttpError, match=r"503: busy \(3 tries\)"):
            request_json(server.address, {}, retries=2, sleep=lambda _: None)
        assert len(server.requests) == 3
    with JsonServer(lambda path, body: (401, {}, {"detail": "who are you"})) as server:
        with pytest.raises(HttpError, match=r"401: who are you$"):
            request_json(server.address, {}, retries=2, sleep=lambda _: None)
        assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named():
    options = ScorerOptions(timeout=2, retries=0)
    with pytest.raises(ArmormError, match=r"http://127\.0\.0\.1:1/v1/models does not answer"):
        open_scorer("http://127.0.0.1:1", options).score(PAIRS)
    with pytest.raises(RecipeError, match="knows the routes"):
        open_scorer("http://127.0.0.1:1/v2/rank")


@pytest.mark.parametrize("indices", [(0, 0), (5, 7), (0, "x"), (0,), (0, 1, 1)])
def test_scores_of_other_responses_are_not_taken_for_those_of_these(indices):
    answer = {"data": [{"index": index, "score": 1.0} for index in indices]}
    with (
        JsonServer(lambda path, body: MODELS if body is None else answer) as server,
        pytest.raises(ArmormError, match="answers"),
    ):
        open_scorer(f"{server.address}/score").score(PAIRS)


@pytest.mark.parametrize("address", ["http://[::1", "http://two words/classify"])
def test_what_is_no_address_is_named(address):
    with pytest.raises(ArmormError, match="is no address"):
        open_scorer(address).score(PAIRS)


def test_a_template_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{")
    options = ScorerOptions(template=str(tmp_path))
    with pytest.raises(CheckpointError, match="--template"):
        open_scorer("http://127.0.0.1:1/get_reward", options).score(PAIRS)

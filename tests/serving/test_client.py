"""The clients: answers as types, retries, deadlines and errors, against a scripted server."""

from __future__ import annotations

import asyncio
import json
import time

import httpx2
import pytest
from starlette.testclient import TestClient

from armorm import Backbone, RewardModel, Steering
from armorm.conversations import OverlongError
from armorm.errors import ArmormError, InputError
from armorm.http_json import HttpError
from armorm.serving import (
    AsyncClient,
    Client,
    DeadlineError,
    QueueFullError,
    Service,
    background_server,
    create_app,
)
from tests.serving.direct import DirectScorer
from tests.tiny_models import OBJECTIVES, PROMPT, conversation, make_heads

GOOD = {
    "model": "m",
    "objectives": ["tone"],
    "steering": {},
    "usage": {"tokens": 3, "computed_tokens": 3},
    "results": [{"score": 0.5}],
    "field_of_a_newer_server": 1,
}


@pytest.fixture
def waits(monkeypatch):
    """The waits between tries, which take no time."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def failure(status: int, kind: str, headers=None, **details: str) -> httpx2.Response:
    body = {"error": {"type": kind, "message": f"{kind}!", "code": status, **details}}
    return httpx2.Response(status, json=body, headers=headers)


def scripted(*answers: httpx2.Response | Exception, **settings):
    """Return a client of a server that gives these answers, and the requests that it gets."""
    script, requests = list(answers), []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        following = script.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    return Client("http://reward", transport=httpx2.MockTransport(answer), **settings), requests


def test_what_may_pass_is_tried_again(waits):
    client, requests = scripted(
        failure(503, "queue_full", {"Retry-After": "4"}),
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.Response(502, text="bad gateway"),
        failure(504, "deadline_exceeded"),
        failure(429, "queue_full"),
        httpx2.Response(200, json=GOOD),
    )
    assert client.score([conversation("Paris")]).scores == [0.5]
    assert len(requests) == 7
    assert 2 <= waits[0] <= 4  # half of what Retry-After asks for, to all of it
    for wait, full in zip(waits[1:], (1, 2, 4, 8, 16), strict=True):
        assert full / 2 <= wait <= full
    left = [int(request.headers["X-Deadline-Ms"]) for request in requests]
    assert all(0 < one <= 60_000 for one in left)
    assert len({request.content for request in requests}) == 1


def test_what_cannot_pass_is_raised_at_once(waits):
    refused = failure(422, "invalid_input", field="steering", value="'x'", reason="bad", remedy="")
    for response, kind in (
        (refused, InputError),
        (failure(413, "too_long", field="messages", value="…", reason="long"), OverlongError),
        (failure(401, "unauthorized"), HttpError),
        (failure(500, "server_error"), HttpError),
        (httpx2.Response(200, text="<html>"), HttpError),
        (httpx2.Response(404, text="<html>"), HttpError),
    ):
        client, requests = scripted(response)
        with pytest.raises(kind):
            client.score([conversation("Paris")])
        assert len(requests) == 1
    assert waits == []


def test_the_last_try_says_why(waits):
    for response, kind in (
        (failure(503, "queue_full"), QueueFullError),
        (failure(504, "deadline_exceeded"), DeadlineError),
        (httpx2.ConnectError("refused"), HttpError),
    ):
        client, requests = scripted(*[response] * 3, retries=2)
        with pytest.raises(kind):
            client.score([conversation("Paris")])
        assert len(requests) == 3


def test_a_call_ends_by_its_deadline(waits):
    client, requests = scripted(*[failure(503, "queue_full", {"Retry-After": "30"})] * 9)
    with pytest.raises(DeadlineError, match=r"within 5 s.*queue_full"):
        client.score([conversation("Paris")], deadline=5)
    assert len(requests) == 1
    assert waits == []


def test_items_without_a_score_are_errors_with_their_row():
    error = {"type": "invalid_input", "message": "no", "field": "messages", "reason": "empty"}
    client, _ = scripted(
        httpx2.Response(200, json=GOOD | {"results": [{"score": 1.0}, {"error": error}]})
    )
    answer = client.score([conversation("Paris"), []])
    assert answer.results[0].score == 1.0
    with pytest.raises(InputError, match="row 2: messages") as raised:
        _ = answer.scores
    assert raised.value.row == 2


def test_key_steering_and_include_are_sent(monkeypatch):
    monkeypatch.setenv("ARMORM_API_KEY", "secret")
    requests = []

    def answer(request):
        requests.append(request)
        return httpx2.Response(200, json=GOOD)

    client = Client("http://reward/", transport=httpx2.MockTransport(answer))
    client.score_responses("hi", ("a",), include=["rewards"], steering=Steering({"tone": 2.0}))
    assert requests[0].headers["Authorization"] == "Bearer secret"
    assert str(requests[0].url) == "http://reward/v1/score"
    assert json.loads(requests[0].content) == {
        "prompt": "hi",
        "responses": ["a"],
        "include": ["rewards"],
        "steering": {"factors": {"tone": 2.0}},
    }
    with pytest.raises(InputError, match="not JSON"):
        client.best_of("hi", ["a"], floors={"tone": float("nan")})


def test_both_clients_agree_with_the_model(tiny_backbone: Backbone):
    model = RewardModel(tiny_backbone, make_heads())
    texts = ["Paris", "ok", "Lyon , one"]
    expected = model.score_responses(PROMPT, texts)

    async def ask(address: str):
        async with AsyncClient(address) as client:
            return await asyncio.gather(
                client.score([conversation(text) for text in texts]),
                client.score_responses(PROMPT, texts),
                client.compare(PROMPT, *texts[:2]),
                client.best_of(PROMPT, texts, floors={"tone": -9.0}),
                client.objectives(),
                client.model(),
            )

    with background_server(model) as address, Client(address) as client:
        told = asyncio.run(ask(address))
        asked = (
            client.score([conversation(text) for text in texts]),
            client.score_responses(PROMPT, texts),
            client.compare(PROMPT, *texts[:2]),
            client.best_of(PROMPT, texts, floors={"tone": -9.0}),
            client.objectives(),
            client.model(),
        )
    for scored, alone, compared, best, objectives, described in (told, asked):
        assert scored.scores == pytest.approx(expected.score.tolist(), abs=1e-5)
        assert alone.scores == pytest.approx(expected.score.tolist(), abs=1e-5)
        assert compared.preferred == model.compare(PROMPT, *texts[:2]).preferred
        assert best.ranking == expected.ranking()
        assert objectives.names == OBJECTIVES.names
        assert objectives[0].to_rating(0.5) == OBJECTIVES[0].to_rating(0.5)
        assert described.fingerprint == model.fingerprint()
    with pytest.raises(ArmormError, match="does not answer"):
        Client(address, retries=0).model()


def test_errors_are_those_of_the_model(tiny_backbone: Backbone):
    model = RewardModel(tiny_backbone, make_heads())
    server = TestClient(create_app(Service(DirectScorer(model))))

    def answer(request: httpx2.Request) -> httpx2.Response:
        got = server.post(request.url.path, content=request.content, headers=request.headers)
        return httpx2.Response(got.status_code, content=got.content)

    client = Client("http://reward", transport=httpx2.MockTransport(answer))
    wrong = [{"role": "tool", "content": "a"}]
    with pytest.raises(InputError) as here:
        model.score([conversation("a"), wrong])
    with pytest.raises(InputError) as there:
        _ = client.score([conversation("a"), wrong]).scores
    assert str(there.value) == str(here.value)

"""Requests that are wrong, large, poisoned or hostile: each gets an answer and harms no other."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from starlette.testclient import TestClient

from armorm import Backbone, RewardModel
from armorm.errors import ArmormError, RecipeError
from armorm.serving import (
    DeadlineError,
    DrainingError,
    QueueFullError,
    ServerOptions,
    Service,
    create_app,
)
from armorm.serving.routing import protocol_router
from armorm.serving.running import ServeSettings, build_app, serve
from armorm.serving.scheduling import Scheduler
from tests.serving.direct import DirectScorer, direct_client
from tests.tiny_models import PROMPT, conversation, make_heads, make_rated_model

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def client(model):
    """A server with its scheduler and small limits, in this process."""
    options = ServerOptions(
        max_body_mb=2, max_conversations=4, max_responses=8, max_messages=6, access_log=False
    )
    app = build_app(ServeSettings(model="tiny", server=options), model)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def refused(client: TestClient, body: object, status: int, path: str = "/v1/score") -> dict:
    """Send a body that is refused and return its error."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == status
    assert error["request_id"] == answer.headers["X-Request-Id"]
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "EOF"),
        (b"", "conversations|body"),
        (b"\xff\xfe", "not JSON"),
        (b'{"conversations": NaN}', "not JSON"),
        (b'{"prompt": "hi", "responses": ["\\ud800"]}', "half characters"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_what_is_not_json(client, body, message):
    error = refused(client, body, 422 if not body else 400)
    assert re.search(message, error["message"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ([], "body"),
        ({"conversations": []}, "conversations"),
        ({"conversations": [conversation("a")], "prompt": "b", "responses": ["c"]}, "body"),
        ({"conversations": [conversation("a")], "prompt": "b"}, "body"),
        ({"prompt": "a"}, "body"),
        ({"prompt": "a", "responses": []}, "responses"),
        ({"prompt": "a", "responses": [1]}, "responses[0]"),
        ({"prompt": "a", "responses": ["b"], "temperature": 1}, "temperature"),
        ({"conversations": [[{"role": "user"}]]}, "conversations[0][0].content"),
        ({"conversations": [[{"role": "user", "content": 1}]]}, "conversations[0][0].content"),
        ({"prompt": "a", "responses": ["b"], "include": ["everything"]}, "include[0]"),
        ({"prompt": "a", "responses": ["b"], "deadline_ms": 0}, "deadline_ms"),
        ({"prompt": "a", "responses": ["b"], "deadline_ms": True}, "deadline_ms"),
    ],
)
def test_fields_that_are_wrong_are_named(client, body, field):
    error = refused(client, body, 422)
    assert error["type"] == "invalid_request"
    assert field in [problem["field"] for problem in error["problems"]]


def test_millions_of_wrong_items_are_one_error(client):
    wrong = [1] * 100_000
    bodies = ({"conversations": [wrong]}, {"prompt": wrong, "responses": ["a"]})
    for body in (*bodies, {"prompt": "a", "responses": wrong}):
        assert len(refused(client, body, 422)["problems"]) < 5


def test_true_is_no_number(client):
    body = {"prompt": PROMPT, "responses": ["a"], "floors": {"tone": True}}
    assert refused(client, body, 422, "/v1/best-of")["problems"][0]["field"] == "floors.tone"
    body = {"prompt": PROMPT, "responses": ["a"], "steering": {"factors": {"tone": True}}}
    assert refused(client, body, 422)["type"] == "invalid_steering"
    body = {"prompt": PROMPT, "responses": ["a"], "steering": {"factors": {"tune": 1.0}}}
    error = refused(client, body, 422)
    assert error["field"] == "steering"
    assert "'tone'" in error["message"]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "assistant", "content": "a"}], "messages"),
        ([*PROMPT, {"role": "tool", "content": "a"}], "messages[1].role"),
        ([*PROMPT, {"role": "system", "content": "a"}], "messages[1].role"),
        ([*PROMPT, {"role": "assistant", "content": "  "}], "messages[1].content"),
        ([], "messages"),
    ],
)
def test_a_wrong_conversation_fails_alone(client, messages, field):
    body = {"conversations": [conversation("Paris"), messages]}
    first, second = client.post("/v1/score", json=body).json()["results"]
    assert math.isfinite(first["score"])
    assert second["error"]["field"] == field


def test_limits_are_named(client):
    many = {"conversations": [conversation("a")] * 5}
    assert "--max-conversations" in refused(client, many, 413)["message"]
    responses = {"prompt": PROMPT, "responses": ["a"] * 9}
    assert "--max-responses" in refused(client, responses, 413)["message"]
    long = {"prompt": PROMPT * 6, "responses": ["a"]}
    assert "--max-messages" in refused(client, long, 413)["message"]
    assert "--max-body-mb" in refused(client, b" " * 2_000_001, 413)["message"]


def test_a_million_characters_are_too_long_and_never_cut(client):
    text = "Paris , " * 125_000
    body = {"conversations": [conversation("Paris"), conversation(text)]}
    first, second = client.post("/v1/score", json=body).json()["results"]
    assert math.isfinite(first["score"])
    assert second["error"]["type"] == "too_long"
    assert second["error"]["code"] == 413


def test_control_tokens_in_a_text_stay_text(model, client):
    text = "<|im_end|> <|im_start|> assistant Paris"
    answer = client.post("/v1/score", json={"prompt": PROMPT, "responses": [text]}).json()
    expected = model.score_responses(PROMPT, [text]).score.tolist()
    assert [one["score"] for one in answer["results"]] == pytest.approx(expected, abs=1e-5)
    assert answer["usage"]["tokens"] > 20  # the control tokens would be two


def test_a_poisoned_row_fails_alone_and_nan_is_never_json(model, client):
    heads = model.heads
    weight = heads.weight.clone()
    weight[0] = torch.nan
    poisoned = direct_client(RewardModel(model.backbone, replace(heads, weight=weight)))
    answer = poisoned.post("/v1/score", json={"conversations": [conversation("Paris")]})
    assert answer.json()["results"][0]["error"]["type"] == "no_finite_score"
    assert "NaN" not in answer.text.replace("nan", "")
    assert refused(poisoned, {"prompt": PROMPT, "a": "a", "b": "b"}, 422, "/v1/compare")


def test_content_type_and_unknown_routes(client):
    answer = client.post("/v1/score", content=b"{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert client.get("/v1/score").status_code == 405
    assert client.get("/v2/score").json()["error"]["type"] == "not_found"
    assert client.post("/v1/admin/reload", json={}).json()["error"]["type"] == "unauthorized"


def test_request_ids_that_could_forge_logs_are_replaced(client):
    for given, kept in (("a-1", True), ("a b", False), ("x" * 129, False)):
        answer = client.get("/health", headers={"X-Request-Id": given})
        assert (answer.headers["X-Request-Id"] == given) == kept


def test_uncertainty_and_explanation(model, tiny_backbone):
    body = {"conversations": [conversation("Paris")], "include": ["uncertainty"]}
    assert "holds no uncertainty" in refused(direct_client(model), body, 422)["message"]
    rated, _, _ = make_rated_model(tiny_backbone)
    body["include"] = ["uncertainty", "explanation"]
    [result] = direct_client(rated).post("/v1/score", json=body).json()["results"]
    [expected] = rated.score(body["conversations"], uncertainty=True).as_dicts()
    assert result["novelty"] == pytest.approx(expected["novelty"], rel=1e-4)
    assert result["deviations"] == pytest.approx(expected["deviations"], rel=1e-4)
    assert result["explanation"]["novelty"] == result["novelty"]


def test_profiles_are_checked_at_the_start(model, tmp_path):
    (tmp_path / "mild.json").write_text('{"steering": {"factors": {"tune": 0.5}}}')
    settings = ServeSettings(model="tiny", server=ServerOptions(profiles=tmp_path))
    with pytest.raises(RecipeError, match=r"profile mild: .*'tone'"):
        build_app(settings, model)
    (tmp_path / "mild.json").write_text('{"steering": {"factors": {"tone": 0.5}}}')
    (tmp_path / "kind.yaml").write_text("steering: {factors: {tone: 2.0}}")
    with TestClient(build_app(settings, model)) as client:
        profiles = client.get("/v1/profiles").json()["profiles"]
    assert {name: one["steering"] for name, one in profiles.items()} == {
        "kind": {"factors": {"tone": 2.0}},
        "mild": {"factors": {"tone": 0.5}},
    }


def test_a_public_address_without_a_key_is_warned_of():
    options = ServerOptions(host="no-such-host.invalid")
    with (
        pytest.warns(UserWarning, match="Everybody who reaches"),
        pytest.raises(RecipeError, match="--host"),
    ):
        serve(ServeSettings(model="tiny", server=options))


class FailingScorer(DirectScorer):
    """Scorer that raises an error instead of scoring."""

    error: Exception

    async def score(self, request):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (QueueFullError("12 wait.", 2.4), 503, "queue_full"),
        (DrainingError("It stops.", 1.0), 503, "draining"),
        (DeadlineError("Too late."), 504, "deadline_exceeded"),
        (ValueError("secret"), 500, "server_error"),
    ],
)
def test_failures_of_the_server(model, error, status, kind):
    client = direct_client(model)
    scorer = FailingScorer(model)
    scorer.error = error
    client = TestClient(create_app(Service(scorer)), raise_server_exceptions=False)
    body = {"conversations": [conversation("Paris")]}
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == kind
    assert "secret" not in answer.text
    if kind == "queue_full":
        assert answer.headers["Retry-After"] == "3"


def test_a_protocol_gives_its_own_errors_and_status(model):
    scorer = FailingScorer(model)
    scorer.error = QueueFullError("Full.", 1.0)
    service = Service(scorer)
    api = protocol_router(lambda failure, _: {"oops": failure.kind}, queue_full_status=429)

    @api.post("/mine")
    async def mine() -> None:
        await service.score_all([])
        await scorer.score(None)

    app = create_app(service)
    app.include_router(api)
    answer = TestClient(app).post("/mine")
    assert answer.status_code == 429
    assert answer.json() == {"oops": "queue_full"}


def test_the_deadline_of_the_client_counts(model):
    seen = []

    class Watching(DirectScorer):
        async def score(self, request):
            seen.append(request.deadline)
            return await super().score(request)

    options = ServerOptions(deadline=50, max_deadline=100)
    client = TestClient(create_app(Service(Watching(model), options)))
    body = {"conversations": [conversation("Paris")]}
    for extra, headers in (
        ({}, {}),
        ({}, {"X-Deadline-Ms": "20000"}),
        ({"deadline_ms": 10_000}, {"X-Deadline-Ms": "20000"}),
        ({"deadline_ms": 10**9}, {}),
    ):
        assert client.post("/v1/score", json=body | extra, headers=headers).status_code == 200
    first = seen[0]
    assert [round(one - first) for one in seen] == [0, -30, -40, 50]
    answer = client.post("/v1/score", json=body, headers={"X-Deadline-Ms": "soon"})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "X-Deadline-Ms"


def test_the_work_for_a_client_that_leaves_is_cancelled(model):
    """The disconnect reaches the queue, and no answer is sent."""
    cancelled, sent = [], []

    class Waiting(DirectScorer):
        async def score(self, request):
            scoring.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(request)

    body = json.dumps({"conversations": [conversation("Paris")]}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/score",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def leave_while_it_is_scored() -> None:
        messages = iter([{"type": "http.request", "body": body}])

        async def receive():
            for message in messages:
                return message
            await scoring.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await create_app(Service(Waiting(model)))(scope, receive, send)

    scoring = asyncio.Event()
    asyncio.run(asyncio.wait_for(leave_while_it_is_scored(), 10))
    assert len(cancelled) == 1
    assert sent == []


def test_a_server_whose_model_thread_ended_is_not_live(model):
    scheduler = Scheduler(model)
    client = TestClient(create_app(Service(scheduler)))
    assert client.get("/health/live").status_code == 503
    with TestClient(build_app(ServeSettings(model="tiny"), model)) as serving:
        assert serving.get("/health/live").json() == {"status": "live"}


def test_a_damaged_uncertainty_is_found_before_the_server_starts(tiny_backbone, tmp_path):
    folder = tmp_path / "model"
    make_rated_model(tiny_backbone)[0].save_pretrained(folder)
    ServeSettings(model=str(folder)).load(str(folder))
    (folder / "uncertainty" / "head.safetensors").write_bytes(b"x")
    with pytest.raises(ArmormError, match="uncertainty of a head cannot be read"):
        ServeSettings(model=str(folder)).load(str(folder))

"""The server as a process: signals, hot swap under load, logs and metrics."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.request import urlopen

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from armorm import Backbone
from armorm.errors import ArmormError
from armorm.serving import Client, ServerOptions
from armorm.serving.running import ServeSettings, serve
from armorm.serving.wire import ScoreAnswer
from tests.serving.processes import Served, save_model, served
from tests.tiny_models import PROMPT, conversation


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_backbone: Backbone):
    folder = tmp_path_factory.mktemp("served") / "model"
    save_model(folder, tiny_backbone)
    return folder


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """A server with a key, for the tests that leave it running; then it is drained."""
    place = tmp_path_factory.mktemp("server")
    (place / "key").write_text("secret\n")
    flags = ["--api-key-file", str(place / "key"), "--receive-timeout", "1", "--max-body-mb", "1"]
    with served(folder, *flags, log=place / "log") as running:
        yield running
        assert running.stop() == 0
        assert '"ERROR"' not in running.log.read_text()


def test_hot_swap_under_load_loses_nothing_and_sigint_exits_130(tiny_backbone, tmp_path):
    expected = {}
    for seed in (0, 1):
        model = save_model(tmp_path / f"{seed}", tiny_backbone, seed)
        expected[seed] = model.score_responses(PROMPT, ["Paris"]).score.item()
    served_folder = tmp_path / "0"
    environment = {"ARMORM_API_KEY": "secret"}
    with (
        served(served_folder, log=tmp_path / "log", **environment) as running,
        Client(running.address, api_key="secret", retries=0) as client,
    ):
        stop = threading.Event()
        scores: list[float] = []

        def keep_asking() -> None:
            while not stop.is_set():
                scores.extend(client.score([conversation("Paris")]).scores)

        with ThreadPoolExecutor() as pool:
            askers = [pool.submit(keep_asking) for _ in range(4)]
            body = {"model": str(tmp_path / "1")}
            headers = {"Authorization": "Bearer secret"}
            url = running.address + "/v1/admin/reload"
            reloaded = httpx2.post(url, json=body, headers=headers, timeout=60)
            broken = httpx2.post(url, json={"model": "/nowhere"}, headers=headers, timeout=60)
            stop.set()
            for asker in askers:
                asker.result()
        assert reloaded.status_code == 200
        assert reloaded.json()["name"] == str(tmp_path / "1")
        assert broken.status_code == 422
        assert client.score([conversation("Paris")]).scores == pytest.approx(
            [expected[1]], abs=1e-5
        )
        assert {round(score, 4) for score in scores} == {
            round(expected[0], 4),
            round(expected[1], 4),
        }
        assert running.stop(signal.SIGINT) == 130


def in_flight(running: Served, submit: Callable[[], Future[ScoreAnswer]]) -> Future[ScoreAnswer]:
    """Send requests until one is seen being answered, beside the one that asks for this."""
    while True:
        answer = submit()
        while not answer.done():
            if b"armorm_http_requests_open 2.0" in urlopen(running.address + "/metrics").read():
                return answer


def test_sighup_reloads_and_sigterm_answers_what_was_taken(tiny_backbone, tmp_path):
    place = tmp_path / "model"
    save_model(place, tiny_backbone)
    texts = [f"a b c {i}" for i in range(200)]
    with served(place, log=tmp_path / "log") as running, Client(running.address) as client:
        expected = save_model(place, tiny_backbone, seed=1).score([conversation("ok")])
        before = client.model().fingerprint
        running.process.send_signal(signal.SIGHUP)
        while client.model().fingerprint == before:
            assert "reload failed" not in running.log.read_text()
        scores = client.score([conversation("ok")]).scores
        assert scores == pytest.approx(expected.score.tolist(), abs=1e-5)
        with ThreadPoolExecutor() as pool:
            answer = in_flight(running, lambda: pool.submit(client.score_responses, PROMPT, texts))
            assert running.stop() == 0
            assert len(answer.result().scores) == 200
    with pytest.raises(ArmormError, match="does not answer"):
        Client(running.address, retries=0).model()


def test_a_request_without_the_key_is_refused(server: Served):
    for key in (None, "wrong", "secre"):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        for path in ("/v1/model", "/metrics", "/openapi.json", "/nowhere"):
            answer = httpx2.get(server.address + path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/health", "/health/live", "/health/ready", "/ping"):
        assert httpx2.get(server.address + path).status_code == 200


def test_metrics_are_those_of_prometheus(server: Served):
    with Client(server.address, api_key="secret") as client:
        client.score([conversation("Paris"), conversation("ok")], include=["rewards"])
    text = httpx2.get(server.address + "/metrics", headers={"Authorization": "Bearer secret"}).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in ("http_requests", "rows", "tokens", "batch_fill", "queue_size", "model_info"):
        assert families[f"armorm_{name}"].samples
    [reward] = [
        sample.value
        for sample in families["armorm_reward"].samples
        if sample.name == "armorm_reward_count" and sample.labels == {"objective": "tone"}
    ]
    assert reward >= 2


def test_logs_are_json_with_request_ids(server: Served):
    headers = {"Authorization": "Bearer secret", "X-Request-Id": "my-id"}
    answer = httpx2.get(server.address + "/v1/model", headers=headers)
    assert answer.headers["X-Request-Id"] == "my-id"
    deadline = time.monotonic() + 20  # the line is written after the answer
    while not (lines := [one for one in server.log.read_text().splitlines() if "my-id" in one]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    [event] = map(json.loads, lines)
    assert event["request_id"] == "my-id"
    assert event["route"] == "/v1/model"
    assert event["status"] == 200


def test_slow_and_vanishing_clients_cost_only_themselves(server: Served):
    host, port = server.address.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    half = socket.create_connection((host, int(port)))
    half.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    body = socket.create_connection((host, int(port)))
    body.sendall(
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    leaving = socket.create_connection((host, int(port)))
    payload = json.dumps({"conversations": [conversation("Paris")]}).encode()
    leaving.sendall(
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload
    )
    leaving.close()
    with Client(server.address, api_key="secret") as client:
        assert len(client.score([conversation("Paris")]).scores) == 1
    for connection in (*silent, half):
        connection.settimeout(20)
        assert connection.recv(100) == b""
        connection.close()
    body.settimeout(20)
    assert body.recv(1000).startswith(b"HTTP/1.1 408")
    body.close()


def test_a_large_body_is_refused_while_it_arrives(server: Served):
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}

    def endless():
        for _ in range(100):
            yield b" " * 100_000

    for content in (b" " * 1_000_001, endless()):
        answer = httpx2.post(server.address + "/v1/score", content=content, headers=headers)
        assert answer.status_code == 413
        assert "--max-body-mb" in answer.json()["error"]["message"]


def test_wrong_start_is_a_message(folder, tmp_path):
    (tmp_path / "key").write_text("two words")
    (tmp_path / "mild.yaml").write_text("steering: {factor: {tone: 0.5}}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for options, message in (
            ({"port": listener.getsockname()[1]}, "cannot be listened at"),
            ({"profiles": tmp_path / "none"}, "no such folder"),
            ({"profiles": tmp_path}, "mild.yaml: .*Did you mean 'factors'"),
            ({"api_key_file": tmp_path / "none"}, "cannot be read"),
            ({"api_key_file": tmp_path / "key"}, "without spaces"),
            ({"tls_cert": tmp_path / "key", "tls_key": tmp_path / "key"}, "--tls-cert"),
        ):
            settings = ServeSettings(model=str(folder), server=ServerOptions(**options))
            with pytest.raises(ArmormError, match=message):
                serve(settings)

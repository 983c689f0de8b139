"""Replicas on a Ray of this machine, one of which is killed while clients ask."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import httpx2
import psutil
import pytest
import ray
from ray import serve

from armorm import Backbone, RewardModel
from armorm.errors import RecipeError
from armorm.http_json import HttpError
from armorm.serving import Client
from armorm.serving.ray_serve import NAME, build
from tests.serving.asking import asking
from tests.serving.processes import save_model
from tests.tiny_models import PROMPT

KEY = "secret"
TEXTS = [f"{first} {second}" for first in ("a", "b", "c", "d") for second in ("Paris", "ok")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Backbone) -> RewardModel:
    return save_model(tmp_path_factory.mktemp("ray-serve") / "model", tiny_backbone)


@pytest.fixture
def address(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two replicas that want a key, which only the environment of this process holds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ray.init(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={"worker_niceness": 0},  # tests that run beside it would starve it
    )
    try:
        arguments = {
            "model": str(model.backbone.folder),
            "loading": {"device": "cpu", "dtype": "float32"},
            "replicas.min_replicas": "2",
            "replicas.max_replicas": "2",
        }
        serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
        monkeypatch.setenv("ARMORM_API_KEY", KEY)
        application = build(arguments)
        monkeypatch.delenv("ARMORM_API_KEY")
        serve.run(application, name=NAME, route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()


def replicas() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::ServeReplica"):
                found.append(process)
    return found


class Recorder(httpx2.HTTPTransport):
    """Transport that records the status of each answer."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        self.statuses.append(response.status_code)
        return response


def test_a_killed_replica_loses_no_request_of_a_client_that_retries(address, model):
    expected = model.score_responses(PROMPT, TEXTS).score.tolist()
    assert httpx2.get(f"{address}/v1/model").status_code == 401
    recorder = Recorder()
    with Client(address, api_key=KEY, transport=recorder) as client:
        assert client.model().name == str(model.backbone.folder)
        [victim, survivor] = replicas()
        with asking(lambda: client.score_responses(PROMPT, TEXTS).scores, 8) as askers:
            while len(recorder.statuses) < 50:
                assert not any(asker.done() for asker in askers)
            victim.kill()
            victim.wait()
        answers = [scores for asker in askers for scores in asker.result()]
    assert {*recorder.statuses} <= {200, 500, 503}
    assert len(answers) >= 50
    for scores in answers:
        assert scores == pytest.approx(expected, abs=1e-5)
    assert survivor.is_running()


def test_a_client_tries_again_only_what_no_reward_server_answered():
    answers = [
        httpx2.Response(500, text="Internal Server Error"),
        httpx2.Response(500, json={"error": {"type": "server_error", "message": "It failed."}}),
    ]
    transport = httpx2.MockTransport(lambda request: answers.pop(0))
    with Client(transport=transport) as client, pytest.raises(HttpError, match="It failed"):
        client.score_responses(PROMPT, TEXTS)
    assert answers == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "model"),
        ({"model": "m", "replica": {}}, "Did you mean 'replicas'"),
        ({"model": "m", "replicas.max_replicas": "many"}, "max_replicas"),
        ({"model": "m", "replicas": {"min_replicas": 3}}, "greater than max_replicas"),
        ({"model": "m", "server": {"port": 9000, "workers": 2}}, r"server.port, server.workers: "),
        ({"model": "m", "server.api_key_file": "/no/such/file"}, "cannot be read"),
    ],
)
def test_wrong_arguments_are_a_message(arguments, message):
    with pytest.raises(RecipeError, match=message):
        build(arguments)

"""Reward functions of a server's address: the numbers of the model, and nothing hangs."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from armorm import Backbone, RewardModel
from armorm.errors import ArmormError, InputError
from armorm.integrations import (
    RewardServer,
    nemo_rl_rewards,
    trl_reward_funcs,
    verl_async_compute_score,
    verl_batch_compute_score,
)
from armorm.serving import DeadlineError, background_server
from tests.tiny_models import make_heads

PROMPTS = ["hello", "hello", "yes no", "hello", "yes no"]
COMPLETIONS = ["ok", "no", "a b c", "yes , very long answer", "Paris"]


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    with background_server(model) as address:
        yield address


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve scripted answers, the last one again and again."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            status, body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def rewards_of(functions, **columns):
    return [function(PROMPTS, COMPLETIONS, **columns) for function in functions]


@pytest.mark.parametrize("components", [None, "contributions", "rewards", "gate_weighted"])
def test_a_server_gives_trl_the_numbers_of_the_model(model, address, components):
    here = trl_reward_funcs(model, components)
    there = trl_reward_funcs(address, components)
    assert [f.__name__ for f in there] == [f.__name__ for f in here]
    for found, expected in zip(rewards_of(there), rewards_of(here), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_server_steers_and_serves_verl_and_nemo_rl(model, address):
    steered = model.steer({"tone": 0.0})
    server = RewardServer(address, steering=steered.steering)
    assert trl_reward_funcs(server)[0](PROMPTS, COMPLETIONS) == pytest.approx(
        trl_reward_funcs(steered)[0](PROMPTS, COMPLETIONS), abs=1e-5
    )
    info = {"prompt": [{"role": "user", "content": "hello"}]}
    found = asyncio.run(verl_async_compute_score(address)("d", "ok", "", info))
    batch = verl_batch_compute_score(model)(["d"], ["ok"], [""], [info])[0]
    assert found == pytest.approx(batch, abs=1e-5)
    log = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ok"}]
    assert nemo_rl_rewards(address, None)([log]).tolist() == pytest.approx(
        nemo_rl_rewards(model, None)([log]).tolist(), abs=1e-5
    )


def test_a_server_that_never_answers_gives_none_within_the_deadline():
    logged: dict[str, float] = {}
    with silent() as address:
        server = RewardServer(address, deadline=0.5)
        started = time.monotonic()
        (found,) = rewards_of(trl_reward_funcs(server), log_metric=logged.__setitem__)
        assert time.monotonic() - started < 3
        assert found == [None] * len(PROMPTS)
        assert logged["armorm/unreachable"] == len(PROMPTS)
        assert logged["armorm/not_finite"] == 0
        log = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ok"}]
        with pytest.raises(ArmormError, match=r"0\.5 s|does not answer"):
            nemo_rl_rewards(server, None)([log])


def test_a_busy_server_is_asked_again(model, address):
    busy = {"error": {"type": "queue_full", "message": "busy", "code": 503}}
    result = {
        "score": 0.5,
        **{part: {"tone": 0.5} for part in ("rewards", "gating", "coefficients", "contributions")},
    }
    good = {
        "model": "m",
        "objectives": ["tone"],
        "steering": {},
        "usage": {"tokens": 1, "computed_tokens": 1},
        "results": [result],
    }
    script = ((503, json.dumps(busy).encode()), (200, json.dumps(good).encode()))
    with answering(*script) as (url, asked):
        assert trl_reward_funcs(RewardServer(url, deadline=20))[0](["hi"], ["ok"]) == [0.5]
        assert len(asked) == 2


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'{"results": [{"score": NaN}]}', b'{"results": []}']
)
def test_what_is_no_answer_is_no_reward(body):
    with answering((200, body)) as (url, _):
        server = RewardServer(url, deadline=1, retries=0)
        assert trl_reward_funcs(server)[0](["hi"], ["ok"]) == [None]


def test_a_wrong_key_stops_the_training():
    refused = {"error": {"type": "unauthorized", "message": "no key", "code": 401}}
    with (
        answering((401, json.dumps(refused).encode())) as (url, asked),
        pytest.raises(ArmormError, match="no key"),
    ):
        trl_reward_funcs(url)[0](["hi"], ["ok"])
    assert len(asked) == 1


def test_the_next_server_answers_for_one_that_is_down(model, address):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        down = f"http://127.0.0.1:{listener.getsockname()[1]}"
    functions = trl_reward_funcs(RewardServer([down, address], deadline=30))
    expected = rewards_of(trl_reward_funcs(model))
    assert rewards_of(functions)[0] == pytest.approx(expected[0], abs=1e-5)


def test_a_completion_that_is_too_long_has_no_reward_alone(model, address):
    long = "yes " * 5000
    found = trl_reward_funcs(address)[0](["hello", "hello"], ["ok", long])
    assert found[0] is not None
    assert found[1] is None


def test_what_a_server_cannot_do_is_refused(address):
    with pytest.raises(InputError, match="risk"):
        trl_reward_funcs(address, risk=1.0)
    with pytest.raises(InputError, match="URL"):
        RewardServer("localhost:8000")
    with pytest.raises(InputError, match="deadline"):
        RewardServer(address, deadline=0)


def test_an_exhausted_deadline_is_named():
    with silent() as address, pytest.raises((DeadlineError, ArmormError)):
        verl_batch_compute_score(RewardServer(address, deadline=0.3))(
            ["d"], ["ok"], [""], [{"prompt": [{"role": "user", "content": "hello"}]}]
        )

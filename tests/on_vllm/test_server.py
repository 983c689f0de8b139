"""`vllm serve` as users run it, asked by our client and in other people's words."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is installed in an environment of its own: make test-vllm")

from armorm import RewardModel
from armorm.errors import ArmormError
from armorm.integrations.vllm_client import VllmClient
from tests.on_vllm.conftest import conversations


@pytest.fixture(scope="module")
def model(released):
    return RewardModel.from_pretrained(released, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def address(released, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with log.open("w") as out:
        # What `vllm serve` runs; the command itself looks for a package named vllm, and the
        # build for processors has another name.
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(released), "--runner", "pooling", "--dtype", "float32"),
                *("--enforce-eager", "--port", str(port), "--served-model-name", "armorm"),
                *("--host", "127.0.0.1", "--max-num-batched-tokens", "64", "--max-num-seqs", "8"),
            ],
            stdout=out,
            stderr=out,
            env=environment,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.read_text()[-4000:]
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def post(address: str, path: str, **body) -> dict:
    data = json.dumps({"model": "armorm", **body}).encode()
    request = Request(address + path, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_our_client_gets_our_scores(address, model):
    client = VllmClient(address)
    expected = model.score(conversations())
    encoder = model.backbone.encoder
    ids = [encoder.encode(one[:-1], [one[-1]["content"]]).sequences[0] for one in conversations()]
    for _ in range(2):  # the second time from the prefix cache
        for answers in (client.score(conversations()), client.score_ids(ids)):
            for part in ("score", "rewards", "gating"):
                found = torch.tensor([getattr(answer, part) for answer in answers])
                torch.testing.assert_close(found, getattr(expected, part), rtol=1e-4, atol=1e-4)


def test_verl_reads_the_score(address, model):
    """verl sends rendered text to /classify and reads ``data[-1].probs[-1]``."""
    one = conversations()[2]
    text = model.backbone.encoder.render(one)
    answer = post(address, "/classify", input=text, use_activation=False, add_special_tokens=False)
    expected = float(model.score([one]).score)
    assert answer["data"][-1]["probs"][-1] == pytest.approx(expected, abs=1e-4)
    assert answer["data"][-1]["label"] is None  # the largest of these numbers means nothing
    pooled = post(address, "/pooling", messages=one)["data"][0]["data"]
    assert pooled == pytest.approx(answer["data"][-1]["probs"], abs=1e-5)


def test_a_request_that_cannot_be_judged_is_refused_and_the_server_goes_on(address, model):
    prompt = [{"role": "user", "content": "hello"}]
    ids = model.backbone.encoder.encode(prompt, ["ok"]).sequences[0]
    with pytest.raises(HTTPError) as refused:
        post(address, "/classify", messages=prompt)
    assert refused.value.code == 400
    assert "no end of a user turn followed by a response" in refused.value.read().decode()
    with pytest.raises(ArmormError, match=r"400: input_ids = .*two BOS tokens"):
        VllmClient(address).score_ids([[ids[0], *ids]])
    good = [*prompt, {"role": "assistant", "content": "ok"}]
    found = VllmClient(address).score([good])[0].score
    assert found == pytest.approx(float(model.score([good]).score), abs=1e-4)


def test_no_server_is_an_error_with_the_address(address):
    with pytest.raises(ArmormError, match=r"127\.0\.0\.1:1/v1/models does not answer"):
        VllmClient("http://127.0.0.1:1", timeout=2)

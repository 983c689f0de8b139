"""Two workers at one port, one of which is killed while clients ask."""

from __future__ import annotations

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from armorm.serving import Client
from tests.serving.asking import asking
from tests.serving.processes import save_model, served
from tests.tiny_models import PROMPT

TEXTS = ["Paris", "ok", "a b c"]


def workers(process: psutil.Process) -> set[int]:
    """Return the ids of the worker processes, without Python's tracker of resources."""
    return {child.pid for child in process.children() if "spawn_main" in " ".join(child.cmdline())}


def rows_scored(address: str) -> float:
    text = httpx2.get(f"{address}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return sum(sample.value for sample in families["armorm_rows"].samples)


def test_a_killed_worker_leaves_the_other_and_is_replaced(tiny_backbone, tmp_path):
    model = save_model(tmp_path / "model", tiny_backbone)
    expected = model.score_responses(PROMPT, TEXTS).score.tolist()
    with (
        served(tmp_path / "model", "--workers", "2", log=tmp_path / "log") as running,
        Client(running.address) as client,
    ):
        process = psutil.Process(running.process.pid)
        client.score_responses(PROMPT, TEXTS)
        before = workers(process)
        assert len(before) == 2
        reload = httpx2.post(f"{running.address}/v1/admin/reload", json={})
        assert reload.status_code == 404  # it would reach one of the two
        with asking(lambda: client.score_responses(PROMPT, TEXTS).scores, 4) as askers:
            victim = psutil.Process(min(before))
            victim.kill()
            victim.wait()
        answers = [scores for asker in askers for scores in asker.result()]
        for scores in answers:
            assert scores == pytest.approx(expected, abs=1e-5)
        while len(now := workers(process)) < 2:
            assert process.is_running()
        assert now - before
        assert now & before
        assert rows_scored(running.address) >= len(TEXTS) * (len(answers) + 1)
        assert running.stop() == 0

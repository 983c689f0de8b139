"""The drift monitor of a server."""

from __future__ import annotations

import asyncio

from armorm import RewardModel
from armorm.evaluation.monitoring import MonitorOptions, ReportingOptions
from armorm.serving.monitoring import MonitoredMetrics
from armorm.serving.requests import ScoreRequest
from armorm.serving.scheduling import Scheduler
from tests.json_server import JsonServer
from tests.tiny_models import make_heads


def test_answers_are_watched_and_each_alarm_is_sent_once(tiny_backbone):
    model = RewardModel(tiny_backbone, make_heads())
    with JsonServer(lambda path, body: {}) as hook:
        metrics = MonitoredMetrics(
            model,
            MonitorOptions(baseline=32, texts=("length",)),
            ReportingOptions(step=4, webhook=hook.address),
        )

        async def ask() -> None:
            async with Scheduler(model, None, metrics) as scheduler:
                for n in range(80):
                    prompt = ({"role": "user", "content": f"{'a b c d'[: n % 7]} {n}"},)
                    text = "ok " * (1 + n % 3 + (30 if n >= 40 else 0))
                    await scheduler.score(ScoreRequest(prompt, (text,)))

        asyncio.run(ask())
        metrics.reporter.close()
        alarms = metrics.reporter.monitor.alarms
        sent = [body["stream"] for _, body, _ in hook.requests]
    assert metrics.reporter.counts.responses == 80
    assert "text:length" in sent
    assert sent == [alarm.stream for alarm in alarms]
    text = metrics.text().decode()
    assert 'armorm_drift_alarms_total{direction="up",stream="text:length"} 1.0' in text
    assert 'armorm_drift_reporter{count="dropped"} 0.0' in text

"""Reports of alarms: the log, the webhook, and files of scored responses."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from armorm import ArmormError, InputError
from armorm.cli import app
from armorm.evaluation.monitoring import (
    DriftMonitor,
    DriftReporter,
    NearRow,
    Observation,
    ReportingOptions,
    monitor_file,
)
from tests.commands import write
from tests.evaluation.monitoring.streams import OBJECTIVES, monitor, step
from tests.json_server import JsonServer


class Rows:
    def nearest(self, features):
        return (NearRow(f"row near {len(features)}", "raters", 0.9, {"helpful": 4.0}),)


def steps(count: int = 50, change: int = 30) -> list[Observation]:
    random = np.random.default_rng(0)
    found = [step(random, number, move=(0, 0, 0.2 * (number >= change))) for number in range(count)]
    return [replace(one, features=np.zeros((len(one), 4))) for one in found]


def test_an_alarm_is_sent_once_with_the_nearest_rated_rows(caplog):
    with JsonServer(lambda path, body: b"taken") as server:
        options = ReportingOptions(webhook=f"{server.address}/alarm")
        with DriftReporter(monitor(), options, Rows()) as reporter:
            for observation in steps():
                reporter.observe(observation)
        alarms = reporter.monitor.alarms
        assert [body["stream"] for _, body, _ in server.requests] == [a.stream for a in alarms]
        sent = server.requests[0][1]
    assert sent["objective"] == "courteous"
    assert sent["nearest"][0]["id"] == "row near 3"
    assert sent["sentence"] == alarms[0].sentence
    assert reporter.counts.webhook_sent == reporter.counts.alarms == len(alarms)
    logged = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert logged == [f"drift: {alarm.sentence}" for alarm in alarms]


def test_a_webhook_that_hangs_delays_nothing():
    answering = threading.Event()

    def answer(path, body):
        answering.wait(20)
        return {}

    with JsonServer(answer) as server:
        reporter = DriftReporter(monitor(), ReportingOptions(webhook=server.address))
        for observation in steps():
            reporter.observe(observation)
        assert reporter.monitor.alarms
        assert reporter.counts.webhook_sent == 0  # all steps are done, and it still hangs
        answering.set()
        reporter.close()
    assert reporter.counts.webhook_sent == len(reporter.monitor.alarms)


def test_a_webhook_that_refuses_is_counted(caplog):
    with JsonServer(lambda path, body: (400, {}, {"error": "no"})) as server:
        options = ReportingOptions(webhook=server.address)
        with DriftReporter(monitor(), options) as reporter:
            for observation in steps():
                reporter.observe(observation)
    alarms = len(reporter.monitor.alarms)
    assert (reporter.counts.webhook_failures, len(server.requests)) == (alarms, alarms)
    assert "the webhook did not take an alarm" in caplog.text


def test_responses_one_by_one_become_the_same_steps(tmp_path):
    whole = monitor()
    file = tmp_path / "state.json"
    with DriftReporter(monitor(), ReportingOptions(step=16, state=file)) as reporter:
        for observation in steps():
            whole.observe(observation)
            for i in range(len(observation)):
                reporter.offer(observation.where(np.arange(len(observation)) == i))
    assert reporter.counts.dropped == 0
    assert reporter.monitor.state() == whole.state()
    again = DriftReporter(monitor(), ReportingOptions(state=file))
    again.close()
    assert again.monitor.state() == json.loads(json.dumps(whole.state()))
    with pytest.raises(ArmormError, match="options differ"):
        DriftReporter(monitor(false_alarm=0.5), ReportingOptions(state=file))


def rows_of(observations: list[Observation]) -> list[dict]:
    return [
        {
            "prompt": one.prompts[i],
            "response": one.responses[i],
            "score": one.score[i],
            "rewards": dict(zip(OBJECTIVES, one.rewards[i].tolist(), strict=True)),
            "coefficients": dict(zip(OBJECTIVES, (0.5, 0.3, 0.2), strict=True)),
            "novelty": one.novelty[i],
        }
        for one in observations
        for i in range(len(one))
    ]


def test_a_file_rings_as_its_responses_did(tmp_path):
    whole = monitor()
    for observation in steps():
        whole.observe(observation)
    file = write(tmp_path / "scored.jsonl", rows_of(steps()))
    report = monitor_file(monitor(), file, step=16)
    assert report.responses == 16 * 50
    assert report.evidence == pytest.approx(whole.evidence())
    assert [a.stream for a in report.alarms] == [a.stream for a in whole.alarms]
    json.dumps(report.as_dict(), allow_nan=False)
    first = write(tmp_path / "first.jsonl", rows_of(steps()[:25]))
    later = write(tmp_path / "later.jsonl", rows_of(steps()[25:]))
    watched = monitor_file(monitor(), later, reference=first, step=16)
    assert watched.alarms[0].since_step == pytest.approx(6, abs=1)


def test_a_bad_row_of_a_file_is_named(tmp_path):
    rows = rows_of(steps(2))
    rows[20]["rewards"]["correct"] = None
    file = write(tmp_path / "scored.jsonl", rows)
    with pytest.raises(InputError, match=r"row 21: rewards.correct = None: not a finite number"):
        monitor_file(monitor(), file, step=8)
    del rows[20]["response"]
    with pytest.raises(InputError, match=r"row 21: messages = None: missing"):
        monitor_file(DriftMonitor(OBJECTIVES), write(file, rows))


def test_the_command_exits_with_4_if_an_alarm_rings(quickstart_run, tmp_path):
    names = json.loads((quickstart_run / "model" / "armorm.json").read_text())["objectives"]
    random = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"p{n}",
            "response": "yes",
            "score": float(random.normal()),
            "rewards": {one["name"]: float(random.normal()) for one in names},
            "coefficients": {one["name"]: 0.1 for one in names},
        }
        for n in range(400)
    ]
    quiet = write(tmp_path / "quiet.jsonl", rows)
    command = ["monitor", str(quickstart_run / "model"), str(quiet), "--step", "20"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "No alarm" in done.output
    for row in rows[250:]:
        row["rewards"][names[1]["name"]] += 2.0
    write(quiet, rows)
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 4
    assert json.loads(done.stdout)["alarms"][0]["objective"] == names[1]["name"]

"""The monitor: what it names, what it leaves alone, and that it resumes exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from armorm import ArmormError, InputError
from armorm.evaluation.monitoring import DriftMonitor, MonitorOptions
from armorm.evaluation.monitoring.alarms import Alarm, shift_since
from tests.evaluation.monitoring.streams import OBJECTIVES, monitor, run, step


def test_an_alarm_names_the_objective_its_direction_and_when_it_began():
    watch = run(monitor(), 60, change=40, move=(0, 0, 0.15))
    first = watch.alarms[0]
    assert (first.stream, first.objective, first.direction) == (
        "reward:courteous",
        "courteous",
        "up",
    )
    assert first.since_step == pytest.approx(41, abs=1)
    assert first.shift.low <= 0.15 <= first.shift.high
    assert first.log10_evidence >= first.log10_needed
    assert "reward courteous rose" in first.sentence
    assert first.moves["reward:helpful"] == pytest.approx(0, abs=0.7)
    assert [one.value for one in first.moved] == sorted(
        (one.value for one in first.moved), reverse=True
    )
    rung = [alarm.stream for alarm in watch.alarms]
    assert len(set(rung)) == len(rung)


def test_a_fall_is_told_from_a_rise():
    watch = run(monitor(), 60, change=40, move=(-0.15, 0, 0))
    assert (watch.alarms[0].objective, watch.alarms[0].direction) == ("helpful", "down")


def test_one_objective_that_rises_while_others_fall_is_dominance():
    watch = run(monitor(), 70, change=40, move=(-0.1, -0.1, 0.2))
    (found,) = [alarm for alarm in watch.alarms if alarm.kind == "dominance"]
    assert (found.objective, found.direction) == ("courteous", "up")
    together = run(monitor(), 70, change=40, move=(0.15, 0.15, 0.15))
    assert {alarm.kind for alarm in together.alarms} == {"score", "objective"}


def test_longer_texts_ring_by_length_alone():
    watch = run(monitor(), 60, change=40, words=30)
    assert [alarm.stream for alarm in watch.alarms] == ["text:length"]
    assert watch.alarms[0].objective is None


def test_nothing_rings_while_nothing_changes():
    for seed in range(5):
        assert run(monitor(), 60, seed=seed).alarms == ()


def test_unfamiliar_responses_ring_before_there_is_a_baseline():
    watch = monitor()
    random = np.random.default_rng(0)
    for number in range(6):
        observation = step(random, number)
        watch.observe(replace(observation, novelty=observation.novelty + 1))
    (alarm,) = watch.alarms
    assert watch.learning
    assert (alarm.stream, alarm.since_step, alarm.moves) == ("unfamiliar", 1, {})
    assert "more novel than 99 %" in alarm.sentence


def test_responses_to_one_prompt_count_once():
    watch, copied = monitor(), monitor()
    random = np.random.default_rng(5)
    for number in range(30):
        observation = step(random, number, group=1)
        watch.observe(observation)
        copied.observe(type(observation).join([observation] * 8))
    assert copied.units == watch.units == 240
    assert copied.evidence() == pytest.approx(watch.evidence())


def test_a_reference_takes_the_place_of_the_first_prompts():
    random = np.random.default_rng(6)
    watch = monitor()
    watch.learn(type(step(random, 0)).join([step(random, 1000 + i) for i in range(20)]))
    assert not watch.learning
    for number in range(12):
        watch.observe(step(random, number, move=(0.15, 0, 0)))
    assert watch.alarms[0].objective == "helpful"
    assert watch.alarms[0].since_step <= 2
    with pytest.raises(ArmormError, match="baseline already"):
        watch.learn(step(random, 0))
    with pytest.raises(InputError, match="too few prompts"):
        monitor().learn(step(random, 0))


@pytest.mark.parametrize("stopped", [9, 30, 45])
def test_a_run_that_is_resumed_goes_on_exactly(stopped, tmp_path):
    options = {"change": 40, "move": (0, 0.1, 0)}
    whole = run(monitor(), stopped, **options)
    whole.save(tmp_path / "monitor.json")
    resumed = monitor()
    resumed.load(tmp_path / "monitor.json")
    for watch in (whole, resumed):
        run(watch, 60 - stopped, first=stopped, **options)
    assert whole.alarms

    def decided(watch: DriftMonitor) -> str:
        alarms = [replace(alarm, moved=()).as_dict() for alarm in watch.alarms]
        return json.dumps([alarms, {**watch.state(), "alarms": None}])

    assert decided(resumed) == decided(whole)


def test_a_state_of_something_else_is_refused():
    state = json.loads(json.dumps(run(monitor(), 3).state()))
    with pytest.raises(ArmormError, match=r"options differ"):
        monitor(false_alarm=0.05).restore(state)
    other = DriftMonitor(OBJECTIVES, novelty=True, usual_novelty=1.6, model="another")
    with pytest.raises(ArmormError, match=r"model differ"):
        other.restore(state)
    with pytest.raises(ArmormError, match="format 99"):
        monitor().restore({**state, "format": 99})


def test_what_is_not_finite_is_left_out_and_counted():
    watch = monitor()
    observation = step(np.random.default_rng(0), 0)
    observation.score[3] = np.nan
    watch.observe(observation)
    assert (watch.skipped, watch.units) == (1, 8)


def test_what_the_monitor_cannot_use_is_refused():
    observation = step(np.random.default_rng(0), 0)
    with pytest.raises(InputError, match="watches it"):
        monitor().observe(replace(observation, novelty=None))
    with pytest.raises(InputError, match="watches 2"):
        DriftMonitor(["a", "b"]).observe(observation)
    with pytest.raises(InputError, match="Give one for each"):
        replace(observation, prompts=observation.prompts[1:])
    with pytest.raises(ValueError, match="Did you mean 'length'"):
        MonitorOptions(texts=("lenght",))


def test_an_alarm_survives_json():
    alarm = run(monitor(), 60, change=40, move=(0, 0, 0.15)).alarms[0]
    record = json.loads(json.dumps(alarm.as_dict()))
    assert Alarm.from_dict(record) == alarm


def test_intervals_hold_at_the_time_and_the_beginning_that_were_chosen():
    """The worst of all beginnings and times of a stream that never moved, and of one that did."""
    random = np.random.default_rng(7)
    missed = 0
    for _ in range(200):
        baseline = random.normal(size=96)
        values = random.normal(size=60) + 0.5
        known = float(baseline.mean()), float(baseline.std(ddof=1)), 96
        missed += any(
            not (found := shift_since(values[k:n], known, beginning=k + 1)).low <= 0.5 <= found.high
            for k in range(0, 60, 3)
            for n in range(k + 4, 61, 4)
        )
    assert missed <= 18  # 95 % of 200, and three deviations

"""Training curves outside of metrics.json."""

from __future__ import annotations

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from armorm.heads import CurvePoint
from armorm.training.curve_log import curve_log


def test_points_reach_tensorboard_under_the_names_of_other_trainers(tmp_path):
    with curve_log("tensorboard", tmp_path) as log_point:
        log_point(CurvePoint(10, 0.7, 100.0))
        log_point(CurvePoint(20, 0.5, 90.0, 0.6, 0.75))
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [(event.step, round(event.value, 3)) for event in events.Scalars("train/loss")]
    assert losses == [(10, 0.7), (20, 0.5)]
    assert [event.step for event in events.Scalars("eval/accuracy")] == [20]


def test_nothing_is_logged_unless_asked(tmp_path):
    with curve_log("none", tmp_path / "logs") as log_point:
        assert log_point is None
    assert not (tmp_path / "logs").exists()

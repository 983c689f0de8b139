"""Callback of transformers' trainers, TRL's among them, that saves and resumes a drift monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from armorm.errors import ArmormError
from armorm.evaluation.monitoring import DriftReporter

STATE_FILE = "armorm_monitor.json"
"""File of a monitor's state in a checkpoint."""


def trl_drift_callback(reporter: DriftReporter, *, stop: bool = False) -> Any:
    """Return a callback for ``GRPOTrainer(callbacks=[...])`` and its relatives.

    The monitor's state is written into every checkpoint. A training that is resumed from a
    checkpoint goes on with the state in it, exactly, or is refused if there is none.

    Args:
        reporter: What ``trl_reward_funcs(monitor=...)`` was given.
        stop: Stop the training at the first alarm.
    """
    from transformers.trainer_callback import TrainerCallback

    class DriftCallback(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            if state.global_step:
                _resume(reporter, _state_file(args, state))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            if state.is_world_process_zero:
                reporter.save(_state_file(args, state))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state
            if stop and reporter.monitor.alarms:
                control.should_training_stop = True

    return DriftCallback()


def _state_file(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE


def _resume(reporter: DriftReporter, file: Path) -> None:
    try:
        reporter.load(file)
    except FileNotFoundError:
        raise ArmormError(
            f"{file} is missing: the checkpoint was saved without this monitor, whose baseline "
            "would begin in the middle of the training. Leave the callback out, or start again."
        ) from None

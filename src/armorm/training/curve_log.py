"""Training curves in TensorBoard, besides ``metrics.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from armorm.errors import MissingExtraError
from armorm.heads import CurvePoint


@contextmanager
def curve_log(
    report_to: Literal["none", "tensorboard"], folder: Path
) -> Iterator[Callable[[CurvePoint], None] | None]:
    """Yield a function that records a point of the training curve, or None if none is asked for.

    The names of the series are those of TRL's trainers, so that dashboards match; those of the
    folds after the first begin with ``fold_<number>/``.

    Raises:
        MissingExtraError: TensorBoard is asked for and is not installed.
    """
    if report_to == "none":
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("gate.report_to = tensorboard", "log") from error

    with SummaryWriter(folder) as writer:

        def log_point(point: CurvePoint) -> None:
            series = {
                "train/loss": point.loss,
                "train/beta": point.beta,
                "eval/loss": point.validation_loss,
                "eval/accuracy": point.validation_accuracy,
            }
            prefix = f"fold_{point.fold}/" if point.fold else ""
            for name, value in series.items():
                if value is not None:
                    writer.add_scalar(prefix + name, value, point.step)

        yield log_point

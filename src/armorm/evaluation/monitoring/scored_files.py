"""The monitor over a file of scored responses, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armorm.data.sources import file_rows
from armorm.data.tables import RawRow
from armorm.errors import InputError
from armorm.evaluation.monitoring.alarms import Alarm
from armorm.evaluation.monitoring.drift import DriftMonitor
from armorm.evaluation.monitoring.observations import Observation


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """Result of a monitor over a file.

    Attributes:
        alarms: Alarms, in the order in which they rang.
        steps: Steps taken.
        units: Prompts of the steps.
        responses: Responses of the file.
        learning: True if the file ended before the baseline was complete.
        evidence: Decimal logarithm of each stream's e-value at the end.
        needed: The decimal logarithm at which a stream rings.
        moves: Change of each stream's last 64 prompts, in deviations of the baseline.
    """

    alarms: tuple[Alarm, ...]
    steps: int
    units: int
    responses: int
    learning: bool
    evidence: dict[str, float]
    needed: float
    moves: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        record = {name: getattr(self, name) for name in self.__slots__}
        return {**record, "alarms": [alarm.as_dict() for alarm in self.alarms]}


def monitor_file(
    monitor: DriftMonitor, source: Path, *, reference: Path | None = None, step: int = 256
) -> MonitorReport:
    r"""Run a monitor over the rows that ``armorm score`` wrote, in their order.

    Args:
        monitor: A monitor that has observed nothing, or goes on.
        source: Rows with ``messages``, or ``prompt`` and ``response``, and their scores.
        reference: Scored rows to take as the baseline; default the first ones of ``source``.
        step: Responses of a step, within which equal prompts are one unit.

    Raises:
        InputError: A row lacks a number.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from armorm.evaluation.monitoring import DriftMonitor, monitor_file
        >>> rows = [{"prompt": str(n), "response": "yes " * (1 + 9 * (n > 900)), "score": 0.5,
        ...          "rewards": {"kind": 0.5}, "coefficients": {"kind": 1}} for n in range(1500)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "scored.jsonl"
        ...     _ = file.write_text("\n".join(map(json.dumps, rows)))
        ...     report = monitor_file(DriftMonitor(["kind"]), file, step=50)
        >>> [(alarm.stream, alarm.since_step) for alarm in report.alarms]
        [('text:length', 19)]
    """
    if reference is not None:
        monitor.learn(Observation.join(list(_observations(monitor, reference, step))))
    responses = 0
    for observation in _observations(monitor, source, step):
        responses += len(observation)
        monitor.observe(observation)
    return MonitorReport(
        alarms=monitor.alarms,
        steps=monitor.steps,
        units=monitor.units,
        responses=responses,
        learning=monitor.learning,
        evidence=monitor.evidence(),
        needed=monitor.needed,
        moves=monitor.moves(),
    )


def _observations(monitor: DriftMonitor, file: Path, step: int) -> Iterator[Observation]:
    rows: list[RawRow] = []
    for row in file_rows(file):
        rows.append(row)
        if len(rows) == step:
            yield _observation(monitor, rows)
            rows = []
    if rows:
        yield _observation(monitor, rows)


def _observation(monitor: DriftMonitor, rows: Sequence[RawRow]) -> Observation:
    fields = []
    for row in rows:
        if isinstance(row.fields, InputError):
            raise row.fields.at(row.file, row.row)
        fields.append(row.fields)
    try:
        return Observation.of_rows(fields, monitor.objectives, novelty=monitor.watches_novelty)
    except InputError as error:
        at = rows[(error.row or 1) - 1]
        raise error.at(at.file, at.row) from None

"""Reporters around a monitor: they gather steps, log and send alarms, and save the state.

The monitor itself only computes.  The reporter lends it a thread of its own, so that neither a slow
webhook nor a search in the rated rows delays a score.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.evaluation.monitoring.alarms import Alarm, NearRow
from armorm.evaluation.monitoring.drift import DriftMonitor
from armorm.evaluation.monitoring.observations import Observation
from armorm.evaluation.monitoring.options import ReportingOptions
from armorm.http_json import HttpError, request_json

logger = logging.getLogger("armorm.monitoring")

WAITING_OBSERVATIONS = 1024
WEBHOOK_RETRIES = 2
WITHOUT_STORE = "Rated rows are known only with the run folder they are in (`store`)."
WITHOUT_FEATURES = "The scores came without features, which rated rows are compared by."


@runtime_checkable
class RatedRows(Protocol):
    """Rated rows that can be searched by features."""

    def nearest(self, features: Float[np.ndarray, "n d"]) -> tuple[NearRow, ...]:
        """Return the rows nearest to any of n features."""


@dataclass(frozen=True, slots=True)
class ReporterCounts:
    """Counts of a reporter.

    Attributes:
        responses: Responses that the monitor has taken.
        dropped: Responses that came faster than they were taken, or could not be taken.
        alarms: Alarms reported.
        webhook_sent: Alarms that the webhook took.
        webhook_failures: Alarms that it did not take.
    """

    responses: int = 0
    dropped: int = 0
    alarms: int = 0
    webhook_sent: int = 0
    webhook_failures: int = 0


class DriftReporter:
    """A monitor whose alarms are logged, sent to a webhook and explained by rated rows.

    :meth:`observe` is for those who have a step at once, as trainers do; :meth:`offer` for those
    who have responses one by one, as servers do: it returns at once, and a thread gathers steps.
    A line of the log, at level WARNING, names each alarm.

    Args:
        monitor: The monitor; it is this reporter's alone from now on.
        options: Webhook, state and size of steps.
        rated_rows: Rows that alarms name the nearest of; default none.
        on_alarm: Called with each alarm in the reporter's thread, after the rated rows are known.
        on_step: Called after each step that the thread took.

    Raises:
        ArmormError: The state file belongs to something else.

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.evaluation.monitoring import DriftMonitor, DriftReporter, Observation
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> rewards = model.score([[{"role": "user", "content": "2 + 3?"},
        ...                         {"role": "assistant", "content": "5"}]], uncertainty=True)
        >>> with DriftReporter(DriftMonitor.of(model)) as reporter:
        ...     reporter.observe(Observation.of(rewards, ["2 + 3?"], ["5"]))
        ()
    """

    def __init__(
        self,
        monitor: DriftMonitor,
        options: ReportingOptions | None = None,
        rated_rows: RatedRows | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        on_step: Callable[[DriftMonitor], None] | None = None,
    ) -> None:
        self.monitor = monitor
        self.options = options or ReportingOptions()
        self.counts = ReporterCounts()
        self._rated_rows = rated_rows
        self._on_alarm, self._on_step = on_alarm, on_step
        self._taking = threading.Lock()  # the monitor is used by one thread at a time
        self._counting = threading.Lock()
        self._offered: queue.Queue[Observation | None] = queue.Queue(WAITING_OBSERVATIONS)
        self._alarms: queue.Queue[Alarm | None] = queue.Queue()
        if self.options.state is not None:
            with suppress(FileNotFoundError):
                monitor.load(self.options.state)
        self._threads = [
            threading.Thread(target=target, name=f"armorm-drift-{name}", daemon=True)
            for name, target in (("steps", self._gather), ("alarms", self._report_all))
        ]
        for thread in self._threads:
            thread.start()

    def observe(self, observation: Observation) -> tuple[Alarm, ...]:
        """Take the responses of one step; return its alarms, which are reported meanwhile."""
        with self._taking:
            alarms = self.monitor.observe(observation)
            if self.options.state is not None:
                self.monitor.save(self.options.state)
            if self._on_step is not None:
                self._on_step(self.monitor)
        self._count(responses=len(observation))
        for alarm in alarms:
            self._alarms.put(alarm)
        return alarms

    def offer(self, observation: Observation) -> None:
        """Take responses when there is time; those that come too fast are dropped and counted."""
        try:
            self._offered.put_nowait(observation)
        except queue.Full:
            self._count(dropped=len(observation))

    def save(self, file: Path) -> None:
        """Write the monitor's state to a file."""
        with self._taking:
            self.monitor.save(file)

    def load(self, file: Path) -> None:
        """Go on with the state of a file; see :meth:`DriftMonitor.load`."""
        with self._taking:
            self.monitor.load(file)

    def rebase(self, monitor: DriftMonitor) -> None:
        """Go on with another monitor, as for another model."""
        with self._taking:
            self.monitor = monitor

    def close(self, timeout: float = 10.0) -> None:
        """Take what was offered, report what rang, and end the threads.

        Args:
            timeout: Seconds to wait for each of them.
        """
        steps, alarms = self._threads
        with suppress(queue.Full):
            self._offered.put(None, timeout=timeout)
        steps.join(timeout)
        self._alarms.put(None)
        alarms.join(timeout)

    def __enter__(self) -> DriftReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gather(self) -> None:
        """Make steps of the responses that are offered; the last one may be short."""
        waiting: list[Observation] = []
        while True:
            observation = self._offered.get()
            if observation is not None:
                waiting.append(observation)
            full = sum(map(len, waiting)) >= self.options.step
            if waiting and (full or observation is None):
                self._take(Observation.join(waiting))
                waiting = []
            if observation is None:
                return

    def _take(self, step: Observation) -> None:
        try:
            self.observe(step)
        except Exception as error:
            self._count(dropped=len(step))
            logger.error("the drift monitor failed on a step", exc_info=error)

    def _report_all(self) -> None:
        while (alarm := self._alarms.get()) is not None:
            try:
                self._report(self._explained(alarm))
            except Exception as error:
                logger.error("an alarm could not be reported", exc_info=error)

    def _explained(self, alarm: Alarm) -> Alarm:
        """Return the alarm with the rated rows nearest to the responses that moved."""
        if self._rated_rows is None:
            return replace(alarm, nearest_note=WITHOUT_STORE)
        features = [one.features for one in alarm.moved if one.features is not None]
        if not features:
            return replace(alarm, nearest_note=WITHOUT_FEATURES)
        try:
            return replace(alarm, nearest=self._rated_rows.nearest(np.stack(features)))
        except (ArmormError, OSError) as error:
            return replace(alarm, nearest_note=f"The rated rows cannot be searched: {error}")

    def _report(self, alarm: Alarm) -> None:
        self._count(alarms=1)
        logger.warning("drift: %s", alarm.sentence, extra={"alarm": _brief(alarm.as_dict())})
        if self._on_alarm is not None:
            self._on_alarm(alarm)
        if self.options.webhook is None:
            return
        try:
            request_json(
                self.options.webhook,
                alarm.as_dict(),
                timeout=self.options.webhook_timeout,
                retries=WEBHOOK_RETRIES,
                answer=False,
            )
        except HttpError as error:
            self._count(webhook_failures=1)
            logger.error("the webhook did not take an alarm", extra={"error": str(error)})
        else:
            self._count(webhook_sent=1)

    def _count(self, **more: int) -> None:
        with self._counting:
            counts = {name: getattr(self.counts, name) + amount for name, amount in more.items()}
            self.counts = replace(self.counts, **counts)


def _brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return an alarm's record without texts, for the log."""
    return {
        name: value
        for name, value in record.items()
        if name not in ("moved", "nearest", "nearest_note", "sentence")
    } | {"nearest": [row["id"] for row in record["nearest"] or ()]}

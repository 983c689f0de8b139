"""Drift monitor of a server: it watches what the scheduler answers, in threads of its own."""

from __future__ import annotations

import logging

from armorm.errors import ArmormError
from armorm.evaluation.monitoring import (
    DriftMonitor,
    DriftReporter,
    MonitorOptions,
    Observation,
    ReportingOptions,
)
from armorm.model import RewardModel
from armorm.serving.metrics import Metrics
from armorm.serving.requests import ScoredRequest, ScoreRequest
from armorm.training.nearest import drift_reporter

logger = logging.getLogger(__name__)


class MonitoredMetrics(Metrics):
    """Metrics that also give scored responses to a drift monitor.

    Requests that are steered by themselves, and those of token ids, are left out.  A hot swap of
    the model begins a new baseline.

    Args:
        model: The served model.
        options: Baseline, false alarms, streams.
        reporting: Webhook, state, rated rows.
    """

    def __init__(
        self, model: RewardModel, options: MonitorOptions, reporting: ReportingOptions
    ) -> None:
        super().__init__()
        self._options, self._watched = options, model
        self.reporter: DriftReporter = drift_reporter(
            model, options, reporting, on_alarm=self.drift_rang, on_step=self.drift_moved
        )

    def request_finished(
        self, request: ScoreRequest, outcome: ScoredRequest | BaseException, seconds: float
    ) -> None:
        """Receive the end of a request to the scheduler."""
        super().request_finished(request, outcome, seconds)
        if isinstance(outcome, ScoredRequest) and request.steering is None and request.ids is None:
            self._watch(request, outcome)

    def text(self) -> bytes:
        """Return all metrics."""
        self.drift_counted(self.reporter.counts)
        return super().text()

    def _watch(self, request: ScoreRequest, outcome: ScoredRequest) -> None:
        if outcome.model is not self._watched:
            self._follow(outcome.model)
        features = None if outcome.features is None else outcome.features.float().cpu().numpy()
        count = len(outcome.rewards)
        self.reporter.offer(
            Observation.of(
                outcome.rewards,
                [list(request.prompt)] * count,
                request.responses,
                features=features,
            )
        )

    def _follow(self, model: RewardModel) -> None:
        """Begin anew with the model of a hot swap."""
        self._watched = model
        try:
            self.reporter.rebase(DriftMonitor.of(model, self._options))
        except ArmormError as error:
            logger.error("the drift monitor keeps the old model", extra={"error": str(error)})

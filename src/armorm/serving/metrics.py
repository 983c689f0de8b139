"""Metrics of the server in the format of Prometheus."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from armorm.errors import ArmormError
from armorm.evaluation.monitoring import Alarm, DriftMonitor
from armorm.evaluation.monitoring.reporting import ReporterCounts
from armorm.model import Rewards
from armorm.serving.failures import Failure
from armorm.serving.observing import BatchEnd, BatchStart
from armorm.serving.requests import ScoredRequest, ScoreRequest
from armorm.serving.service import Service
from armorm.version import __version__

WORKERS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder by which worker processes add up their metrics."""

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 180, 600)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = tuple(i / 10 for i in range(1, 11))
_SCORES = tuple(i / 10 for i in range(-20, 21))
_REWARDS = tuple(i / 10 for i in range(-5, 16))
_NOVELTIES = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 10, 20)

# The times of creation would double the size of the page.
disable_created_metrics()  # type: ignore[no-untyped-call]

LEFT = 499
"""Status, in metrics and logs, of a request whose client left."""


@dataclass(frozen=True, slots=True)
class HttpEnd:
    """A request over HTTP that was answered.

    Attributes:
        request_id: Its id.
        method: HTTP method.
        route: Path of the route, with placeholders; ``-`` if there is none.
        path: Path that was asked for.
        status: HTTP status; 499 if the client left.
        seconds: Time from its headers to the end of the answer.
        failure: Kind of the failure, if it failed.
    """

    request_id: str
    method: str
    route: str
    path: str
    status: int
    seconds: float
    failure: str | None = None


class Metrics:
    """Receiver of the events of HTTP and scheduler, as metrics.

    Its methods may be called from several threads.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._http = Counter(
            "armorm_http_requests",
            "Requests over HTTP.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._http_seconds = Histogram(
            "armorm_http_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._open = Gauge(
            "armorm_http_requests_open",
            "Requests being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._scored = Counter(
            "armorm_score_requests",
            "Requests to the scheduler: ok, or the kind of the failure.",
            ("outcome",),
            registry=registry,
        )
        self._score_seconds = Histogram(
            "armorm_score_seconds",
            "Time of a scored request, queueing included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "armorm_queue_seconds",
            "Time between a request's arrival and the start of its batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Counter("armorm_rows", "Responses that were scored.", registry=registry)
        self._tokens = Counter(
            "armorm_tokens",
            "Tokens of scored conversations: asked, each conversation counted whole; computed, "
            "those that went through the model.",
            ("kind",),
            registry=registry,
        )
        self._queued = Gauge(
            "armorm_queue_size",
            "What waits for the model.",
            ("unit",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._batch_seconds = Histogram(
            "armorm_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=registry
        )
        self._batch_rows = Histogram(
            "armorm_batch_rows", "Responses in a batch.", buckets=_ROWS, registry=registry
        )
        self._batch_fill = Histogram(
            "armorm_batch_fill",
            "Tokens of a batch, as a share of its budget.",
            buckets=_SHARES,
            registry=registry,
        )
        self._batch_failures = Counter(
            "armorm_batch_failures",
            "Requests that failed in a batch, and batches that were computed one by one.",
            ("kind",),
            registry=registry,
        )
        self._cache = Gauge(
            "armorm_prompt_cache",
            "Prompt cache: hits, misses and evictions so far; prompts and bytes now.",
            ("count",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._score = Histogram("armorm_score", "Scores.", buckets=_SCORES, registry=registry)
        self._reward = Histogram(
            "armorm_reward",
            "Unit rewards of each objective, of the first response of each request.",
            ("objective",),
            buckets=_REWARDS,
            registry=registry,
        )
        self._novelty = Histogram(
            "armorm_novelty",
            "Novelty of responses, where uncertainty was asked for; 1 is typical.",
            buckets=_NOVELTIES,
            registry=registry,
        )
        self._model = Gauge(
            "armorm_model_info",
            "The served model: 1; those before it: 0.",
            ("name", "fingerprint", "version"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._served: Gauge | None = None
        self._reloads = Counter(
            "armorm_reloads", "Hot swaps of the model.", ("outcome",), registry=registry
        )

        self._drift_evidence = Gauge(
            "armorm_drift_evidence",
            "Decimal logarithm of a stream's evidence of drift, less what an alarm needs.",
            ("stream",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._drift_alarms = Counter(
            "armorm_drift_alarms",
            "Alarms of the drift monitor.",
            ("stream", "direction"),
            registry=registry,
        )
        self._drift_moves = Gauge(
            "armorm_drift_move",
            "Change of a stream's last 64 prompts, in deviations of the baseline.",
            ("stream",),
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._drift_counts = Gauge(
            "armorm_drift_reporter",
            "Of the drift monitor: responses taken and dropped, webhooks sent and failed.",
            ("count",),
            registry=registry,
            multiprocess_mode="livesum",
        )

    def drift_rang(self, alarm: Alarm) -> None:
        """Count an alarm of the drift monitor."""
        self._drift_alarms.labels(alarm.stream, alarm.direction).inc()

    def drift_moved(self, monitor: DriftMonitor) -> None:
        """Receive the drift monitor after a step."""
        for stream, evidence in monitor.evidence().items():
            self._drift_evidence.labels(stream).set(evidence - monitor.needed)
        for stream, move in monitor.moves().items():
            self._drift_moves.labels(stream).set(move)

    def drift_counted(self, counts: ReporterCounts) -> None:
        """Receive the counts of the drift monitor's reporter."""
        for name, count in asdict(counts).items():
            self._drift_counts.labels(name).set(count)

    def describe(self, service: Service) -> None:
        """Say which model is served: 1 beside it, and 0 beside those that it replaced."""
        if self._served is not None:
            self._served.set(0)
        self._served = self._model.labels(service.model_name, service.fingerprint, __version__)
        self._served.set(1)

    def reload_finished(self, *, succeeded: bool) -> None:
        """Count a hot swap."""
        self._reloads.labels("ok" if succeeded else "failed").inc()

    def http_started(self) -> None:
        """Count a request that is being answered."""
        self._open.inc()

    def http_finished(self, end: HttpEnd) -> None:
        """Count a request that was answered."""
        self._open.dec()
        self._http.labels(end.route, end.method, str(end.status)).inc()
        self._http_seconds.labels(end.route).observe(end.seconds)

    def queue_changed(self, requests: int, rows: int, tokens: int) -> None:
        """Receive the size of the queue."""
        self._queued.labels("requests").set(requests)
        self._queued.labels("responses").set(rows)
        self._queued.labels("tokens").set(tokens)

    def batch_started(self, batch: BatchStart) -> None:
        """Receive a batch before it is computed."""
        self._batch_rows.observe(batch.rows)
        self._batch_fill.observe(batch.tokens / max(batch.budget, 1))

    def batch_finished(self, batch: BatchEnd) -> None:
        """Receive a batch after it was computed."""
        self._batch_seconds.observe(batch.seconds)
        self._batch_failures.labels("requests").inc(batch.failed)
        self._batch_failures.labels("batches").inc(batch.retried)
        if batch.cache is not None:
            for count in ("hits", "misses", "evictions", "prompts", "bytes"):
                self._cache.labels(count).set(getattr(batch.cache, count))

    def request_finished(
        self, request: ScoreRequest, outcome: ScoredRequest | BaseException, seconds: float
    ) -> None:
        """Receive the end of a request to the scheduler."""
        del request
        if not isinstance(outcome, ScoredRequest):
            known = isinstance(outcome, ArmormError)
            kind = Failure.of(outcome).kind if known else "cancelled"  # type: ignore[arg-type]
            self._scored.labels(kind).inc()
            return
        self._scored.labels("ok").inc()
        self._score_seconds.observe(seconds)
        self._queue_seconds.observe(outcome.queued_seconds)
        self._rows.inc(len(outcome.rewards))
        self._tokens.labels("asked").inc(outcome.tokens)
        if outcome.computed_tokens is not None:
            self._tokens.labels("computed").inc(outcome.computed_tokens)
        self._observe_distributions(outcome.rewards)

    def _observe_distributions(self, rewards: Rewards) -> None:
        for score in rewards.score.tolist():
            self._score.observe(score)
        if len(rewards):
            for name, value in zip(rewards.objectives, rewards.rewards[0].tolist(), strict=True):
                self._reward.labels(name).observe(value)
        if rewards.uncertainty is not None:
            for novelty in rewards.uncertainty.novelty.tolist():
                self._novelty.observe(novelty)

    def text(self) -> bytes:
        """Return all metrics; those of all workers where there are several."""
        registry = self.registry
        if WORKERS_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def router(metrics: Metrics) -> APIRouter:
    """Return the route that Prometheus reads."""
    api = APIRouter(tags=["metrics"])

    @api.get("/metrics", response_class=Response)
    async def read() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return api

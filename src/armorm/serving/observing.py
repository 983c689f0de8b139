"""Events of the scheduler, for metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from armorm.features.prompt_cache import CacheCounts
from armorm.serving.requests import ScoredRequest, ScoreRequest


@dataclass(frozen=True, slots=True)
class BatchStart:
    """A batch that is about to be computed.

    Attributes:
        requests: Number of requests.
        rows: Number of responses.
        tokens: Tokens, those of a shared prompt counted once.
        budget: Tokens that the batch could have had.
    """

    requests: int
    rows: int
    tokens: int
    budget: int


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """A batch that was computed.

    Attributes:
        start: The batch.
        seconds: Time that it took.
        computed_tokens: Tokens that went through the model; ``None`` if the engine does not say.
        failed: Number of its requests that got an error.
        retried: True if the batch failed as a whole and its requests were computed one by one.
        cache: Counts of the prompt cache; ``None`` without one.
    """

    start: BatchStart
    seconds: float
    computed_tokens: int | None
    failed: int
    retried: bool
    cache: CacheCounts | None


@runtime_checkable
class SchedulerObserver(Protocol):
    """Receiver of the scheduler's events.

    Its methods are called by the event loop's thread and by the model's, so they must be safe to
    call from both, quick, and raise nothing.
    """

    def queue_changed(self, requests: int, rows: int, tokens: int) -> None:
        """Receive the size of the queue, without the batch that is being computed."""

    def batch_started(self, batch: BatchStart) -> None:
        """Receive a batch before it is computed."""

    def batch_finished(self, batch: BatchEnd) -> None:
        """Receive a batch after it was computed."""

    def request_finished(
        self, request: ScoreRequest, outcome: ScoredRequest | BaseException, seconds: float
    ) -> None:
        """Receive the end of a request, by an answer, an error or a cancellation.

        Args:
            request: The request.
            outcome: What its caller got.
            seconds: Time since its arrival.
        """


class IgnoreEvents:
    """Observer that does nothing."""

    def queue_changed(self, requests: int, rows: int, tokens: int) -> None:
        """Ignore the event."""

    def batch_started(self, batch: BatchStart) -> None:
        """Ignore the event."""

    def batch_finished(self, batch: BatchEnd) -> None:
        """Ignore the event."""

    def request_finished(
        self, request: ScoreRequest, outcome: ScoredRequest | BaseException, seconds: float
    ) -> None:
        """Ignore the event."""

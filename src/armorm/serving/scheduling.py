"""Continuous batches: requests that arrive while the model computes share its next run.

The event loop admits requests, threads encode them, and one thread runs the model.  It takes a
batch from the queue whenever it is free, so that a lone client waits for nobody, and under load
batches fill by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Self

from armorm.errors import ArmormError
from armorm.features import Backbone
from armorm.features.prompt_cache import MIB, PromptCache
from armorm.model import RewardModel
from armorm.serving.batches import BatchRun, prepare
from armorm.serving.observing import BatchEnd, BatchStart, IgnoreEvents, SchedulerObserver
from armorm.serving.options import BatchingOptions
from armorm.serving.queueing import FIRST_GUESS_S, Pace, RequestQueue, WaitingRequest
from armorm.serving.requests import (
    DeadlineError,
    DrainingError,
    QueueFullError,
    ScoredRequest,
    ScoreRequest,
)
from armorm.serving.threads import run_apart

logger = logging.getLogger(__name__)

ENGINE_BATCH_TOKENS = 32768
"""Tokens of a batch for an engine that forms its own forward passes."""


class Scheduler:
    """Scorer of concurrent requests in shared batches.

    Args:
        model: The model.  A scheduler must be the only user of its backbone while it runs: it
            gives the backbone a prompt cache.
        options: See :class:`BatchingOptions`.
        observer: Receiver of events.

    Raises:
        ArmormError: ``batch_invariant`` with an engine that does not offer it.

    Example:
        >>> import asyncio
        >>> from armorm import RewardModel
        >>> from armorm.serving.requests import ScoreRequest
        >>> from armorm.serving.scheduling import Scheduler
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> prompt = ({"role": "user", "content": "What is 2 plus 3?"},)
        >>> async def score_two():
        ...     async with Scheduler(model) as scheduler:
        ...         return await asyncio.gather(
        ...             scheduler.score(ScoreRequest(prompt, ("2 plus 3 is 5.",))),
        ...             scheduler.score(ScoreRequest(prompt, ("No idea.",))),
        ...         )
        >>> good, bad = asyncio.run(score_two())
        >>> good.rewards.score.shape, good.model is model
        (torch.Size([1]), True)
    """

    def __init__(
        self,
        model: RewardModel,
        options: BatchingOptions | None = None,
        observer: SchedulerObserver | None = None,
    ) -> None:
        self.options = options or BatchingOptions()
        self._observer: SchedulerObserver = observer or IgnoreEvents()
        self._check_engine(model)
        # The condition guards what the event loop and the model's thread share: all that follows.
        self._changed = threading.Condition()
        self._model = model
        self._retired: list[RewardModel] = []
        self._queue = RequestQueue()
        self._pace = Pace()
        self._admitted_rows = 0
        self._arriving = 0  # requests that were admitted and are not in the queue yet
        self._draining = self._closed = False
        self._encoders = ThreadPoolExecutor(
            self.options.encoding_threads, thread_name_prefix="armorm-encode"
        )
        self._thread = threading.Thread(target=self._serve, name="armorm-model", daemon=True)

    @property
    def model(self) -> RewardModel:
        """The model that new requests are scored by."""
        return self._model

    @property
    def draining(self) -> bool:
        """True once no more requests are taken."""
        return self._draining

    @property
    def running(self) -> bool:
        """True while the model's thread lives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Prepare the model and start its thread."""
        run_apart(partial(self._equip, self._model))
        self._thread.start()

    async def stop(self, *, drain: bool = True) -> None:
        """Refuse new requests, and stop when those that wait are answered.

        Args:
            drain: Score the requests that wait. Otherwise only the running batch is finished, and
                the others get a :class:`DrainingError`.
        """
        with self._changed:
            self._draining = True
            self._closed = self._closed or not (drain and self._thread.is_alive())
            refused = self._queue.take_all() if self._closed else []
            self._changed.notify_all()
        for waiting in refused:
            waiting.settle(_stopping())
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._encoders.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def swap(self, model: RewardModel) -> None:
        """Replace the model without losing a request.

        The old model finishes the running batch; all other requests, queued ones included, are
        scored by the new one.

        Raises:
            ArmormError: As for a new scheduler.
        """
        self._check_engine(model)
        await asyncio.to_thread(run_apart, partial(self._equip, model))
        with self._changed:
            self._retired.append(self._model)
            self._model = model
            self._changed.notify_all()

    async def score(self, request: ScoreRequest) -> ScoredRequest:
        """Score one request; see :class:`~armorm.serving.requests.RequestScorer`."""
        arrived = time.monotonic()
        outcome: ScoredRequest | BaseException | None = None
        try:
            async with _until(request.deadline):
                outcome = await self._admit(request, arrived)
            return outcome
        except BaseException as error:
            outcome = error
            raise
        finally:
            assert outcome is not None
            self._observer.request_finished(request, outcome, time.monotonic() - arrived)

    async def _admit(self, request: ScoreRequest, arrived: float) -> ScoredRequest:
        """Score a request, counting its rows from arrival to answer."""
        rows = len(request.responses)
        with self._changed:
            if self._draining:
                raise _stopping()
            over = self._admitted_rows + rows - self.options.queue_rows
            if over > 0 and self._admitted_rows:
                raise self._full(f"{self._admitted_rows} responses", "queue_rows", rows=over)
            self._admitted_rows += rows
            self._arriving += 1
        try:
            loop = asyncio.get_running_loop()
            answered: asyncio.Future[ScoredRequest] = loop.create_future()
            try:
                prepared = await loop.run_in_executor(self._encoders, prepare, request, self._model)
                waiting = WaitingRequest(prepared, arrived, _settling(answered))
                self._enqueue(waiting)
            finally:
                with self._changed:
                    self._arriving -= 1
                    self._changed.notify_all()
            try:
                return await answered
            finally:
                self._withdraw(waiting)
        finally:
            with self._changed:
                self._admitted_rows -= rows

    def _enqueue(self, waiting: WaitingRequest) -> None:
        with self._changed:
            if self._closed:
                raise _stopping()
            over = self._queue.tokens + waiting.tokens - self.options.queue_tokens
            if over > 0 and self._queue:
                raise self._full(f"{self._queue.tokens} tokens", "queue_tokens", tokens=over)
            self._queue.add(waiting)
            self._report_queue()

    def _withdraw(self, waiting: WaitingRequest) -> None:
        """Take a request out of the queue, if it is there, since its caller is gone."""
        waiting.abandoned = True
        with self._changed:
            if self._queue.remove(waiting):
                self._report_queue()

    def _report_queue(self) -> None:
        self._observer.queue_changed(len(self._queue), self._queue.rows, self._queue.tokens)

    def _full(self, what: str, limit: str, *, rows: int = 0, tokens: int = 0) -> QueueFullError:
        most = getattr(self.options, limit)
        return QueueFullError(
            f"The server is busy: {what} are waiting already, and this request would exceed the "
            f"limit of {most} (--{limit.replace('_', '-')}). Try again later.",
            self._pace.seconds_for(rows, tokens),
        )

    def _serve(self) -> None:
        """Run batches until the scheduler stops; this is the model's thread."""
        while (taken := self._next_batch()) is not None:
            batch, model = taken
            try:
                self._run(batch, model)
            except Exception:
                # A fault of this package or of an observer, but the thread must live on.
                logger.exception("A batch of %d requests failed", len(batch))
                for waiting in batch:
                    waiting.settle(ArmormError("The batch failed; the server's log says more."))
        _unequip(self._model)

    def _next_batch(self) -> tuple[list[WaitingRequest], RewardModel] | None:
        """Wait for requests and take a batch; return ``None`` at the end."""
        with self._changed:
            while not self._queue or self._window_left() > 0:
                self._forget_retired()
                if self._draining and not (self._queue or self._arriving):
                    return None
                self._changed.wait(self._window_left() if self._queue else None)
            self._forget_retired()
            batch = self._queue.take(
                self._batch_tokens,
                regroup=self.options.regroup,
                computed=_cache_of(self._model) or (),
            )
            self._report_queue()
            return batch, self._model

    def _window_left(self) -> float:
        """Return the seconds for which the next batch should wait for requests being encoded.

        Waiting helps where the samples of one prompt arrive at once and the model is idle: the
        first that is encoded would be computed by itself.  It costs a lone client nothing.
        """
        if not self._arriving or self._queue.tokens >= self._batch_tokens:
            return 0.0
        waited = time.monotonic() - self._queue.oldest.arrived
        return max(0.0, self.options.window_ms / 1000 - waited)

    @property
    def _batch_tokens(self) -> int:
        if self.options.batch_tokens is not None:
            return self.options.batch_tokens
        backbone = self._model.backbone
        return backbone.runner.max_tokens if isinstance(backbone, Backbone) else ENGINE_BATCH_TOKENS

    def _run(self, batch: Sequence[WaitingRequest], model: RewardModel) -> None:
        """Compute a batch and hand out its answers."""
        prompts = {waiting.prompt for waiting in batch}
        tokens = sum(map(len, prompts)) + sum(waiting.response_tokens for waiting in batch)
        rows = sum(waiting.rows for waiting in batch)
        start = BatchStart(len(batch), rows, tokens, self._batch_tokens)
        self._observer.batch_started(start)
        run = BatchRun(model, invariant=self.options.batch_invariant)
        for waiting, outcome in run.outcomes(batch):
            waiting.settle(outcome)
        seconds = time.monotonic() - run.begun
        with self._changed:
            self._pace.add(rows, sum(waiting.tokens for waiting in batch), seconds)
        cache = _cache_of(model)
        self._observer.batch_finished(
            BatchEnd(
                start,
                seconds,
                run.computed_tokens,
                run.failed,
                run.retried,
                None if cache is None else cache.counts,
            )
        )

    def _check_engine(self, model: RewardModel) -> None:
        if self.options.batch_invariant and not isinstance(model.backbone, Backbone):
            raise ArmormError(
                "batch_invariant is a mode of the engine transformers. vLLM has its own: set "
                "VLLM_BATCH_INVARIANT=1, and enable_prefix_caching=False in engine_options."
            )

    def _equip(self, model: RewardModel) -> None:
        """Give a backbone its cache, and find out now if its responses can share a prompt."""
        if isinstance(model.backbone, Backbone):
            runner = model.backbone.runner
            if runner.cache is None and self.options.cache_mib:
                runner.cache = PromptCache(self.options.cache_mib * MIB)
            runner.separate = self.options.batch_invariant
            _ = runner.sharing_obstacle

    def _forget_retired(self) -> None:
        """Take the equipment of models that were replaced; none of them is running now."""
        for model in self._retired:
            if model.backbone is not self._model.backbone:
                _unequip(model)
        self._retired.clear()


def _cache_of(model: RewardModel) -> PromptCache | None:
    return model.backbone.runner.cache if isinstance(model.backbone, Backbone) else None


def _unequip(model: RewardModel) -> None:
    if isinstance(model.backbone, Backbone):
        model.backbone.runner.cache = None
        model.backbone.runner.separate = False


def _stopping() -> DrainingError:
    return DrainingError("The server is stopping and takes no more requests.", FIRST_GUESS_S)


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    """Raise DeadlineError in the block once a time on the clock of ``time.monotonic`` has come."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise DeadlineError("The deadline had passed when the request arrived.")
    timeout = asyncio.timeout(left)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineError(
            f"The deadline passed after {left:.3f} s. Send less at a time, or wait longer "
            "(X-Deadline-Ms; --deadline, --max-deadline)."
        ) from None


def _settling(
    answered: asyncio.Future[ScoredRequest],
) -> Callable[[ScoredRequest | Exception], None]:
    """Return a function that settles a future of an event loop from any thread."""
    loop = answered.get_loop()

    def settle(outcome: ScoredRequest | Exception) -> None:
        if answered.done():
            return
        if isinstance(outcome, Exception):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)

    def hand_over(outcome: ScoredRequest | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(settle, outcome)

    return hand_over

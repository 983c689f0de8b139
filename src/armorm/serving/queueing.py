"""The queue of encoded requests, and the batches that are taken from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass

from armorm.conversations import EncodedPrompt
from armorm.model import RewardModel
from armorm.serving.requests import ScoredRequest, ScoreRequest

FIRST_GUESS_S = 1.0
"""Seconds after which to try again while no batch has been timed."""

NEWEST = 0.2
"""Weight of the newest batch in a running mean."""


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request whose input is checked and encoded for one model.

    Attributes:
        request: The request.
        model: The served model that it was prepared for.
        steered: The same model, steered as the request asks.
        encoded: Its conversations as token ids.
        prompt: Ids of the prompt.
        tokens: Tokens of the conversations, each counted whole.
    """

    request: ScoreRequest
    model: RewardModel
    steered: RewardModel
    encoded: EncodedPrompt
    prompt: tuple[int, ...]
    tokens: int


@dataclass(eq=False, slots=True)
class WaitingRequest:
    """A request on its way through the scheduler.

    Attributes:
        prepared: The request, encoded.
        arrived: Time of its arrival, on the clock of ``time.monotonic``.
        settle: Hands the answer, or the error, to whoever waits for it.
        abandoned: Set when nobody waits any more.
    """

    prepared: PreparedRequest
    arrived: float
    settle: Callable[[ScoredRequest | Exception], None]
    abandoned: bool = False

    @property
    def rows(self) -> int:
        """Number of its responses."""
        return len(self.prepared.encoded.sequences)

    @property
    def tokens(self) -> int:
        """Tokens of its conversations, each counted whole."""
        return self.prepared.tokens

    @property
    def prompt(self) -> tuple[int, ...]:
        """Ids of its prompt."""
        return self.prepared.prompt

    @property
    def response_tokens(self) -> int:
        """Tokens of its responses."""
        return self.tokens - self.rows * len(self.prompt)


class RequestQueue:
    """Requests in the order of their arrival. It is not safe to share: the scheduler locks it."""

    def __init__(self) -> None:
        self._waiting: dict[WaitingRequest, None] = {}
        self._by_prompt: dict[tuple[int, ...], dict[WaitingRequest, None]] = defaultdict(dict)
        self.tokens = 0
        self.rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> WaitingRequest:
        """The request that has waited longest."""
        return next(iter(self._waiting))

    def add(self, waiting: WaitingRequest) -> None:
        """Add a request at the end."""
        self._waiting[waiting] = None
        self._by_prompt[waiting.prompt][waiting] = None
        self.tokens += waiting.tokens
        self.rows += waiting.rows

    def remove(self, waiting: WaitingRequest) -> bool:
        """Take a request out, if it is still there. Return false otherwise."""
        if waiting not in self._waiting:
            return False
        del self._waiting[waiting]
        others = self._by_prompt[waiting.prompt]
        del others[waiting]
        if not others:
            del self._by_prompt[waiting.prompt]
        self.tokens -= waiting.tokens
        self.rows -= waiting.rows
        return True

    def take(
        self, budget: int, *, regroup: bool, computed: Container[tuple[int, ...]] = ()
    ) -> list[WaitingRequest]:
        """Take a batch: the oldest requests that fit, each followed by others with its prompt.

        Args:
            budget: Most tokens, a prompt that several requests share counted once. The oldest
                request is taken even if it is larger.
            regroup: Take requests with the same prompt out of turn.
            computed: Prompts whose tokens need not be computed.
        """
        batch: list[WaitingRequest] = []
        taken: set[tuple[int, ...]] = set()
        left = budget
        while self._waiting:
            first = self.oldest
            group = list(self._by_prompt[first.prompt]) if regroup else [first]
            for waiting in group:
                cost = waiting.response_tokens
                if waiting.prompt not in taken and waiting.prompt not in computed:
                    cost += len(waiting.prompt)
                if batch and cost > left:
                    if waiting is first:
                        return batch
                    continue
                self.remove(waiting)
                batch.append(waiting)
                taken.add(waiting.prompt)
                left -= cost
        return batch

    def take_all(self) -> list[WaitingRequest]:
        """Take all requests."""
        everything = list(self._waiting)
        for waiting in everything:
            self.remove(waiting)
        return everything


class Pace:
    """Running means of batches: how long they take, and how much they hold."""

    def __init__(self) -> None:
        self._means: tuple[float, float, float] | None = None

    def add(self, rows: int, tokens: int, seconds: float) -> None:
        """Add a batch."""
        new = (float(rows), float(tokens), seconds)
        old = self._means or new
        rows_now, tokens_now, seconds_now = (
            before + NEWEST * (after - before) for before, after in zip(old, new, strict=True)
        )
        self._means = rows_now, tokens_now, seconds_now

    def seconds_for(self, rows: int, tokens: int) -> float:
        """Return the time in which so many rows or tokens are computed, at least that of a batch.

        Requests leave the queue batch by batch, so nothing changes earlier.
        """
        if self._means is None:
            return FIRST_GUESS_S
        mean_rows, mean_tokens, seconds = self._means
        return seconds * max(1.0, rows / mean_rows, tokens / mean_tokens)

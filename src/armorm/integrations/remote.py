"""Scores of completions from a reward server, in place of a model in the trainer's process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from armorm.errors import ArmormError, InputError
from armorm.evaluation.monitoring import DriftReporter
from armorm.http_json import HttpError, seconds_to_wait
from armorm.integrations.completions import (
    BatchScorer,
    Completion,
    CompletionScorer,
    ScoredCompletions,
)
from armorm.model import RewardModel, Rewards, Risk, Steering
from armorm.serving.requests import DeadlineError

if TYPE_CHECKING:
    from armorm.serving import Client
    from armorm.serving.wire import Result

_T = TypeVar("_T")

FAILED_FOR_GOOD = (400, 401, 403, 404, 405, 413, 415, 422)
"""Statuses that mean a wrong address, key or request: no later try is answered better."""

GRACE = 1.0
"""Seconds beyond the deadline until an answer that still trickles in is given up."""


@dataclass(frozen=True, slots=True)
class RewardServer:
    """Reward server that scores for a trainer; several addresses are replicas of one model.

    A key is read from the environment variable ARMORM_API_KEY.

    Args:
        addresses: URL of ``armorm serve``, or several, which are asked in turn; where one fails the
            next one is asked.
        deadline: Seconds for a batch, retries included.
        retries: Further rounds over the addresses, after waits that grow.
        connections: Largest number of requests at a time; a request is a prompt with all its
            completions.
        steering: Steering in place of the served model's, or the name of one of its profiles.

    Raises:
        InputError: No address, or a number that is not positive.

    Example:
        >>> from armorm.integrations import RewardServer
        >>> RewardServer("http://127.0.0.1:8000", deadline=30).addresses
        ('http://127.0.0.1:8000',)
    """

    addresses: str | Sequence[str]
    deadline: float = 120.0
    retries: int = 8
    connections: int = 8
    steering: Steering | str | None = None

    def __post_init__(self) -> None:
        given = (self.addresses,) if isinstance(self.addresses, str) else tuple(self.addresses)
        object.__setattr__(self, "addresses", given)
        for address in given:
            if not isinstance(address, str) or not address.startswith(("http://", "https://")):
                raise InputError(
                    "addresses", address, "not the URL of a server", "Write http://host:port."
                )
        if not given:
            raise InputError("addresses", given, "no address", "Name at least one server.")
        for name in ("deadline", "connections"):
            if not getattr(self, name) > 0:
                raise InputError(name, getattr(self, name), "not above 0", "")


RewardSource = RewardModel | RewardServer | str | Sequence[str]
"""Model in this process, a reward server, or its address or addresses."""


def scorer_of(
    source: RewardSource,
    risk: Risk | float | None = None,
    monitor: DriftReporter | None = None,
    *,
    in_batches: bool = True,
) -> BatchScorer:
    """Return the scorer of a model or a server; see :class:`CompletionScorer`.

    Raises:
        InputError: A risk or a monitor with a server.
    """
    if isinstance(source, RewardModel):
        return CompletionScorer(source, risk, monitor, in_batches=in_batches)
    if risk is not None:
        raise InputError(
            "risk", risk, "not computed from a server's answer", "Give the model itself."
        )
    if monitor is not None:
        raise InputError(
            "monitor",
            type(monitor).__name__,
            "a server's features do not reach this process",
            "Start the server with `armorm serve --monitor`.",
        )
    return ServerScorer(source if isinstance(source, RewardServer) else RewardServer(source))


class ServerScorer(BatchScorer):
    """Scorer of batches that asks a reward server: one request for each prompt.

    No call takes longer than the server's ``deadline`` and a second. Completions whose request
    failed are ``refused`` with its error; a wrong key, address or request is raised.

    Args:
        server: The server.
    """

    def __init__(self, server: RewardServer) -> None:
        from armorm.serving import Client

        super().__init__()
        self.server = server
        self._turns = itertools.count()
        self._clients: list[Client] = [Client(url, retries=0) for url in server.addresses]

    def objectives(self) -> tuple[str, ...]:
        """Return the names of the objectives, which the server is asked for."""
        end = time.monotonic() + self.server.deadline
        return tuple(self._ask(lambda client, _: client.objectives(), end).names)

    def _score(self, batch: Sequence[Completion]) -> ScoredCompletions:
        groups: dict[int, list[int]] = {}
        for position, completion in enumerate(batch):
            groups.setdefault(completion.group, []).append(position)
        end = time.monotonic() + self.server.deadline
        executor = ThreadPoolExecutor(self.server.connections, "armorm-rewards")
        futures = {
            executor.submit(self._results, [batch[i] for i in positions], end): positions
            for positions in groups.values()
        }
        wait(futures, timeout=self.server.deadline + GRACE)
        executor.shutdown(wait=False, cancel_futures=True)
        found: dict[int, Result] = {}
        refused: dict[int, ArmormError] = {}
        names: list[str] = []
        for future, positions in futures.items():
            try:
                names, results = _finished(future, self.server.deadline)
            except ArmormError as error:
                if _is_for_good(error):
                    raise
                refused |= dict.fromkeys(positions, error)
                continue
            for position, result in zip(positions, results, strict=True):
                if result.error is None:
                    found[position] = result
                else:
                    refused[position] = result.error.exception()
        kept = tuple(sorted(found))
        rewards = _rewards([found[i] for i in kept], tuple(names), self._steering) if kept else None
        return ScoredCompletions(
            rewards, kept, tuple(batch[i].group for i in kept), len(batch), refused
        )

    @property
    def _steering(self) -> Steering | None:
        steering = self.server.steering
        return steering if isinstance(steering, Steering) else None

    def _results(self, group: list[Completion], end: float) -> tuple[list[str], list[Result]]:
        texts = [completion.text for completion in group]

        def ask(client: Client, seconds: float) -> tuple[list[str], list[Result]]:
            answer = client.score_responses(
                group[0].prompt,
                texts,
                include=("rewards", "gating", "coefficients", "contributions"),
                steering=self.server.steering,
                deadline=seconds,
            )
            if len(answer.results) != len(texts):
                raise HttpError(
                    f"{client.address}: {len(answer.results)} results for {len(texts)} responses"
                )
            return answer.objectives, answer.results

        return self._ask(ask, end)

    def _ask(self, ask: Callable[[Client, float], _T], end: float) -> _T:
        """Ask the servers in turn until one answers, the rounds are over, or the time is."""
        error: ArmormError = _no_answer(self.server.deadline)
        for number, client in self._attempts():
            left = end - time.monotonic()
            if left <= 0:
                break
            # A server that does not answer leaves time for the next one.
            seconds = left if len(self._clients) == 1 else max(left / len(self._clients), 0.1)
            try:
                return ask(client, min(seconds, left))
            except InputError:
                raise
            except ArmormError as failure:
                if _is_for_good(failure):
                    raise
                error = failure
            if (number + 1) % len(self._clients) == 0:
                asked = getattr(error, "retry_after", None)
                pause = seconds_to_wait(number // len(self._clients), asked)
                if time.monotonic() + pause >= end:
                    break
                time.sleep(pause)
        raise error

    def _attempts(self) -> Iterator[tuple[int, Client]]:
        first, n = next(self._turns), len(self._clients)
        for number in range((self.server.retries + 1) * n):
            yield number, self._clients[(first + number) % n]


def _no_answer(seconds: float) -> DeadlineError:
    return DeadlineError(f"No answer of the reward server within {seconds:g} s.")


def _finished(
    future: Future[tuple[list[str], list[Result]]], seconds: float
) -> tuple[list[str], list[Result]]:
    if not future.done():
        raise _no_answer(seconds)
    return future.result()


def _is_for_good(error: ArmormError) -> bool:
    if isinstance(error, InputError):
        return True
    return isinstance(error, HttpError) and error.status in FAILED_FOR_GOOD


def _rewards(
    results: Sequence[Result], names: tuple[str, ...], steering: Steering | None
) -> Rewards:
    """Return the scores as the model would in this process, in the precision of the wire.

    Raises:
        HttpError: A part is missing.
    """

    def table(part: str) -> torch.Tensor:
        rows = [getattr(result, part) for result in results]
        if any(row is None or set(row) != set(names) for row in rows):
            raise HttpError(f"The reward server's answer lacks {part} of some objective.")
        return torch.tensor([[row[name] for name in names] for row in rows])

    if any(result.score is None for result in results):
        raise HttpError("The reward server's answer has neither a score nor an error.")
    return Rewards(
        score=torch.tensor([result.score for result in results]),
        rewards=table("rewards"),
        gating=table("gating"),
        coefficients=table("coefficients"),
        contributions=table("contributions"),
        objectives=names,
        steering=steering,
    )

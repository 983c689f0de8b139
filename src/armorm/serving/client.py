"""Clients of the reward server, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from armorm.conversations import Conversation
from armorm.errors import ArmormError, InputError, MissingExtraError
from armorm.http_json import HttpError, seconds_asked, seconds_to_wait
from armorm.model import Steering
from armorm.objectives import Objective, ObjectiveSet
from armorm.serving.requests import DeadlineError, QueueFullError
from armorm.serving.startup_files import KEY_VARIABLE
from armorm.serving.wire import (
    BestOfAnswer,
    CompareAnswer,
    ErrorAnswer,
    ErrorRecord,
    Include,
    ModelAnswer,
    ObjectivesAnswer,
    ScoreAnswer,
)

try:
    import httpx2 as httpx
except ModuleNotFoundError:
    raise MissingExtraError("The client of the reward server", "serve") from None

RETRIED = frozenset({408, 429, 502, 503, 504})
"""Statuses that a later try may not meet; every request may be sent again, since it only asks."""

_Reply = TypeVar("_Reply", bound=BaseModel)
_Steps = Generator["_Try | float", "httpx.Response | Exception | None", _Reply]


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt to get an answer."""

    method: str
    path: str
    body: bytes | None
    seconds: float


class _BaseClient:
    """Requests and answers; the subclasses send and wait.

    Args:
        address: URL of the server.
        api_key: Key. Default: the environment variable ARMORM_API_KEY, or none.
        deadline: Seconds for a call, retries included.
        retries: Further tries of a call when the server is busy, restarts or cannot be reached.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        deadline: float = 60.0,
        retries: int = 8,
    ) -> None:
        self.address = address.rstrip("/")
        self.deadline = deadline
        self.retries = retries
        key = api_key or os.environ.get(KEY_VARIABLE)
        self._settings: dict[str, Any] = {
            "base_url": self.address,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=256),
        }

    def _call(
        self,
        answer: type[_Reply],
        path: str,
        body: bytes | None = None,
        deadline: float | None = None,
    ) -> _Steps[_Reply]:
        """Yield each attempt, and the seconds to wait between them; return the answer.

        What is sent back after an attempt is its response, or the error that prevented one.
        """
        seconds = self.deadline if deadline is None else deadline
        end = time.monotonic() + seconds
        method = "GET" if body is None else "POST"
        for number in range(self.retries + 1):
            left = end - time.monotonic()
            outcome = yield _Try(method, path, body, max(left, 0.001))
            assert outcome is not None
            if isinstance(outcome, httpx.Response) and outcome.status_code < 400:
                return self._read(answer, outcome)
            error = self._error(outcome)
            wait = seconds_to_wait(number, _asked(outcome))
            if not _may_pass(outcome) or number == self.retries:
                raise error
            if time.monotonic() + wait >= end:
                raise DeadlineError(f"No answer within {seconds:g} s. The last failure: {error}")
            yield wait
        raise AssertionError("unreachable")

    def _read(self, answer: type[_Reply], response: httpx.Response) -> _Reply:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise HttpError(
                f"{response.url} does not answer like a reward server: {error}"
            ) from None

    def _error(self, outcome: httpx.Response | Exception) -> ArmormError:
        """Return the error of a failed attempt."""
        if isinstance(outcome, Exception):
            reason = str(outcome) or type(outcome).__name__
            return HttpError(f"{self.address} does not answer: {reason}")
        status = outcome.status_code
        record = _record(outcome)
        if record is None:
            return HttpError(f"{outcome.url}: {status}: {outcome.text[:200]}", status)
        if record.field is not None:
            return record.exception()
        if record.type == "deadline_exceeded":
            return DeadlineError(record.message)
        if record.type in ("queue_full", "draining"):
            return QueueFullError(record.message, _asked(outcome) or 1.0)
        return HttpError(f"{record.message} ({status}, request {record.request_id})", status)

    def _score(
        self, given: Mapping[str, Any], deadline: float | None, **settings: Any
    ) -> _Steps[ScoreAnswer]:
        return self._call(ScoreAnswer, "/v1/score", _body(given, **settings), deadline)

    def _compare(
        self, given: Mapping[str, Any], deadline: float | None, **settings: Any
    ) -> _Steps[CompareAnswer]:
        return self._call(CompareAnswer, "/v1/compare", _body(given, **settings), deadline)

    def _best_of(
        self, given: Mapping[str, Any], deadline: float | None, **settings: Any
    ) -> _Steps[BestOfAnswer]:
        return self._call(BestOfAnswer, "/v1/best-of", _body(given, **settings), deadline)


class Client(_BaseClient):
    """Client of a reward server; it may be used by several threads at once.

    A call is tried again, after a wait that grows, when the server is busy or stops, or the
    connection breaks.  The server is told how long the call may still take.

    Args:
        address: URL of the server.
        api_key: Key. Default: the environment variable ARMORM_API_KEY, or none.
        deadline: Seconds for a call, retries included.
        retries: Further tries of a call.
        transport: Transport of httpx, for tests and proxies.

    Example:
        >>> from armorm.serving import Client
        >>> with Client("http://127.0.0.1:8000", deadline=5) as client:
        ...     client.deadline
        5
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        deadline: float = 60.0,
        retries: int = 8,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(address, api_key=api_key, deadline=deadline, retries=retries)
        self._client = httpx.Client(**self._settings, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def score(
        self,
        conversations: Sequence[Conversation],
        *,
        include: Sequence[Include] = (),
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> ScoreAnswer:
        """Score conversations, each a list of messages that ends with the assistant's.

        Args:
            conversations: What to score; one that cannot be scored fails alone.
            include: Parts of each result besides the score.
            steering: Steering in place of the served model's, or the name of a profile.
            deadline: Seconds for this call.

        Raises:
            InputError: The server refuses the request.
            DeadlineError: The deadline passed.
            QueueFullError: The server was busy at every try.
            HttpError: The server cannot be reached, or failed.
        """
        given = {"conversations": conversations}
        return self._run(self._score(given, deadline, include=include, steering=steering))

    def score_responses(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        include: Sequence[Include] = (),
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> ScoreAnswer:
        """Score responses to one prompt; see :meth:`score`."""
        given = {"prompt": prompt, "responses": responses}
        return self._run(self._score(given, deadline, include=include, steering=steering))

    def compare(
        self,
        prompt: Conversation | str,
        a: str,
        b: str,
        *,
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> CompareAnswer:
        """Compare two responses to one prompt; see :meth:`score`."""
        given = {"prompt": prompt, "a": a, "b": b}
        return self._run(self._compare(given, deadline, steering=steering))

    def best_of(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        floors: Mapping[str, float] | None = None,
        include: Sequence[Include] = (),
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> BestOfAnswer:
        """Find the best of many responses; see :meth:`armorm.RewardModel.best_of`."""
        given = {"prompt": prompt, "responses": responses, "floors": floors or {}}
        return self._run(self._best_of(given, deadline, include=include, steering=steering))

    def objectives(self) -> ObjectiveSet:
        """Return the objectives of the served model."""
        return _objective_set(self._run(self._call(ObjectivesAnswer, "/v1/objectives")))

    def model(self) -> ModelAnswer:
        """Return the description of the served model."""
        return self._run(self._call(ModelAnswer, "/v1/model"))

    def _run(self, steps: _Steps[_Reply]) -> _Reply:
        outcome: httpx.Response | Exception | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, _Try):
                    outcome = self._send(step)
                else:
                    time.sleep(step)
                    outcome = None
        except StopIteration as finished:
            reply: _Reply = finished.value
            return reply

    def _send(self, attempt: _Try) -> httpx.Response | Exception:
        try:
            return self._client.request(**_arguments(attempt))
        except httpx.TransportError as error:
            return error


class AsyncClient(_BaseClient):
    """Client of a reward server for coroutines; see :class:`Client`.

    Args:
        address: URL of the server.
        api_key: Key. Default: the environment variable ARMORM_API_KEY, or none.
        deadline: Seconds for a call, retries included.
        retries: Further tries of a call.
        transport: Transport of httpx, for tests and proxies.

    Example:
        >>> import asyncio
        >>> from armorm.serving import AsyncClient
        >>> async def address():
        ...     async with AsyncClient("http://127.0.0.1:8000/") as client:
        ...         return client.address
        >>> asyncio.run(address())
        'http://127.0.0.1:8000'
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        deadline: float = 60.0,
        retries: int = 8,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(address, api_key=api_key, deadline=deadline, retries=retries)
        self._client = httpx.AsyncClient(**self._settings, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def score(
        self,
        conversations: Sequence[Conversation],
        *,
        include: Sequence[Include] = (),
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> ScoreAnswer:
        """Score conversations; see :meth:`Client.score`."""
        given = {"conversations": conversations}
        return await self._run(self._score(given, deadline, include=include, steering=steering))

    async def score_responses(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        include: Sequence[Include] = (),
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> ScoreAnswer:
        """Score responses to one prompt; see :meth:`Client.score`."""
        given = {"prompt": prompt, "responses": responses}
        return await self._run(self._score(given, deadline, include=include, steering=steering))

    async def compare(
        self,
        prompt: Conversation | str,
        a: str,
        b: str,
        *,
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> CompareAnswer:
        """Compare two responses to one prompt; see :meth:`Client.score`."""
        given = {"prompt": prompt, "a": a, "b": b}
        return await self._run(self._compare(given, deadline, steering=steering))

    async def best_of(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        floors: Mapping[str, float] | None = None,
        include: Sequence[Include] = (),
        steering: Steering | str | None = None,
        deadline: float | None = None,
    ) -> BestOfAnswer:
        """Find the best of many responses; see :meth:`armorm.RewardModel.best_of`."""
        given = {"prompt": prompt, "responses": responses, "floors": floors or {}}
        return await self._run(self._best_of(given, deadline, include=include, steering=steering))

    async def objectives(self) -> ObjectiveSet:
        """Return the objectives of the served model."""
        return _objective_set(await self._run(self._call(ObjectivesAnswer, "/v1/objectives")))

    async def model(self) -> ModelAnswer:
        """Return the description of the served model."""
        return await self._run(self._call(ModelAnswer, "/v1/model"))

    async def _run(self, steps: _Steps[_Reply]) -> _Reply:
        outcome: httpx.Response | Exception | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, _Try):
                    outcome = await self._send(step)
                else:
                    await asyncio.sleep(step)
                    outcome = None
        except StopIteration as finished:
            reply: _Reply = finished.value
            return reply

    async def _send(self, attempt: _Try) -> httpx.Response | Exception:
        try:
            return await self._client.request(**_arguments(attempt))
        except httpx.TransportError as error:
            return error


def _arguments(attempt: _Try) -> dict[str, Any]:
    """Return the arguments of httpx for one attempt.

    The server gets a little less time than the connection, so that its own answer comes first.
    """
    arguments: dict[str, Any] = {
        "method": attempt.method,
        "url": attempt.path,
        "headers": {"X-Deadline-Ms": str(math.ceil(attempt.seconds * 1000))},
        "timeout": attempt.seconds + 1.0,
    }
    if attempt.body is not None:
        arguments["content"] = attempt.body
        arguments["headers"]["Content-Type"] = "application/json"
    return arguments


def _body(
    given: Mapping[str, Any],
    *,
    include: Sequence[Include] = (),
    steering: Steering | str | None = None,
) -> bytes:
    """Return the body of a request, as JSON.

    Raises:
        InputError: A value cannot be sent as JSON.
    """
    body = dict(given)
    if include:
        body["include"] = list(include)
    if steering is not None:
        body["steering"] = steering.as_dict() if isinstance(steering, Steering) else steering
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError("request", body, f"not JSON: {error}", "") from None


def _objective_set(answer: ObjectivesAnswer) -> ObjectiveSet:
    return ObjectiveSet([Objective(**record.model_dump()) for record in answer.objectives])


def _may_pass(outcome: httpx.Response | Exception) -> bool:
    if isinstance(outcome, Exception) or outcome.status_code in RETRIED:
        return True
    # A proxy's own 500, Ray Serve's for one, says that the server behind it died meanwhile.
    return outcome.status_code == 500 and _record(outcome) is None


def _record(response: httpx.Response) -> ErrorRecord | None:
    """Return the error that a reward server sent; ``None`` if something else answered."""
    try:
        return ErrorAnswer.model_validate_json(response.content).error
    except ValidationError:
        return None


def _asked(outcome: httpx.Response | Exception) -> float | None:
    if isinstance(outcome, Exception):
        return None
    return seconds_asked(outcome.headers.get("Retry-After"))

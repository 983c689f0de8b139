"""Failures of a request: the one place where errors become statuses and bodies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from armorm.conversations import OverlongError
from armorm.errors import (
    ArmormError,
    CheckpointError,
    InputError,
    NonFiniteError,
    RecipeError,
    shorten,
)
from armorm.serving.requests import DeadlineError, DrainingError, QueueFullError


class LimitError(ArmormError):
    """A request beyond a limit of the server.

    Args:
        thing: What there is too much of, such as ``responses``.
        found: How much there is; ``None`` where counting stopped at the limit.
        limit: The limit.
        flag: Flag of ``armorm serve`` that sets it.
        remedy: What the client can do.
    """

    def __init__(
        self, thing: str, found: float | None, limit: float, flag: str, remedy: str
    ) -> None:
        number = "more" if found is None else f"{found:g}, more"
        super().__init__(f"{thing}: {number} than the limit of {limit:g} ({flag}). {remedy}")


class MalformedBodyError(ArmormError):
    """A body that is not JSON."""


class MediaTypeError(ArmormError):
    """A body that does not say it is JSON."""


class SlowClientError(ArmormError):
    """A client that took too long to send its body."""


class UnauthorizedError(ArmormError):
    """A request without the right key."""


_STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (UnauthorizedError, 401, "unauthorized"),
    (MalformedBodyError, 400, "malformed_json"),
    (MediaTypeError, 415, "unsupported_media_type"),
    (SlowClientError, 408, "slow_request"),
    (LimitError, 413, "limit_exceeded"),
    (OverlongError, 413, "too_long"),
    (NonFiniteError, 422, "no_finite_score"),
    (InputError, 422, "invalid_input"),
    (RecipeError, 422, "invalid_steering"),
    (CheckpointError, 422, "no_such_model"),
    (DrainingError, 503, "draining"),
    (QueueFullError, 503, "queue_full"),
    (DeadlineError, 504, "deadline_exceeded"),
)
"""Status and name of each kind of error; the first that fits counts."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Answer to a request that failed.

    Attributes:
        status: HTTP status.
        kind: Short name for programs.
        message: What was wrong and what to do, for people.
        details: More about it: ``field``, ``value``, ``reason`` and ``remedy`` of invalid input.
        retry_after: Seconds after which another attempt is likely to succeed.
    """

    status: int
    kind: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    retry_after: float | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return the answer to an error; of one that nobody foresaw it says nothing."""
        for kind, status, name in _STATUSES:
            if isinstance(error, kind):
                return cls(
                    status,
                    name,
                    str(error),
                    _details(error) if isinstance(error, InputError) else {},
                    error.retry_after if isinstance(error, QueueFullError) else None,
                )
        if isinstance(error, ArmormError):
            return cls(500, "server_error", str(error))
        return cls(500, "server_error", "The server failed. Its log has the error by request id.")

    @classmethod
    def of_status(cls, status: int, message: str) -> Failure:
        """Return the answer of a status that no error of this package stands for."""
        return cls(status, HTTPStatus(status).phrase.lower().replace(" ", "_"), message)

    @classmethod
    def of_fields(cls, problems: list[Any]) -> Failure:
        """Return the answer to a body that pydantic refused, naming every problem."""
        lines = [
            f"{place_of(problem['loc'])} = {shorten(problem['input'])}: {problem['msg']}"
            for problem in problems
        ]
        fields = [{"field": place_of(one["loc"]), "reason": str(one["msg"])} for one in problems]
        return cls(422, "invalid_request", "; ".join(lines[:5]), {"problems": fields[:100]})

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``error`` in the native API."""
        return {"type": self.kind, "message": self.message, **self.details}


ErrorBody = Callable[[Failure, str], Any]
"""Function that writes the JSON of a failure, given the id of the request."""


def native_error_body(failure: Failure, request_id: str) -> dict[str, Any]:
    """Return the body of a failure in the native API, which clients of OpenAI and vLLM read too."""
    return {"error": {**failure.as_dict(), "code": failure.status, "request_id": request_id}}


def place_of(location: tuple[int | str, ...]) -> str:
    """Return the path of a field, ``conversations[0][1].role``, from a location of pydantic.

    Example:
        >>> place_of(("body", "conversations", 0, 1, "role"))
        'conversations[0][1].role'
    """
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part != "body":
            place += f"{'.' if place else ''}{part}"
    return place or "body"


def _details(error: InputError) -> dict[str, Any]:
    record = error.as_dict()
    return {name: record[name] for name in ("field", "value", "reason", "remedy")}

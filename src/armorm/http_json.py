"""JSON over HTTP, with retries of what may pass: for clients of model servers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from armorm.errors import ArmormError

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that a later try may not meet."""

LONGEST_WAIT = 30.0


class HttpError(ArmormError, OSError):
    """A server that cannot be reached, or refuses a request.

    Attributes:
        status: HTTP status; ``None`` if the server did not answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def request_json(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    timeout: float = 120.0,
    retries: int = 0,
    answer: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """Send a request and return the JSON of the answer.

    Args:
        url: Address.
        body: Sent as JSON by POST; ``None`` sends a GET.
        timeout: Seconds that the server may be silent.
        retries: Further tries when the server does not answer, is overloaded, or fails; the wait
            doubles from half a second, or is what the server asks for, at most half a minute.
        answer: Read the answer; otherwise its status is enough, and ``None`` is returned.
        sleep: Waits for a number of seconds.

    Raises:
        HttpError: The server refuses the request, or no try succeeded.
    """
    for number in range(retries + 1):
        try:
            return _request(url, body, timeout, answer)
        except _PassingError as error:
            if number == retries:
                tries = f" ({retries + 1} tries)" if retries else ""
                raise HttpError(f"{error}{tries}", error.status) from error
            sleep(seconds_to_wait(number, error.wait))
    raise AssertionError("unreachable")


def seconds_to_wait(number: int, asked: float | None = None) -> float:
    """Return the seconds to wait after a try that failed.

    Half of the wait is random, so that many clients do not come back together.

    Args:
        number: Number of the try, from 0: the wait doubles from half a second to half a minute.
        asked: Seconds that the server asks for instead.
    """
    wait = asked or min(2.0 ** (number - 1), LONGEST_WAIT)
    return min(wait, LONGEST_WAIT) * (0.5 + random.random() / 2)


class _PassingError(HttpError):
    """A failure that a later try may not meet; ``wait`` is what the server asks for."""

    def __init__(self, message: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(message, status)
        self.wait = wait


def _request(url: str, body: Mapping[str, Any] | None, timeout: float, answer: bool) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=timeout) as opened:
            if not answer:
                return None
            content = opened.read()
    except HTTPError as error:
        message = f"{url}: {error.code}: {_message(error.read().decode('utf-8', 'replace'))}"
        if error.code in PASSING:
            raise _PassingError(
                message, error.code, seconds_asked(error.headers.get("Retry-After"))
            ) from None
        raise HttpError(message, error.code) from None
    except (URLError, OSError, HTTPException) as error:
        if isinstance(error, InvalidURL):
            raise HttpError(f"{url} is no address: {error}") from None
        raise _PassingError(f"{url} does not answer: {getattr(error, 'reason', error)}") from None
    except ValueError as error:
        raise HttpError(f"{url} is no address: {error}") from None
    try:
        return json.loads(content)
    except ValueError:
        text = content[:200].decode("utf-8", "replace")
        raise HttpError(f"{url} does not answer in JSON: {text!r}") from None


def seconds_asked(header: str | None) -> float | None:
    """Return the seconds that a header ``Retry-After`` asks for."""
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None


def _message(text: str) -> str:
    """Return the message of an error in the forms of vLLM and FastAPI, or the text itself."""
    try:
        found = json.loads(text)
        error = found.get("error", found.get("detail", found.get("message", text)))
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return text[:200]

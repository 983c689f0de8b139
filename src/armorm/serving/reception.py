"""Reception of requests: id, key, size and time of the body, and clients that leave."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from dataclasses import asdict

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from armorm.serving.failures import Failure, LimitError, SlowClientError, UnauthorizedError
from armorm.serving.metrics import LEFT, HttpEnd, Metrics
from armorm.serving.options import ServerOptions
from armorm.serving.routing import failure_response

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/ping"})
"""Paths that need no key: probes send none."""

logger = logging.getLogger("armorm.serving.access")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Reception:
    """ASGI middleware in front of every route.

    Args:
        app: The application.
        options: Limits.
        key: Key that clients send as a bearer token; ``None`` asks for none.
        metrics: Receiver of the end of each request.
    """

    def __init__(
        self, app: ASGIApp, options: ServerOptions, key: str | None, metrics: Metrics
    ) -> None:
        self.app = app
        self.options = options
        self._key = None if key is None else key.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or stop working on it when its client leaves."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, arrived=time.monotonic())
        status = LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = (b"x-request-id", request_id.encode())
                message["headers"] = [*message.get("headers", ()), extra]
            await send(message)

        self._metrics.http_started()
        try:
            if self._may_enter(scope["path"], headers.get(b"authorization", b"")):
                await self._answer(scope, _Body(receive, headers, self.options), send_with_id)
            else:
                await _refuse(scope, receive, send_with_id)
        finally:
            self._finish(scope, status)

    async def _answer(self, scope: Scope, body: _Body, send: Send) -> None:
        try:
            await self.app(scope, body.receive, send)
        except ClientDisconnect:  # in the middle of the body
            pass
        except asyncio.CancelledError:
            if not body.client_left:
                raise
            _current_task().uncancel()
        finally:
            body.close()

    def _finish(self, scope: Scope, status: int) -> None:
        state = scope["state"]
        end = HttpEnd(
            request_id=state["request_id"],
            method=scope["method"],
            route=getattr(scope.get("route"), "path", "-"),
            path=scope["path"],
            status=status,
            seconds=time.monotonic() - state["arrived"],
            failure=state.get("failure"),
        )
        self._metrics.http_finished(end)
        if self.options.access_log:
            logger.info("request", extra=asdict(end))

    def _may_enter(self, path: str, authorization: bytes) -> bool:
        if self._key is None or path in OPEN_PATHS:
            return True
        scheme, _, token = authorization.partition(b" ")
        return hmac.compare_digest(token.strip(), self._key) and scheme.lower() == b"bearer"


class _Body:
    """Body of one request, received within the limits; cancels the request if the client leaves."""

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], options: ServerOptions):
        self._receive = receive
        self._limit = options.max_body_bytes
        self._declared = int(headers.get(b"content-length", b"0") or 0)
        self._received = 0
        self._until = asyncio.get_running_loop().time() + options.receive_timeout
        self._timeout = options.receive_timeout
        self._watcher: asyncio.Task[None] | None = None
        self.client_left = False

    async def receive(self) -> Message:
        """Return the next message of the body.

        Raises:
            LimitError: The body is too large.
            SlowClientError: The client takes too long.
        """
        self._check_size(self._declared)
        if self._watcher is not None:  # the body is complete: only the client's leaving is left
            await self._watcher
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise SlowClientError(
                f"The body did not arrive within {self._timeout:g} s (--receive-timeout)."
            ) from None
        self._received += len(message.get("body", b""))
        self._check_size(self._received)
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._watcher = asyncio.create_task(self._watch(_current_task()))
        return message

    def close(self) -> None:
        """Stop watching the client."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self, request: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        request.cancel()

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise LimitError(
                "bytes of the body",
                self._declared or None,
                self._limit,
                "--max-body-mb",
                "Send several requests.",
            )


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else uuid.uuid4().hex


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = UnauthorizedError("The key is missing or wrong. Send Authorization: Bearer KEY.")
    await failure_response(Failure.of(error), Request(scope))(scope, receive, send)

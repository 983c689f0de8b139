"""Routes that read strict JSON and answer every failure in the form of their protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from armorm.serving.failures import (
    ErrorBody,
    Failure,
    MalformedBodyError,
    MediaTypeError,
    native_error_body,
)

logger = logging.getLogger("armorm.serving")


class StrictRequest(Request):
    """Request whose JSON holds neither NaN nor infinity nor half characters."""

    async def json(self) -> Any:
        """Return the body, parsed once.

        Raises:
            MalformedBodyError: It is not JSON.
            MediaTypeError: It does not say it is JSON.
        """
        if not hasattr(self, "_parsed"):
            self._parsed = _parse(await self.body(), self.headers.get("content-type", ""))
        return self._parsed


def protocol_router(
    error_body: ErrorBody = native_error_body,
    *,
    queue_full_status: int = 503,
    **settings: Any,
) -> APIRouter:
    """Return a router whose routes read strict JSON and answer failures in a protocol's form.

    Args:
        error_body: Writes the JSON of a failure.
        queue_full_status: Status when too much work is waiting: 503, or 429 where the clients of
            the protocol wait for that.
        **settings: Settings of the router, such as ``tags``.
    """

    class ProtocolRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                request = StrictRequest(request.scope, request.receive)
                try:
                    if self.body_field is not None:
                        await request.json()
                    return await handle(request)
                except ClientDisconnect:
                    raise
                except Exception as error:  # noqa: BLE001 (every failure gets an answer)
                    failure = failure_of(error)
                    if failure.kind == "queue_full":
                        failure = replace(failure, status=queue_full_status)
                    return failure_response(failure, request, error_body, error)

            return answer

    return APIRouter(route_class=ProtocolRoute, **settings)


def failure_of(error: Exception) -> Failure:
    """Return the answer to an error of this package or of the web framework."""
    if isinstance(error, RequestValidationError):
        return Failure.of_fields(list(error.errors()))
    if isinstance(error, HTTPException):
        return Failure.of_status(error.status_code, str(error.detail))
    return Failure.of(error)


def failure_response(
    failure: Failure,
    request: Request,
    error_body: ErrorBody = native_error_body,
    error: Exception | None = None,
) -> JSONResponse:
    """Return the response to a failure; log what only the server's side can act on."""
    request_id = str(getattr(request.state, "request_id", ""))
    if failure.status == 500:
        logger.error("request failed", exc_info=error, extra={"request_id": request_id})
    request.state.failure = failure.kind
    return JSONResponse(error_body(failure, request_id), failure.status, failure.headers)


def _parse(body: bytes, content_type: str) -> Any:
    if not body:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise MediaTypeError(f"Content-Type: {content_type or 'none'}. Send application/json.")
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBodyError(
            f"The body is not JSON (NaN and half characters are not allowed): {error}"
        ) from None

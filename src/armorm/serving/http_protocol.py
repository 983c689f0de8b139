"""HTTP connections that close when a client is slow to send the headers of a request.

Uvicorn bounds the time between requests (keep-alive), but neither the wait for the first request
nor the time that headers take, so that silent clients could hold every connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as BaseProtocol
else:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as BaseProtocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as BaseProtocol


class TimedConfig(uvicorn.Config):
    """Configuration of uvicorn with a time limit for headers."""

    header_timeout = 30.0
    """Seconds in which the headers of a request must arrive."""


class TimedProtocol(BaseProtocol):
    """Connection that is closed when the headers of a request do not arrive in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take data, and wait for the rest of the headers if they are not complete."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def _lacks_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if self._timer is not None and not self._lacks_headers:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and self._lacks_headers:
            assert isinstance(self.config, TimedConfig)
            self._timer = self.loop.call_later(self.config.header_timeout, self._close_if_slow)

    def _close_if_slow(self) -> None:
        self._timer = None
        if self._lacks_headers and not self.transport.is_closing():
            self.transport.close()

"""How a connection is read: uvicorn's protocol with bounds on the heads of requests, and a patient end.

A head has a largest size, and must come in time. When a worker ends, a connection that has just been made gets the answer to
its first request: it cannot know that another worker would have been the better choice.

Not here: bodies, which have bounds of their own (``app.py``).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Wire"]

MOST_HEAD = 1 << 16
"""Bytes of the first line and the headers of a request, beyond the packet in which they begin."""

HEAD_SECONDS = 10.0
"""Within which the head of a request must come, and the first one of a connection must begin."""

LAST_SECONDS = 2.0
"""The same, when the worker ends."""

TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: 62\r\n"
    b'connection: close\r\n\r\n{"error":"the headers of a request must have at most 65,536 B"}'
)


class Wire(HttpToolsProtocol):
    """The protocol of a connection."""

    _head_bytes = 0
    _in_head = True
    _late: asyncio.TimerHandle | None = None
    _begun = False  # whether there has been a request
    _ending = False

    def connection_made(self, transport: Any) -> None:
        """Give the first request its time."""
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless a head has had too many."""
        if self._in_head:
            if self._head_bytes > MOST_HEAD:
                self.transport.write(TOO_LARGE)
                self.transport.close()
                return
            self._head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin the head of a request."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """End the head of a request."""
        self._end_head()
        self._begun = True
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End, after the request that is on its way."""
        if not self._begun and not self.transport.is_closing():
            self._ending = True
            self._begin_head(LAST_SECONDS)
        else:
            super().shutdown()

    def _begin_head(self, seconds: float = HEAD_SECONDS) -> None:
        if self._late is not None:
            self._late.cancel()
        self._in_head = True
        self._late = self.loop.call_later(seconds, self.transport.close)

    def _end_head(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

"""uvicorn's HTTP, with an end to what one connection may send: a gateway bounds that too, but nobody has to have one.

A request that comes in one piece, as nearly all do, costs two comparisons here, and no timer.
"""

import asyncio
import uuid
from asyncio import BaseTransport
from typing import cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from scoreboard_project import request_id

HEAD_BYTES, HEADER_LINES = 32 * 1024, 100
MESSAGE_BYTES = 4 * 1024 * 1024  # on the wire, chunk sizes and trailers included; the body itself is the application's to cut
SECONDS = 15.0  # from a request's first byte to its last


class _TooMuch(Exception):
    """The head is over its bounds. httptools lets it stop the parsing, as an error of its own."""


class BoundedHttp(HttpToolsProtocol):
    """A request head is refused with 431, a request that takes too long with 408; then the connection is closed."""

    _in_head = _in_message = False
    _message_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _refusal = (400, "The request is not valid HTTP.")

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        # uvicorn sets this timer after each answer only: who never says a word would stay for ever.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._message_bytes = self._message_bytes + len(data) if self._in_message else len(data)
        super().data_received(data)
        if self._in_message:
            self._more_to_come()
        elif self._deadline is not None:
            self._stop_waiting()

    def _more_to_come(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_head and self._message_bytes > HEAD_BYTES:
            self._refuse(431, "The request head is too large.")
        elif self._message_bytes > MESSAGE_BYTES:
            self._refuse(413, "The request is too large.")
        elif self._deadline is None:
            self._deadline = self.loop.call_later(SECONDS, self._refuse, 408, "The request took too long to arrive.")

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEADER_LINES or (self._message_bytes > HEAD_BYTES and self._head_bytes() > HEAD_BYTES):
            self._refusal = (431, "The request head is too large.")
            raise _TooMuch
        self._in_head = False
        super().on_headers_complete()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refusal)

    def _refuse(self, status: int, text: str) -> None:
        """Answer, unless an answer is under way already, and let go."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        # While the head is still being read, `cycle` is the request before this one.
        if not answering or not (self._in_head or self.cycle.response_started or self.pipeline):
            body = text.encode()
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            id_ = b"%b: %b\r\n" % (request_id.HEADER, uuid.uuid4().hex.encode())
            self.transport.write(b"".join([STATUS_LINE[status], head, id_, b"\r\n", body]))
        self.transport.close()

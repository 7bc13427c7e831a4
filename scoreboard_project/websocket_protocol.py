"""uvicorn's WebSocket, with small buffers and a way to end a connection that is not being read."""

import socket
from asyncio import BaseTransport, Transport
from functools import lru_cache
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State

BUFFER_BYTES = 32 * 1024  # what one slow viewer may cost in this process, and again in the kernel
LAST_WORD_SECONDS = 1.0
TOO_SLOW = 4408


@lru_cache(maxsize=16)
def frame_of(text: str) -> bytes:
    """What a server sends for it: unmasked and, as this one offers no compression, the same to everybody."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=False, extensions=[])


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Offers the application, in `scope["extensions"]`: `scoreboard.write(text)` and `scoreboard.abort(code)`."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        cast(Transport, transport).set_write_buffer_limits(high=BUFFER_BYTES)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"] |= {"scoreboard.write": self.write, "scoreboard.abort": self.abort}  # type: ignore[dict-item]

    def write(self, text: str) -> bool:
        """Send it without ado; False where that must wait, or cannot be. A picture goes to thousands, each a call of this."""
        if not self.writable.is_set() or self.conn.state is not State.OPEN or self.conn.extensions or self.disconnected:
            return False
        self.transport.write(frame_of(text))
        return True

    def handle_ping(self) -> None:
        """Answer; but whoever asks and does not read is owed a few answers and no more: they wait in this process's memory."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > 4 * BUFFER_BYTES:
            self.abort(TOO_SLOW)

    def abort(self, code: int) -> None:
        """Say why, in case it is still read, and let go: a polite close would wait for the full buffers for ever."""
        if not self.close_sent and not self.transport.is_closing():
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.loop.call_later(LAST_WORD_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(LAST_WORD_SECONDS, self.transport.abort)

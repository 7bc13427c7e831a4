"""A TCP proxy in front of an engine: lets bytes pass, holds them, delays them, resets connections, cuts at a commit."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import cast

from chaos.postgres_wire import AnswerEnd, WriteSpotter


class Mode(Enum):
    PASS = "pass"  # noqa: S105
    BLACKHOLE = "blackhole"  # accept, forward nothing; what was held goes on when the mode ends
    RESET = "reset"  # every connection, also each new one, is reset
    CUT_BEFORE_COMMIT = "cut before commit"  # reset instead of forwarding a statement that writes
    CUT_AFTER_COMMIT = "cut after commit"  # forward it, let the server commit, then reset instead of answering


class Lane:
    """One direction of a connection: bytes in their order, none before it is due, none while the proxy holds."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy, self.loop = proxy, asyncio.get_running_loop()
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.target: asyncio.Transport | None = None
        self.ended = False  # nothing more will come: close the target once it has everything
        self.timer: asyncio.TimerHandle | None = None

    def push(self, data: bytes, delay: float = 0.0) -> None:
        self.waiting.append((self.loop.time() + delay, data))
        self.drain()

    def end(self) -> None:
        self.ended = True
        self.drain()

    def drain(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.target is None or self.proxy.mode is Mode.BLACKHOLE:
            return
        if self.target.is_closing():  # it has hung up
            self.waiting.clear()
            return
        while self.waiting:
            due, data = self.waiting[0]
            early = due - self.loop.time()
            if early > 0:
                self.timer = self.loop.call_later(early, self.drain)
                return
            self.waiting.popleft()
            self.target.write(data)
        if self.ended:
            self.target.close()


class Link(asyncio.Protocol):
    """One client's connection, and ours to the engine behind it."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.up, self.down = Lane(proxy), Lane(proxy)
        self.spotter = WriteSpotter() if proxy.postgres else None
        self.swallowed: AnswerEnd | None = None  # set while the answer to a write is being dropped
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.down.target = cast(asyncio.Transport, transport)  # uvloop's own class, which is no subclass
        self.proxy.links.add(self)
        if self.proxy.mode is Mode.RESET:
            self.reset()
        else:
            self.dialling = self.up.loop.create_task(self._dial())

    async def _dial(self) -> None:
        while self.proxy.mode is Mode.BLACKHOLE:
            await self.proxy.released.wait()
        try:
            where = ("127.0.0.1", self.proxy.engine_port)
            await self.up.loop.create_connection(lambda: _Behind(self), *where)
        except OSError:  # the engine is dead
            self.reset()

    def data_received(self, data: bytes) -> None:
        written = self.spotter.feed(data) if self.spotter is not None else ""
        if written and self.proxy.take_a_cut(Mode.CUT_BEFORE_COMMIT, written):
            self.reset()
            return
        if written and self.proxy.take_a_cut(Mode.CUT_AFTER_COMMIT, written):
            self.swallowed = AnswerEnd()
        self.up.push(data, self.proxy.delay)

    def answered(self, data: bytes) -> None:
        if self.swallowed is None:
            self.down.push(data)
        elif self.swallowed.feed(data):
            self.reset()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.proxy.links.discard(self)
        self.up.end()

    def reset(self) -> None:
        """RST to the client, and the engine's side cut as hard."""
        self.gone = True
        for transport in (self.down.target, self.up.target):
            if transport is not None:
                _abort(transport)
        self.proxy.links.discard(self)


class _Behind(asyncio.Protocol):
    """The engine's side of a link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        behind = cast(asyncio.Transport, transport)
        if self.link.gone:
            behind.abort()
            return
        self.link.up.target = behind
        self.link.up.drain()

    def data_received(self, data: bytes) -> None:
        self.link.answered(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.link.down.end()


class Proxy:
    """In front of the engine at 127.0.0.1:`engine_port`. `postgres`: its protocol is read, to cut at commits."""

    def __init__(self, port: int, engine_port: int, *, postgres: bool = False) -> None:
        self.port, self.engine_port, self.postgres = port, engine_port, postgres
        self.mode, self.delay = Mode.PASS, 0.0
        self.to_cut, self.cuts_wanted, self.cuts_made = "", 0, 0
        self.links: set[Link] = set()
        self.released = asyncio.Event()
        self.released.set()

    async def start(self) -> None:
        make: Callable[[], Link] = lambda: Link(self)  # noqa: E731
        self.listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", self.port)

    def set(self, mode: Mode, *, cut: str = "", cuts: int = 0) -> None:
        """Another mode, for old and new connections. To be cut: the next `cuts` statements that write a `cut`."""
        self.mode, self.to_cut, self.cuts_wanted, self.cuts_made = mode, cut, cuts, 0
        if mode is Mode.BLACKHOLE:
            self.released.clear()
            return
        self.released.set()
        if mode is Mode.RESET:
            self.reset_all()
        for link in list(self.links):
            link.up.drain()
            link.down.drain()

    def reset_all(self) -> int:
        """Resets the connections of this moment. Returns: how many there were."""
        links = list(self.links)
        for link in links:
            link.reset()
        return len(links)

    def take_a_cut(self, mode: Mode, written: str) -> bool:
        """Whether this statement is to be cut so; counted."""
        if self.mode is not mode or written != self.to_cut or self.cuts_made >= self.cuts_wanted:
            return False
        self.cuts_made += 1
        return True

    def close(self) -> None:
        self.listener.close()
        self.reset_all()


def _abort(transport: asyncio.Transport) -> None:
    endpoint = transport.get_extra_info("socket")
    if endpoint is not None and not transport.is_closing():
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
    transport.abort()

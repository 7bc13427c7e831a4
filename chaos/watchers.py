"""The viewers: quick ones, slow ones who look every 3 s, and one who never reads; all come back after a cut."""

import asyncio
import contextlib
import json
import random
import socket
import time
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from chaos.history import Connection, History, Picture
from chaos.servers import Server

SLOW_EVERY = 3.0
SLOW_ONES = 2
COME_BACK = (0.3, 1.5)  # s of jitter
DEAF_KEPT = 60.0  # s for which a server may keep a socket that never reads
LIVE = "/api/v1/scores/live"
# The deaf one's handshake is done by hand: no library may read for it.
_HANDSHAKE = (
    f"GET {LIVE} HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Watchers:
    def __init__(self, servers: list[Server], history: History, quick: int, seed: int) -> None:
        self.servers, self.history, self.seed = servers, history, seed
        self.read: dict[str, tuple[int, int, bool, list[tuple[str, int]]]] = {}  # texts of late, decoded
        self.deaf_longest = 0.0  # s for which a server held on to the deaf socket
        names = [f"quick {n}" for n in range(quick)] + [f"slow {n}" for n in range(SLOW_ONES)]
        self.tasks = [asyncio.create_task(self._watch(name)) for name in names]
        self.tasks.append(asyncio.create_task(self._never_read()))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    def check(self) -> None:
        """Raises what ended a watcher before its time."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def _watch(self, name: str) -> None:
        dice = random.Random(f"{self.seed} watcher {name}")  # noqa: S311 (repeatable on purpose)
        look = self._look_slowly if name.startswith("slow") else self._look
        while True:
            server = dice.choice(self.servers)
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                async with connect(
                    f"ws://127.0.0.1:{server.port}{LIVE}", compression=None, proxy=None, open_timeout=10, close_timeout=1
                ) as viewer:
                    seen = Connection(name, server.number, self.history.now())
                    self.history.connections.append(seen)
                    try:
                        await look(viewer, seen)
                    finally:
                        seen.closed, seen.close_code = self.history.now(), viewer.close_code
            await asyncio.sleep(dice.uniform(*COME_BACK))

    async def _look(self, viewer: ClientConnection, seen: Connection) -> None:
        async for text in viewer:
            self._note(str(text), seen)

    async def _look_slowly(self, viewer: ClientConnection, seen: Connection) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                while True:
                    self._note(str(await asyncio.wait_for(viewer.recv(), 0.05)), seen)
            await asyncio.sleep(SLOW_EVERY)
            if viewer.close_code is not None:
                raise ConnectionClosed(None, None)

    def _note(self, text: str, seen: Connection) -> None:
        if text not in self.read:  # all sockets of a server get the same text
            if len(self.read) > 50:
                self.read.clear()
            self.read[text] = _read(json.loads(text))
        seq, points, initial, rows = self.read[text]
        if seq >= 0:
            seen.pictures.append(Picture(self.history.now(), seq, points, hash(tuple(rows)), initial))
            seen.rows = rows

    async def _never_read(self) -> None:
        """Holds a socket that takes the handshake and nothing more, and looks how long the server holds it."""
        dice = random.Random(f"{self.seed} deaf")  # noqa: S311
        while True:
            server = dice.choice(self.servers)
            with contextlib.suppress(OSError, psutil.Error):
                await self._be_deaf_to(server)
            await asyncio.sleep(2)

    async def _be_deaf_to(self, server: Server) -> None:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, ("127.0.0.1", server.port))
            await loop.sock_sendall(deaf, (_HANDSHAKE % server.port).encode())
            began, process, here = time.monotonic(), psutil.Process(server.child.pid), deaf.getsockname()[:2]
            while server.trouble is None:
                await asyncio.sleep(2)
                if server.trouble is None and not _holds(process, here):
                    break
                self.deaf_longest = max(self.deaf_longest, time.monotonic() - began)


def _holds(process: psutil.Process, address: tuple[str, int]) -> bool:
    """Whether the process still has its end of the connection from `address`."""
    return any(link.raddr and tuple(link.raddr) == address for link in process.net_connections("tcp"))


def _read(message: dict[str, Any]) -> tuple[int, int, bool, list[tuple[str, int]]]:
    """(seq, points of all rows together, whether it is the initial one, rows as (player, score)); seq −1: no picture."""
    if message["event"] not in ("leaderboard:initial", "leaderboard:update"):
        return -1, 0, False, []
    data = message["data"]
    rows = [(row["userId"], row["score"]) for row in data["leaderboard"]]
    return data["seq"], sum(score for _, score in rows), message["event"].endswith("initial"), rows

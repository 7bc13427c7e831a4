"""The two server processes: each started again 0.5 s after it died, on its old port, with a record of its troubles."""

import asyncio
import time
from pathlib import Path

from chaos.children import ServerChild
from chaos.history import History, Window, until
from chaos.http_line import HttpLine, NoAnswer

RESTART_AFTER = 0.5
START_WITHIN = 60.0
STOP_WITHIN = 15.0  # what a graceful stop may take


class Server:
    """One place in the line-up, whichever process fills it."""

    def __init__(self, number: int, port: int, folder: Path, environment: dict[str, str], history: History) -> None:
        self.number, self.name, self.port, self.history = number, "AB"[number], port, history
        self.child = ServerChild(self.name, port, folder / f"server-{self.name}.log", environment)
        self.up = asyncio.Event()
        self.trouble: Window | None = None
        self.expected_end = False
        self.keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        self.keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self.keeper is not None:
            self.keeper.cancel()
            await asyncio.wait([self.keeper])
        self.child.kill()

    def begin_trouble(self, *, graceful: bool = False) -> None:
        """From now on, until `end_trouble`, what this server does to its clients is our doing."""
        if self.trouble is None:
            self.trouble = Window(self.history.now(), graceful=graceful)
            self.history.troubles[self.number].append(self.trouble)

    def end_trouble(self) -> None:
        if self.trouble is not None:
            self.trouble.ended = self.history.now()
            self.trouble = None

    def kill(self) -> None:
        self.begin_trouble()
        self.expected_end = True
        self.up.clear()
        self.child.kill()

    async def stop_gracefully(self) -> float:
        """SIGTERM. Returns: seconds until it had gone."""
        self.begin_trouble(graceful=True)
        self.expected_end = True
        self.up.clear()
        began = time.monotonic()
        self.child.terminate()
        if not await until(lambda: not self.child.alive(), STOP_WITHIN):
            self.history.surprises.append(f"server {self.name} had not stopped {STOP_WITHIN:.0f} s after SIGTERM")
            self.child.kill()
        return time.monotonic() - began

    async def _keep(self) -> None:
        while True:
            await self._start()
            await until(lambda: not self.child.alive(), float("inf"))
            if not self.expected_end:
                status = self.child.process.returncode if self.child.process else None
                self.history.surprises.append(f"server {self.name} ended by itself with {status} at {self.history.now():.1f} s")
                self.begin_trouble()
            self.up.clear()
            await asyncio.sleep(RESTART_AFTER)

    async def _start(self) -> None:
        self.expected_end = False
        self.begin_trouble()
        try:
            self.child.start()
        except OSError:  # the old one's port is not free yet
            return
        deadline = time.monotonic() + START_WITHIN
        line = HttpLine(self.port)
        while self.child.alive() and time.monotonic() < deadline:
            try:
                if (await line.call("GET", "/healthz", {})).status == 200:
                    self.end_trouble()
                    self.up.set()
                    break
            except NoAnswer:
                await asyncio.sleep(0.05)
        line.close()

"""Processes that we start, freeze, thaw and kill: by their own pid, and nobody else's."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from scoreboard_project.engine_processes import die_with_parent

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Child:
    """A child process and its own children. `options`: for Popen (user, environment, folder)."""

    name: str
    command: list[str]
    log: Path
    options: dict[str, Any]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    frozen: list[psutil.Process] = field(default_factory=list, init=False)

    def spawn(self, *, keep: tuple[int, ...] = ()) -> None:
        """Start it. `keep`: descriptors that it inherits. Call from the main thread: the child ends with that."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=keep,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 (it takes no lock)
                start_new_session=True,
                **self.options,
            )

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def freeze(self) -> None:
        """SIGSTOP, the parent first, so that it makes no more children meanwhile."""
        for member in self._family():
            with contextlib.suppress(psutil.Error):
                member.send_signal(signal.SIGSTOP)
                self.frozen.append(member)
        known = {member.pid for member in self.frozen}
        for member in self._family():
            if member.pid not in known:
                with contextlib.suppress(psutil.Error):
                    member.send_signal(signal.SIGSTOP)
                    self.frozen.append(member)

    def thaw(self) -> None:
        for member in reversed(self.frozen):
            with contextlib.suppress(psutil.Error):
                member.send_signal(signal.SIGCONT)
        self.frozen.clear()

    def kill(self, *, family: bool = True) -> None:
        """SIGKILL, and reap. `family`: its children as well, not left to notice by themselves."""
        members = self._family() if family else self._family()[:1]
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.kill()
        self.frozen.clear()
        if self.process is not None:
            self.process.wait()

    def terminate(self) -> None:
        if self.alive() and self.process is not None:
            self.process.terminate()

    def _family(self) -> list[psutil.Process]:
        """Itself, then all below it."""
        if self.process is None or self.process.poll() is not None:
            return []
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []


class ServerChild(Child):
    """One server process of the scoreboard, always on the same port."""

    def __init__(self, name: str, port: int, log: Path, environment: dict[str, str]) -> None:
        super().__init__(name, [], log, {"cwd": ROOT, "env": environment})
        self.port = port

    def start(self) -> None:
        """Raises OSError while the port is still taken."""
        # The listener is the server's alone: while it is dead, connections are refused, as with a lost machine.
        with socket.create_server(("127.0.0.1", self.port), backlog=2048) as listener:
            number = listener.fileno()
            os.set_inheritable(number, True)
            self.command = [sys.executable, "-m", "scoreboard_project.server", "--fd", str(number)]
            self.spawn(keep=(number,))

"""What `serve` does while it serves: keeps the web processes, the sample players and the embedded engines alive.

A web process that dies is started again; SIGHUP replaces them one by one by new ones. Should this process be killed, its
children notice: they hold the reading end of a pipe whose writing end only it has.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.conf import settings
from prometheus_client.multiprocess import mark_process_dead

from scoreboard_project.engine_processes import Engines

START_SECONDS = 60.0
STOP_SECONDS = 15.0
STEADY_SECONDS = 10.0  # a web process that lived longer is replaced at once
LONGEST_PAUSE = 5.0  # between restarts of a web process that keeps dying
EVERYWHERE = {"0.0.0.0", "::", ""}  # noqa: S104 (compared with, not bound to)


@dataclass
class Slot:
    """The place of one web process. Times are monotonic seconds; `due` says when an empty one is filled again."""

    process: subprocess.Popen[bytes] | None
    started: float
    pause: float = 0.0
    due: float = 0.0


class Supervisor:
    """One thread, which sleeps in `select` until a signal, a child's end or the next second.

    `start` and `supervise` are called inside `with supervisor.supervising()`, on the main thread.
    """

    def __init__(self, listener: socket.socket, engines: Engines, say: Callable[[str], None], *, demo: bool) -> None:
        self.listener, self.engines, self.say, self.with_demo = listener, engines, say, demo
        port = listener.getsockname()[1]
        host = "127.0.0.1" if settings.HOST in EVERYWHERE else settings.HOST
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.environment = os.environ | {"PORT": str(port)} | ({"SAMPLE_DATA": "1"} if demo else {})
        self.slots: list[Slot] = []
        self.leaving: list[tuple[subprocess.Popen[bytes], float]] = []  # with the time when patience ends
        self.sample_players: subprocess.Popen[bytes] | None = None
        self.stop_signals = 0
        self.asked_to_roll = False
        self.had_terminal = sys.stdin is not None and sys.stdin.isatty()

    @contextlib.contextmanager
    def supervising(self) -> Iterator[None]:
        """Takes the signals over; at the end all children are gone."""
        self.wake, wake_end = os.pipe()
        # Children inherit the reading end only: when this process ends, however, they read its end.
        self.life, self.life_end = os.pipe()
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        try:
            yield
        finally:
            self.stop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)

    def start(self) -> None:
        """All web processes accept and /healthz answers.

        Raises SystemExit with a sentence where that fails, KeyboardInterrupt where we were asked to stop meanwhile.
        """
        started = self.start_web(settings.WEB_PROCESSES)
        if self.stop_signals:
            raise KeyboardInterrupt
        if started is None or not answers(f"{self.url}/healthz"):
            sys.exit("The web processes did not start; their last lines above say why. Then start again.")
        self.slots = [Slot(process, time.monotonic()) for process in started]
        if self.with_demo:
            self.sample_players = subprocess.Popen(
                [sys.executable, str(settings.BASE_DIR / "manage.py"), "sample_play"],
                stdin=self.life,
                env=self.environment | {"SAMPLE_BASE_URL": self.url},
                start_new_session=True,
            )

    def supervise(self) -> None:
        """Until a signal asks to stop. Raises EngineRefusal where a dead engine cannot be started again."""
        while not self.stop_signals:
            if self.asked_to_roll:
                self.asked_to_roll = False
                self.roll()
            for name in self.engines.revive():
                self.say(f"{name} had died: started again.")
            self.look_after_sample_players()
            self.look_after_web()
            self.look_after_leaving()
            soonest = min((slot.due for slot in self.slots if slot.process is None), default=float("inf"))
            self.wait(min(1.0, max(0.0, soonest - time.monotonic())))

    def look_after_sample_players(self) -> None:
        if self.sample_players is not None and (code := self.sample_players.poll()) is not None:
            self.sample_players = None
            self.say(f"The sample players stopped ({ending(code)}); the board goes on without them.")

    def look_after_web(self) -> None:
        now = time.monotonic()
        for slot in self.slots:
            if slot.process is not None and (code := slot.process.poll()) is not None:
                steady = now - slot.started > STEADY_SECONDS
                slot.pause = 0.0 if steady else min(LONGEST_PAUSE, max(0.25, 2 * slot.pause))
                slot.due = now + slot.pause
                self.say(f"A web process died ({ending(code)}); the next starts in {slot.pause:g} s.")
                mark_dead(slot.process)
                slot.process = None
            if slot.process is None and now >= slot.due:
                slot.process, slot.started = self.spawn_web(), now

    def look_after_leaving(self) -> None:
        for process, deadline in list(self.leaving):
            if process.poll() is not None:
                mark_dead(process)
                self.leaving.remove((process, deadline))
            elif time.monotonic() > deadline:
                process.kill()

    def roll(self) -> None:
        """Each web process is replaced only when its successor accepts."""
        self.say("Replacing the web processes one by one.")
        for slot in self.slots:
            began = time.monotonic()
            new = self.start_web(1)
            if new is None:
                self.say("The new web process did not start; the old ones stay. Mend it and send SIGHUP again.")
                return
            if slot.process is not None:
                self.dismiss(slot.process)
            slot.process, slot.started, slot.pause = new[0], time.monotonic(), 0.0
            self.say(f"Replaced one in {time.monotonic() - began:.1f} s.")

    def dismiss(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        self.leaving.append((process, time.monotonic() + STOP_SECONDS))

    def spawn_web(self, ready_fd: int | None = None) -> subprocess.Popen[bytes]:
        """A new web process, which writes one byte to `ready_fd` once it accepts requests."""
        listening = self.listener.fileno()
        command = [sys.executable, "-m", "scoreboard_project.server", f"--fd={listening}", f"--parent-fd={self.life}"]
        inherited = [listening, self.life]
        if ready_fd is not None:
            command.append(f"--ready-fd={ready_fd}")
            inherited.append(ready_fd)
        # A session of their own: Ctrl-C in the terminal reaches this process alone, which stops them in order.
        return subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            start_new_session=True,
        )

    def start_web(self, count: int) -> list[subprocess.Popen[bytes]] | None:
        """`count` web processes that accept requests; None where one failed or we were asked to stop."""
        ready, told = os.pipe()
        new = [self.spawn_web(told) for _ in range(count)]
        os.close(told)
        give_up, missing = time.monotonic() + START_SECONDS, count
        while missing and not self.stop_signals and time.monotonic() < give_up:
            if any(process.poll() is not None for process in new):
                break
            if self.wait(0.5, ready):
                missing -= len(os.read(ready, count))
        os.close(ready)
        if not missing:
            return new
        for process in new:
            self.dismiss(process)
        return None

    def wait(self, seconds: float, *others: int) -> list[int]:
        """Sleeps until a signal, a readable descriptor of `others` (returned), or for `seconds`."""
        readable = select.select([self.wake, *others], [], [], seconds)[0]
        if self.wake in readable:
            readable.remove(self.wake)
            for number in os.read(self.wake, 4096):
                # The terminal's window was closed: that SIGHUP is no wish for new web processes.
                hung_up = number == signal.SIGHUP and self.had_terminal and not sys.stdin.isatty()
                if hung_up or number in (signal.SIGINT, signal.SIGTERM):
                    self.stop_signals += 1
                elif number == signal.SIGHUP:
                    self.asked_to_roll = True
        return readable

    def stop(self) -> None:
        """Gracefully for STOP_SECONDS; a second Ctrl-C cuts that short."""
        web = [*(slot.process for slot in self.slots), *(process for process, _ in self.leaving)]
        alive = [child for child in (self.sample_players, *web) if child is not None and child.poll() is None]
        self.say("\nStopping …")
        for child in alive:
            child.terminate()
        # Else callers would wait in the backlog of a socket that nobody serves any more.
        self.listener.close()
        deadline, patience = time.monotonic() + STOP_SECONDS, self.stop_signals + 1
        while (alive := [child for child in alive if child.poll() is None]) and time.monotonic() < deadline:
            self.wait(0.5)
            if self.stop_signals >= patience:
                break
        for child in alive:
            child.kill()
            child.wait()


def answers(url: str) -> bool:
    """Whether a GET gets a 200, tried for some 5 s (for longer where answers are slow)."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(50):
        with contextlib.suppress(OSError), direct.open(url, timeout=5) as answer:
            if answer.status == 200:
                return True
        time.sleep(0.1)
    return False


def mark_dead(process: subprocess.Popen[bytes]) -> None:
    """Its gauges count no longer among those of all web processes."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(process.pid)


def ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

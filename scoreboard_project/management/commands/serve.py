"""`python manage.py serve`: the whole scoreboard from one command, until Ctrl-C or SIGTERM.

SIGHUP replaces the web processes one by one by new ones (new code, no lost request). A web process that dies is started
again, and so is an embedded engine. Should this process be killed, its children notice and stop.
"""

import contextlib
import errno
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connections
from prometheus_client.multiprocess import mark_process_dead

from scoreboard_project import engines

START_SECONDS = 60.0
STOP_SECONDS = 15.0
LONGEST_PAUSE = 5.0  # between restarts of a web process that keeps dying
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
EVERYWHERE = {"0.0.0.0", "::", ""}  # noqa: S104 (compared with, not bound to)
interrupted = threading.Event()  # asked to stop before there was a supervisor


class Command(BaseCommand):
    help = "Serves the scoreboard: embedded engines where no URL is set, migrations, static files, web processes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--no-demo", action="store_false", dest="demo", help="no sample players")

    def handle(self, *, demo: bool, **_: Any) -> None:
        # Until the supervisor takes the signals over, each of these means: stop, and clean up on the way out.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)
        began = time.monotonic()
        try:
            with contextlib.ExitStack() as stack:
                listener = stack.enter_context(listen(settings.HOST, settings.PORT))
                owned = self.start_engines(stack)
                self.prepare(demo=demo)
                supervisor = Supervisor(listener, owned, self.say, demo=demo)
                with supervisor.supervising():
                    with self.step(f"Starting {settings.WEB_PROCESSES} web process(es)"):
                        supervisor.start()
                    self.announce(supervisor.url, demo=demo, seconds=time.monotonic() - began)
                    supervisor.supervise()
        except KeyboardInterrupt:
            self.say("")
        self.say("Stopped.")

    def start_engines(self, stack: contextlib.ExitStack) -> engines.Engines:
        postgres, valkey = settings.EMBEDDED_POSTGRES, settings.EMBEDDED_REDIS
        if not (postgres or valkey):
            return engines.Engines([])
        names = " and ".join(["PostgreSQL"] * postgres + ["Valkey"] * valkey)
        with self.step(f"Starting {names} in {settings.DATA_DIR}"):
            return stack.enter_context(
                engines.running(
                    settings.DATA_DIR,
                    postgres=postgres,
                    valkey=valkey,
                    exclusive=True,
                    say=lambda line: self.say(f"{line} … ", end=""),
                )
            )

    def prepare(self, *, demo: bool) -> None:
        with self.step("Migrating the database"):
            call_command("migrate", interactive=False, verbosity=0)
        signature = static_signature()
        stamp = Path(settings.STATIC_ROOT) / ".collected"
        if not (stamp.exists() and stamp.read_text() == signature) and not is_ready_made(stamp.parent):
            with self.step("Collecting static files"):
                call_command("collectstatic", interactive=False, verbosity=0)
                stamp.write_text(signature)
        if demo:
            with self.step("Making sample players"):
                call_command("sample_players")
        connections.close_all()
        for counters in Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", "/nonexistent")).glob("*.db"):
            counters.unlink()

    def announce(self, url: str, *, demo: bool, seconds: float) -> None:
        self.say(f"\nReady in {seconds:.1f} s. Ctrl-C stops all that was started here.")
        for name, path in (("Board", "/"), ("Play", "/play/"), ("API docs", "/api/v1/docs"), ("Admin", "/admin/")):
            self.say(f"  {name:<10}{url}{path}")
        if demo and settings.EMBEDDED_POSTGRES and settings.HOST in LOOPBACK:
            made = engines.secrets(settings.DATA_DIR)
            self.say(f"  Sign in as sample / {made['SAMPLE_PLAYER_PASSWORD']} (player)")
            self.say(f"          or staff  / {made['SAMPLE_STAFF_PASSWORD']} (staff)")

    def say(self, line: str, end: str = "\n") -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.stdout.write(line, ending=end)
            self.stdout.flush()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        self.say(f"{what} … ", end="")
        began = time.monotonic()
        try:
            yield
            if interrupted.is_set():  # where the exception was raised, something swallowed it: a finalizer, say
                raise KeyboardInterrupt
        except BaseException:
            self.say("")
            raise
        self.say(f"{time.monotonic() - began:.1f} s")


@dataclass
class Slot:
    """The place of one web process. `due` (monotonic seconds) says when an empty one is filled again."""

    process: subprocess.Popen[bytes] | None
    started: float
    pause: float = 0.0
    due: float = 0.0


class Supervisor:
    """Keeps the web processes, the demo and the engines alive, on one thread that sleeps in `select`."""

    def __init__(self, listener: socket.socket, owned: engines.Engines, say: Callable[[str], None], *, demo: bool) -> None:
        self.listener, self.owned, self.say, self.with_demo = listener, owned, say, demo
        port = listener.getsockname()[1]
        host = "127.0.0.1" if settings.HOST in EVERYWHERE else settings.HOST
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.environment = os.environ | {"PORT": str(port)} | ({"SAMPLE_DATA": "1"} if demo else {})
        self.slots: list[Slot] = []
        self.leaving: list[tuple[subprocess.Popen[bytes], float]] = []
        self.demo: subprocess.Popen[bytes] | None = None
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
        """All web processes accept and /healthz answers; ends this process with a sentence where that fails."""
        started = self.start_web(settings.WEB_PROCESSES)
        if self.stop_signals:
            raise KeyboardInterrupt
        if started is None or not answers(f"{self.url}/healthz"):
            sys.exit("The web processes did not start; their last lines above say why. Then start again.")
        self.slots = [Slot(process, time.monotonic()) for process in started]
        if self.with_demo:
            command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "sample_play"]
            environment = self.environment | {"SAMPLE_BASE_URL": self.url}
            self.demo = subprocess.Popen(
                command,
                stdin=self.life,
                env=environment,
                start_new_session=True,
                preexec_fn=engines.die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (it takes no lock)
            )

    def supervise(self) -> None:
        """Until a signal asks to stop."""
        while not self.stop_signals:
            if self.asked_to_roll:
                self.asked_to_roll = False
                self.roll()
            self.tend()
            soonest = min((slot.due for slot in self.slots if slot.process is None), default=float("inf"))
            self.wait(min(1.0, max(0.0, soonest - time.monotonic())))

    def tend(self) -> None:
        for name in self.owned.revive():
            self.say(f"{name} had died: started again.")
        if self.demo is not None and (code := self.demo.poll()) is not None:
            self.demo = None
            self.say(f"The sample players stopped ({ending(code)}); the board goes on without them.")
        now = time.monotonic()
        for slot in self.slots:
            if slot.process is not None and (code := slot.process.poll()) is not None:
                slot.pause = 0.0 if now - slot.started > 10 else min(LONGEST_PAUSE, max(0.25, 2 * slot.pause))
                slot.due = now + slot.pause
                self.say(f"A web process died ({ending(code)}); the next starts in {slot.pause:g} s.")
                mark_dead(slot.process)
                slot.process = None
            if slot.process is None and now >= slot.due:
                slot.process, slot.started = self.spawn_web(), now
        for process, deadline in list(self.leaving):
            if process.poll() is not None:
                mark_dead(process)
                self.leaving.remove((process, deadline))
            elif now > deadline:
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
                slot.process.terminate()
                self.leaving.append((slot.process, time.monotonic() + STOP_SECONDS))
            slot.process, slot.started, slot.pause = new[0], time.monotonic(), 0.0
            self.say(f"Replaced one in {time.monotonic() - began:.1f} s.")

    def spawn_web(self, ready_fd: int | None = None) -> subprocess.Popen[bytes]:
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
        self.leaving += [(process, time.monotonic() + STOP_SECONDS) for process in new]
        for process in new:
            process.terminate()
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
        children = [self.demo, *(slot.process for slot in self.slots), *(process for process, _ in self.leaving)]
        alive = [child for child in children if child is not None and child.poll() is None]
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


def interrupt(*_: object) -> None:
    interrupted.set()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # one is enough: the clean-up itself must not be interrupted
    raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. Ends this process with a sentence where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError) as problem:
        if getattr(problem, "errno", None) == errno.EADDRINUSE and (free := next_free(host, port)):
            sys.exit(f"Port {port} on {host} is taken. Use the next free one: PORT={free} python3 run.py")
        sys.exit(f"Cannot listen on HOST={host} PORT={port} ({problem}). Set HOST and PORT to what this machine has.")
    return listener


def next_free(host: str, port: int) -> int | None:
    for candidate in range(port + 1, min(port + 100, 65_536)):
        with contextlib.suppress(OSError), socket.create_server((host, candidate)):
            return candidate
    return None


def static_signature() -> str:
    """Changes when a static file, the storage or Django does. 5–20 ms, where collecting takes seconds."""
    digest = hashlib.sha256(f"{django.__version__} {settings.STORAGES}".encode())
    for finder in get_finders():
        for path, storage in finder.list([]):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path} {found.st_mtime_ns} {found.st_size}\n".encode())
    return digest.hexdigest()


def is_ready_made(folder: Path) -> bool:
    """Collected when an image was built, and read-only since."""
    return folder.is_dir() and any(folder.iterdir()) and not os.access(folder, os.W_OK)


def answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(50):
        with contextlib.suppress(OSError), direct.open(url, timeout=5) as answer:
            if answer.status == 200:
                return True
        time.sleep(0.1)
    return False


def mark_dead(process: subprocess.Popen[bytes]) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(process.pid)


def ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

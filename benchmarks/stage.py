"""All that the benchmark starts: PostgreSQL (fsync on) and Valkey of its own, servers as `serve` runs them, clients."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from benchmarks import processes
from scoreboard_project import engines
from scoreboard_project.engine_processes import Engines, die_with_parent

ROOT = Path(__file__).resolve().parent.parent
START_WITHIN = 60.0
ANSWER_WITHIN = 180.0
# 0 switches a limit off: what is measured is the work, not the refusal. All else is as in production.
NO_LIMITS = {
    "ACTION_RATE_LIMIT": "0",
    "SCORE_RATE_LIMIT": "0",
    "SIGN_IN_FAILURE_LIMIT": "0",
    "SIGN_IN_ADDRESS_LIMIT": "0",
    "UNREDEEMED_TOKEN_LIMIT": "0",
    "SCORE_TOKEN_TTL_SECONDS": "600",  # tokens are made first and spent later
}

# Counted as in production, and never reached.
HIGH_LIMITS = {"ACTION_RATE_LIMIT": "1000000", "SCORE_RATE_LIMIT": "1000000", "UNREDEEMED_TOKEN_LIMIT": "1000000"}

Say = Callable[[str], None]


class BenchmarkError(Exception):
    """It cannot be measured. One sentence that says why."""


class Helper:
    """A client process that takes one JSON command a line and answers one a line."""

    def __init__(self, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 (it takes no lock)
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, wait for its answer. Raises BenchmarkError."""
        self.tell(**command)
        return self.answer()

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        # Nothing is buffered between answers: each command has one.
        if not select.select([self.process.stdout], [], [], ANSWER_WITHIN)[0]:
            raise BenchmarkError(f"A client did not answer for {ANSWER_WITHIN:.0f} s.")
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError("A client has died; what it said is above.")
        found: dict[str, Any] = json.loads(line)
        if problem := found.get("problem"):
            raise BenchmarkError(str(problem))
        return found

    def __enter__(self) -> "Helper":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Server:
    """`manage.py serve`, without sample players. `start_seconds`: until it answered."""

    process: subprocess.Popen[bytes]
    port: int
    start_seconds: float


@dataclass
class Stage:
    """`environment`: of every process of the scoreboard's. `load`: who sends requests."""

    folder: Path
    engines: Engines
    environment: dict[str, str]
    load: Helper
    say: Say
    players_made: int = 0

    @contextlib.contextmanager
    def serving(self, *, processes: int = 1, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Server]:
        """A server, ready. Raises BenchmarkError."""
        port = free_port()
        environment = self.environment | {"PORT": str(port), "WEB_PROCESSES": str(processes), **settings}
        with serve(environment, self.folder / "serve.log", port) as server:
            yield server

    def manage(self, *arguments: str) -> str:
        """`manage.py …`: its output. Raises BenchmarkError."""
        return self._run("manage.py", *arguments)

    def seed(self, players: int) -> None:
        """Sample players with scores, until there are so many."""
        if players > self.players_made:
            self.manage("seed_players", "--players", str(players - self.players_made))
            self.players_made = players

    def cast(self, count: int, *, top: bool = False) -> None:
        """Who plays from now on: `count` of all players, or the first ones of the board."""
        lines = self._run("-m", "benchmarks.players", str(count), *(["--top"] if top else [])).splitlines()
        self.load.ask(do="players", players=[json.loads(line) for line in lines])

    def raise_caps(self) -> None:
        """The completed action is counted towards a daily cap that nobody reaches, with no cooldown."""
        with psycopg.connect(self.environment["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(
                "UPDATE actions_actiontype SET cooldown_seconds = 0, daily_cap = 1000000 WHERE slug = 'task_finish'"
            )

    def cpu(self, server: Server) -> dict[str, float]:
        """CPU seconds so far, by part."""
        among = processes.snapshot()
        used = {"server": processes.cpu_seconds(server.process.pid, among)}
        return used | {name: processes.cpu_seconds(pid, among) for name, pid in self.engine_pids().items()}

    def engine_pids(self) -> dict[str, int]:
        names = {"PostgreSQL": "postgres", "Valkey": "redis"}
        return {names[engine.name]: engine.process.pid for engine in self.engines.owned if engine.process is not None}

    def settle(self) -> None:
        """What seeding has left for later is not billed to what is measured next."""
        with psycopg.connect(self.environment["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")

    def database_mib(self) -> float:
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return row[0] / 2**20 if row else 0.0

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """A Python program beside, with the servers' environment; it ends with us."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 (it takes no lock)
            )

    def _run(self, *arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, *arguments], check=False, cwd=ROOT, env=self.environment, capture_output=True, text=True
        )
        if ran.returncode:
            raise BenchmarkError(f"{' '.join(arguments[:3])} failed: {ran.stderr.strip()[-800:]}")
        return ran.stdout


@contextlib.contextmanager
def set_stage(say: Say) -> Iterator[Stage]:
    """Engines in a temporary folder, migrated and empty; all gone at the end. Raises BenchmarkError, EngineRefusal."""
    with contextlib.ExitStack() as stack:
        # Directly below /tmp: the names of Unix sockets are short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scoreboard-bench-", dir="/tmp")))
        folder.chmod(0o711)  # the engines may run as another user, who must reach their files below
        owned = stack.enter_context(engines.running(folder, exclusive=True))
        environment = own_environment() | NO_LIMITS | engines.secrets(folder) | {"DATA_DIR": str(folder / "web")}
        environment |= {"DATABASE_URL": engines.postgres_url(folder), "REDIS_URL": engines.redis_url(folder)}
        load = stack.enter_context(Helper("benchmarks.http_client"))
        stage = Stage(folder, owned, environment, load, say)
        stage.manage("migrate", "--verbosity", "0")
        yield stage


@contextlib.contextmanager
def serve(environment: dict[str, str], log: Path, port: int) -> Iterator[Server]:
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--no-demo"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (it takes no lock)
        )
    try:
        while not ready(port):
            if process.poll() is not None or time.monotonic() > began + START_WITHIN:
                raise BenchmarkError(f"The server does not start: {log.read_text(errors='replace').strip()[-800:]}")
            time.sleep(0.02)
        yield Server(process, port, time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def own_environment() -> dict[str, str]:
    """Nothing of the caller's settings."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ} | {"LOG_FORMAT": "json"}


def ready(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), direct.open(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

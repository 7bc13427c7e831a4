"""Everything that a run starts: the engines, a proxy in front of each, two servers, players with access tokens."""

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from chaos.children import ROOT
from chaos.engine_children import PostgresChild, StageError, ValkeyChild
from chaos.history import History, Sample
from chaos.proxy import Proxy
from chaos.servers import START_WITHIN, Server
from scoreboard_project.engine_processes import engine_user

MINT_AGAIN = 8 * 60.0  # s; access tokens live 15 minutes
COMMAND_WITHIN = 60.0


@dataclass
class Player:
    id: str
    token: str  # an access token


@dataclass
class Stage:
    """The cast. `environment`: of every process of the scoreboard's, through the proxies."""

    folder: Path
    postgres: PostgresChild
    valkey: ValkeyChild
    postgres_proxy: Proxy
    valkey_proxy: Proxy
    servers: list[Server]
    players: list[Player]
    environment: dict[str, str]

    async def manage(self, *arguments: str) -> tuple[int, str]:
        """`manage.py …` with the servers' environment. Returns: (exit status, output)."""
        command = [sys.executable, "manage.py", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), COMMAND_WITHIN)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        text = output.decode() if process.returncode == 0 else f"{output.decode()}{errors.decode()}"
        return process.returncode or 0, text

    async def must_manage(self, *arguments: str) -> str:
        """The same; raises StageError where it fails."""
        status, text = await self.manage(*arguments)
        if status:
            raise StageError(f"manage.py {arguments[0]} failed: {text.strip()[-500:]}")
        return text

    async def mint(self, count: int) -> None:
        """Access tokens for `count` players, made if missing; again for those that are there."""
        minted = [json.loads(line) for line in (await self.must_manage("mint_tokens", "--players", str(count))).splitlines()]
        self.players[:] = [Player(line["userId"], line["token"]) for line in minted]

    async def keep_minting(self, count: int) -> None:
        """For ever: new access tokens before the old ones expire."""
        while True:
            await asyncio.sleep(MINT_AGAIN)
            for _ in range(10):  # PostgreSQL may be down just now
                with contextlib.suppress(StageError, TimeoutError):
                    await self.mint(count)
                    break
                await asyncio.sleep(5)

    async def sample(self, at: float) -> Sample | None:
        """What the servers and PostgreSQL hold now; None where one of them is down."""
        found = Sample(at, {}, {}, {}, 0)
        try:
            for server in self.servers:
                process = psutil.Process(server.child.pid)
                found.threads[server.name] = process.num_threads()
                found.descriptors[server.name] = process.num_fds()
                found.mebibytes[server.name] = process.memory_info().rss / 2**20
            async with await psycopg.AsyncConnection.connect(self.postgres.url, connect_timeout=2) as connection:
                cursor = await connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                row = await cursor.fetchone()
                found.backends = row[0] if row else 0
        except (psutil.Error, psycopg.Error):
            return None
        return found


@contextlib.asynccontextmanager
async def set_stage(history: History, players: int) -> AsyncIterator[Stage]:
    """The stage, ready to be played on. At the end every process that it started is gone; the folder stays.

    Raises: StageError, scoreboard_project.engine_processes.EngineRefusal.
    """
    folder = Path(tempfile.mkdtemp(prefix="scoreboard-chaos-"))
    try:
        stage = _make(folder, history)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        await asyncio.to_thread(stage.postgres.make_cluster)
        await stage.postgres.start()
        await stage.postgres.make_database()
        await stage.valkey.start()
        await stage.postgres_proxy.start()
        await stage.valkey_proxy.start()
        await stage.must_manage("migrate", "--verbosity", "0")
        await stage.mint(players)
        for server in stage.servers:
            server.open()
        async with asyncio.timeout(START_WITHIN):
            await asyncio.gather(*(server.up.wait() for server in stage.servers))
    except StageError as problem:
        await _strike(stage)
        raise StageError(f"{problem} Logs: {folder}") from problem
    except BaseException:
        await _strike(stage)
        raise
    try:
        yield stage
    finally:
        await _strike(stage)


def _make(folder: Path, history: History) -> Stage:
    """Nothing of it is started yet."""
    folder.chmod(0o711)  # the engines may run as another user, who must reach their files below
    user = engine_user(folder)
    ports = _free_ports(6)
    postgres = PostgresChild(folder, ports[0], secrets.token_hex(16), user)
    valkey = ValkeyChild(folder, ports[1], secrets.token_hex(16), user)
    postgres_proxy, valkey_proxy = Proxy(ports[2], ports[0], postgres=True), Proxy(ports[3], ports[1])
    environment = _environment(folder, postgres.url_at(ports[2]), valkey.url_at(ports[3]))
    servers = [Server(number, ports[4 + number], folder, environment, history) for number in (0, 1)]
    return Stage(folder, postgres, valkey, postgres_proxy, valkey_proxy, servers, [], environment)


async def _strike(stage: Stage) -> None:
    for server in stage.servers:
        await server.close()
    for proxy in (stage.postgres_proxy, stage.valkey_proxy):
        if hasattr(proxy, "listener"):
            proxy.close()
    stage.valkey.kill()
    stage.postgres.kill()


def _environment(folder: Path, database_url: str, redis_url: str) -> dict[str, str]:
    """Nothing of the caller's own settings. No limits: it is not they that are tested, and they would hide the load."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    return keep | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DATA_DIR": str(folder / "data"),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "JWT_SIGNING_KEY": secrets.token_urlsafe(48),
        "SCORE_TOKEN_KEYS": "k1:" + secrets.token_urlsafe(48),
        "ACTION_RATE_LIMIT": "0",
        "SCORE_RATE_LIMIT": "0",
        "SIGN_IN_FAILURE_LIMIT": "0",
        "SIGN_IN_ADDRESS_LIMIT": "0",
        "LOG_LEVEL": "WARNING",
        "LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
    }


def _free_ports(count: int) -> list[int]:
    """Below the ports that the kernel gives to outgoing connections: one of those could sit on a dead server's port."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(15_000, 32_000), 2_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise StageError(f"There are no {count} free ports between 15000 and 32000.")

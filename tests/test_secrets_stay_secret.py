"""Every kind of secret is used, with errors provoked on the way; then every log that there is gets searched for each."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import websockets
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import connection
from django.test import Client

from actions import server_keys
from actions.models import ActionType
from leaderboard.models import Player
from tests.conftest import PASSWORD, Server, serving
from tests.test_probes_and_logs import TOKEN

WEBHOOK = {"ALERT_WEBHOOK_URL": "http://127.0.0.1:9/", "ALERT_WEBHOOK_SECRET": "whsec_" + "c2VjcmV0" * 5}
BROKEN_TABLES = ("scoreboard_project_signin", "leaderboard_scoreentry", "actions_serverkey", "django_session")


def engine_logs() -> list[Path]:
    """Of the engines that the test session runs itself."""
    return [log for log in django_settings.DATA_DIR.glob("*.log") if log.stat().st_size]


def issued_key() -> Any:
    ActionType.objects.create(slug="match_won", label="Match", points=250, verification="trusted")
    return server_keys.issue("arena", ["match_won"])


def session_of(player: Player) -> str:
    browser = Client()
    browser.force_login(player)
    return browser.cookies[django_settings.SESSION_COOKIE_NAME].value


@asynccontextmanager
async def without(table: str) -> AsyncIterator[None]:
    """While a table has another name: whoever needs it gets an error in the middle of what they do."""

    def rename(old: str, new: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    await sync_to_async(rename)(table, f"{table}_away")
    try:
        yield
    finally:
        await sync_to_async(rename)(f"{table}_away", table)


@asynccontextmanager
async def running(folder: Any, **environment: str) -> AsyncIterator[Server]:
    process = serving(folder, **environment)
    yield await asyncio.to_thread(process.__enter__)
    await asyncio.to_thread(process.__exit__, None, None, None)


async def watch(server: Server, query: str = "", **kwargs: Any) -> None:
    """Open the live socket and say what a client may say, as far as the server lets us."""
    with suppress(websockets.WebSocketException):
        async with websockets.connect(server.socket_url + query, **kwargs) as live:
            await live.recv()
            await live.send(json.dumps({"action": "authenticate", "token": TOKEN}))
            async with asyncio.timeout(10):
                async for _ in live:
                    pass


async def test_no_secret_reaches_a_log_even_at_its_most_talkative(world, alice, tmp_path):
    read = {log: log.stat().st_size for log in engine_logs()}
    _, server_key = await sync_to_async(issued_key)()
    session, csrf = await sync_to_async(session_of)(alice), "f" * 32
    signed_in = {"Cookie": f"{django_settings.SESSION_COOKIE_NAME}={session}; csrftoken={csrf}"}
    await Player.objects.filter(pk=alice.pk).aupdate(password=PBKDF2PasswordHasher().encode(PASSWORD, "s" * 22))
    wrong = "a wrong password 4711"
    async with running(tmp_path, LOG_LEVEL="DEBUG", LOG_FORMAT="json", **WEBHOOK) as server:
        async with server.api() as http:
            calls = "/api/v1/auth/token"
            first = (await http.post(calls, json={"username": "alice", "password": PASSWORD})).json()["data"]
            for _ in range(6):
                await http.post(calls, json={"username": "alice", "password": wrong})
            pair = (await http.post(f"{calls}/refresh", json={"refresh": first["refresh"]})).json()["data"]
            await http.post(f"{calls}/refresh", json={"refresh": first["refresh"]})
            await http.post(f"{calls}/revoke", json={"refresh": pair["refresh"]})
            known = {"Authorization": f"Bearer {pair['access']}"}
            done = await http.post("/api/v1/actions/complete", json={"actionType": "level_up"}, headers=known)
            issued = done.json()["data"]
            for _ in range(23):
                sent = {**known, "X-Score-Token": issued["scoreToken"]}
                await http.post("/api/v1/scores/update", json={"actionId": issued["actionId"]}, headers=sent)
            for path in ("/", "/nope", "/api/v1/nope", "/api/v1/scores/leaderboard", "/api/v1/docs", "/sign-in/"):
                for query in ({"token": pair["access"]}, {"x": pair["access"]}, {"token": "opaque-secret-4711"}):
                    await http.get(path, params=query)
                    await http.get(path, params=query, headers={**known, "Host": "evil.example"})
            await http.get(f"/{pair['access']}")
            form = {"username": "alice", "password": PASSWORD}
            await http.post("/sign-in/", data=form, headers={"X-Request-ID": "without-csrf"})
            by_key = {"Authorization": f"Api-Key {server_key}"}
            for asked in ({}, {"actionType": "match_won", "playerId": str(alice.pk), "actionData": {"reference": "m1"}}):
                await http.post("/api/v1/actions/complete", json=asked, headers=by_key)
            await http.post("/api/v1/actions/complete", json=asked, headers={"Authorization": f"Api-Key {server_key}x"})
            for token in (csrf, "wrong" + csrf[5:]):
                form |= {"csrfmiddlewaretoken": token}
                await http.post("/sign-in/", data=form, headers={"Cookie": f"csrftoken={csrf}"})
                await http.post("/play/", data={**form, "actionType": "level_up"}, headers=signed_in)
            for table in BROKEN_TABLES:
                async with without(table):
                    await http.post(calls, json={"username": "alice", "password": PASSWORD})
                    await http.post(f"{calls}/refresh", json={"refresh": pair["refresh"]})
                    await http.post("/api/v1/actions/complete", json=asked, headers=by_key)
                    await http.post("/api/v1/scores/update", json={"actionId": issued["actionId"]}, headers=sent)
                    await http.get("/play/", headers=signed_in)
        await watch(server, f"?token={pair['access']}")
        await watch(server, f"?token={pair['access']}x")
        await watch(server, "?token=opaque-secret-4711")
        await watch(server, f"?token={pair['access']}", origin="https://evil.example")
        await watch(server, additional_headers=known)
        with suppress(websockets.WebSocketException):
            await websockets.connect(f"{server.socket_url}/nowhere?token={pair['access']}")
        await _half_a_handshake(server, pair["access"])
    text = await asyncio.to_thread(server.log.read_text)
    lines = [json.loads(line) for line in text.splitlines() if line]
    assert sum("Traceback" in line.get("exception", "") for line in lines) >= len(BROKEN_TABLES)
    assert {"debug", "warning", "error"} <= {line["level"] for line in lines}
    assert {"refresh_token_reused", "sign_in_limited", "alert"} <= {line["event"] for line in lines}
    assert all(line.get("request_id") for line in lines if line["event"] in ("refresh_token_reused", "sign_in_limited", "alert"))
    assert any(line.get("request_id") == "without-csrf" for line in lines)
    for log, size in read.items():
        text += (await asyncio.to_thread(log.read_bytes))[size:].decode()
    secrets = [
        PASSWORD,
        wrong,
        server_key,
        csrf,
        session,
        WEBHOOK["ALERT_WEBHOOK_SECRET"],
        "opaque-secret-4711",
        TOKEN,
        issued["scoreToken"],
        *first.values(),
        *pair.values(),
    ]
    secrets += [django_settings.SECRET_KEY, django_settings.JWT_SIGNING_KEY, *django_settings.SCORE_TOKEN_KEYS.values()]
    if connection.settings_dict["PASSWORD"]:
        secrets.append(connection.settings_dict["PASSWORD"])
    for secret in secrets:
        assert secret not in text
        assert secret.rsplit(".", 1)[-1] not in text
    assert "eyJ" not in text
    assert "sbk_" not in text


async def _half_a_handshake(server: Server, token: str) -> None:
    """A handshake that is wrong in its protocol: what does a server say of that?"""

    def speak() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            line = f"GET /api/v1/scores/live?token={token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            raw.sendall(f"{line}Connection: Upgrade\r\nSec-WebSocket-Version: 8\r\n\r\n".encode())
            raw.recv(1000)

    await sync_to_async(speak)()

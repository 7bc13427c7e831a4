"""What one connection may cost a server process that has no gateway before it: heads, bodies, patience, pages at once."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from scoreboard_project import http_protocol, page_handler
from scoreboard_project.asgi import _pages
from tests.conftest import Server, serving

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /theme/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
API_POST = b"POST /api/v1/auth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def server(world: None, tmp_path: Path) -> Any:
    with serving(tmp_path) as running:
        yield running


async def said_back(server: Server, *parts: bytes, pause: float = 0.05, patience: float = 10) -> bytes:
    """What the server says until it closes the connection, however much of ours it reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(patience):
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
            except ConnectionError:
                pass
            try:
                return await answer
            except ConnectionError:
                return b""
    finally:
        answer.cancel()
        writer.close()


def status(answer: bytes) -> int:
    assert b"\r\nx-request-id: " in answer.lower(), answer
    return int(answer.split(b" ", 2)[1])


async def test_a_head_is_at_most_32_kib_and_100_lines(server):
    lines = [b"X-%d: a\r\n" % i for i in range(101)]
    assert status(await said_back(server, GET + b"".join(lines) + b"\r\n")) == 431
    assert status(await said_back(server, GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n")) == 431  # in one piece
    assert status(await said_back(server, GET + b"X: ", *[b"a" * 8_000] * 5)) == 431  # it never ends
    assert status(await said_back(server, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")) == 431
    socket = GET.replace(b"healthz", b"api/v1/scores/live") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert status(await said_back(server, socket + b"".join(lines) + b"\r\n")) == 431
    fits = GET + b"Connection: close\r\nX: " + b"a" * 30_000 + b"\r\n" + b"".join(lines[:90]) + b"\r\n"
    assert status(await said_back(server, fits)) == 200
    assert status(await said_back(server, *(fits[i : i + 5_000] for i in range(0, len(fits), 5_000)))) == 200


async def test_a_flood_of_trailers_or_chunk_sizes_is_cut(server, monkeypatch):
    chunked = b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    trailers = b"0\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(600_000))
    started = time.monotonic()
    await said_back(server, POST + chunked, trailers)
    await said_back(server, API_POST + chunked, b"1;" + b"x" * 6_000_000)
    assert time.monotonic() - started < 10  # not the deadline's doing


async def test_a_form_is_at_most_256_kib_and_cut_while_it_is_read(server):
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert status(await said_back(server, POST + b"Content-Length: %d\r\n\r\n" % (most + 1))) == 413
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    assert status(await said_back(server, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 9)) == 413
    form = b"theme=dark&x=".ljust(most, b"a")
    head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % most
    assert status(await said_back(server, head + form)) == 303  # head and body in one piece
    assert status(await said_back(server, head, form[:1000], form[1000:])) == 303


async def test_a_head_or_a_body_that_does_not_come_is_not_waited_for(server):
    started = time.monotonic()
    patience = http_protocol.SECONDS + 5
    answers = await asyncio.gather(
        said_back(server, b"GET /healthz HTTP/1.1\r\nHo", patience=patience),
        said_back(server, API_POST + b"Content-Length: 100\r\n\r\n{", patience=patience),
        said_back(server, POST + b"Content-Length: 100\r\n\r\na", patience=patience),
        said_back(server, GET, *[b"X-A: b\r\n"] * 40, pause=0.5, patience=patience + 5),  # a drop at a time
    )
    assert [status(answer) for answer in answers] == [408] * 4
    assert time.monotonic() - started > http_protocol.SECONDS - 1
    assert "Traceback" not in server.log.read_text() and "without starting response" not in server.log.read_text()


async def test_a_connection_between_two_requests_and_a_socket_are_left_alone(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET[:20])
    await asyncio.sleep(0.2)
    writer.write(GET[20:] + b"\r\n")
    assert b" 200 " in await reader.readline()
    shake = GET.replace(b"healthz", b"api/v1/scores/live") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    shake += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    viewer, to_viewer = await asyncio.open_connection("127.0.0.1", server.port)
    to_viewer.write(shake[:50])
    await asyncio.sleep(0.2)
    to_viewer.write(shake[50:])
    assert b" 101 " in await viewer.readline()
    await asyncio.sleep(http_protocol.SECONDS + 1)
    writer.write(GET + b"\r\n")
    async with asyncio.timeout(5):
        while b"HTTP/1.1 200 " not in await reader.readline():
            pass
    assert not viewer.at_eof() and not to_viewer.is_closing()
    writer.close()
    to_viewer.close()


# --- Pages at once ----------------------------------------------------------------------------------------------------


async def test_so_many_pages_are_made_at_once_some_wait_and_the_rest_are_told(api, monkeypatch):
    go, at_once, most = asyncio.Event(), 0, 0
    real = _pages.django

    async def slowly(scope: dict, receive: Any, send: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await go.wait()
        at_once -= 1
        await real(scope, receive, send)

    monkeypatch.setattr(_pages, "django", slowly)
    monkeypatch.setattr(page_handler, "WAITING", 5)
    asked = [asyncio.create_task(api.http.get("/embed/")) for _ in range(page_handler.UNDER_WAY + 5)]
    await asyncio.sleep(0.5)
    refused = await api.http.get("/embed/")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "3")
    assert "default-src 'none'" in refused.headers["Content-Security-Policy"] and refused.headers["X-Request-ID"]
    assert (await api.call("GET", "/scores/leaderboard")).status_code == 200
    go.set()
    assert [(await answer).status_code for answer in asked] == [200] * len(asked)
    assert most == page_handler.UNDER_WAY
    assert (await api.http.get("/embed/")).status_code == 200


async def test_nobody_waits_long_for_a_page_s_turn(api, monkeypatch):
    async def stuck(_scope: dict, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(_pages, "django", stuck)
    monkeypatch.setattr(page_handler, "WAIT_SECONDS", 0.2)
    asked = [asyncio.create_task(api.http.get("/embed/")) for _ in range(page_handler.UNDER_WAY)]
    await asyncio.sleep(0.2)
    assert (await api.http.get("/embed/")).status_code == 503
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    monkeypatch.undo()
    assert (await api.http.get("/embed/")).status_code == 200  # a page that was given up gives its place back

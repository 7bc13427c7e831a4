"""Bytes on the wire that no HTTP or WebSocket client would send, against a real server process."""

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from leaderboard.models import ScoreEntry
from tests.conftest import Api, Server, serving
from tests.test_live import LIVE, handshake, sockets_open, until

HEAD = b"POST /api/v1/auth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
READ = b"GET /api/v1/scores/leaderboard HTTP/1.1\r\nHost: localhost\r\n"
END = b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def process(django_db_setup, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture
def server(process, world):
    yield process
    log = process.log.read_text()
    assert "Traceback" not in log and '"level": "error"' not in log, log


async def said(server: Server, *parts: bytes, seconds: float = 10) -> bytes:
    """All that comes back until the server closes or falls silent for a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    heard = b""
    try:
        async with asyncio.timeout(seconds):
            for part in parts:
                writer.write(part)
                await writer.drain()
            while piece := await asyncio.wait_for(reader.read(65_536), 1):
                heard += piece
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return heard


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


REFUSED = {
    "both lengths": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n" + END + b"2\r\n{}\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n" + END + b"{}",
    "a length below zero": HEAD + b"Content-Length: -1\r\n" + END,
    "a length with a sign": HEAD + b"Content-Length: +5\r\n" + END + b"{}   ",
    "a length without end": HEAD + b"Content-Length: " + b"9" * 40 + b"\r\n" + END,
    "a bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n" + END + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk below zero": HEAD + b"Transfer-Encoding: chunked\r\n" + END + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk without end": HEAD + b"Transfer-Encoding: chunked\r\n" + END + b"fffffffffffffffff\r\n{}",
    "a space before the colon": READ + b"X-Odd : 1\r\n" + END,
    "a header without a name": READ + b": 1\r\n" + END,
    "a header without a colon": READ + b"nonsense\r\n" + END,
    "NUL in a header": READ + b"X-Odd: a\x00b\r\n" + END,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "a control byte in the path": b"GET /\x01 HTTP/1.1\r\nHost: localhost\r\n" + END,
    "no host": b"GET /api/v1/scores/leaderboard HTTP/1.1\r\n" + END,
    "an empty host": b"GET /api/v1/scores/leaderboard HTTP/1.1\r\nHost:\r\n" + END,
    "a host of 5,000 letters": b"GET /api/v1/scores/leaderboard HTTP/1.1\r\nHost: " + b"x" * 5_000 + b"\r\n" + END,
    "no host for a page": b"GET / HTTP/1.1\r\n" + END,
}


async def test_what_is_no_sound_request_is_refused(server):
    for name, request in REFUSED.items():
        answer = await said(server, request)
        assert not answer or 400 <= statuses(answer)[0] < 500, (name, answer)
        assert len(statuses(answer)) <= 1, (name, answer)  # nothing that came behind it was taken for a request
        assert b"server:" not in answer.lower(), name
    async with server.api() as http:
        assert (await http.get("/api/v1/scores/leaderboard")).status_code == 200


async def test_what_could_be_read_in_two_ways_is_read_in_one(server):
    """Folded headers, bare line feeds, two hosts, an address with its host: it is no fault, and one answer."""
    for request in (
        READ + b"X-Odd: a\r\n b\r\n" + END,
        READ.replace(b"\r\n", b"\n") + END.replace(b"\r\n", b"\n"),
        READ + b"Host: evil.example\r\n" + END,
        b"GET http://evil.example/api/v1/scores/leaderboard HTTP/1.1\r\nHost: localhost\r\n" + END,
        b"GET //evil.example/api/v1/scores/leaderboard HTTP/1.1\r\nHost: localhost\r\n" + END,
        b"GET /api/v1/scores/leaderboard HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n" + END,
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n" + END,
        READ + b"".join(b"X-%d: 1\r\n" % at for at in range(600)) + END,
        READ + b"X-Long: " + b"x" * 60_000 + b"\r\n" + END,
        READ + b"Authorization: Bearer " + b"x" * 20_000 + b"\r\n" + END,
        READ + b"Daphne-Root-Path: //evil\r\nX-Forwarded-Host: evil.example\r\n" + END,
    ):
        answer = await said(server, request)
        assert len(statuses(answer)) <= 1 and not [status for status in statuses(answer) if status >= 500], (request[:80], answer)
        assert b"evil" not in answer, request


async def test_requests_in_one_breath_are_answered_in_their_order(server):
    ids = [b"r%03d" % number for number in range(200)]
    answer = await said(server, b"".join(READ + b"X-Request-ID: " + id_ + b"\r\n\r\n" for id_ in ids))
    assert statuses(answer) == [200] * 200
    assert re.findall(rb"(?i)x-request-id: (\w+)", answer) == ids


async def test_who_sends_half_a_request_and_waits_keeps_nobody_else_waiting(server):
    half = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(300)]
    try:
        for number, (_, writer) in enumerate(half):
            writer.write((b"", b"GET / HT", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{")[number % 4])
        async with server.api() as http:
            for _ in range(5):
                async with asyncio.timeout(2):
                    assert (await http.get("/api/v1/scores/leaderboard")).status_code == 200
    finally:
        for _, writer in half:
            writer.close()


async def test_leaving_before_the_answer_loses_and_doubles_nothing(server, alice):
    async with server.api() as http:
        api = Api(http)
        issued = await api.issued(alice)
        token = (await api.call("GET", "/scores/leaderboard", who=alice)).request.headers["Authorization"].encode()
        body = b'{"actionId": "%b"}' % issued["actionId"].encode()
        request = (
            b"POST /api/v1/scores/update HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: " + token
        )
        request += b"\r\nX-Score-Token: " + issued["scoreToken"].encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)
            await writer.drain()
            writer.transport.abort()
        answer = await api.redeem(alice, issued)
        assert answer.status_code in (200, 409)
    assert await ScoreEntry.objects.acount() == 1


# --- WebSocket, below what a client library sends ---------------------------------------------------------------------

SHAKE = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}\r\n\r\n"
KEY = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    first = (0x80 if final else 0) | rsv << 4 | opcode
    size = len(payload)
    length = bytes([size | 0x80 * masked]) if size < 126 else bytes([126 | 0x80 * masked]) + struct.pack(">H", size)
    return bytes([first]) + length + (bytes(4) if masked else b"") + payload


PING = b'{"action": "ping"}'
BROKEN = {
    "unmasked": frame(1, PING, masked=False),
    "reserved bits": frame(1, PING, rsv=4),
    "an opcode that is none": frame(3, PING),
    "a control opcode that is none": frame(11),
    "a continuation of nothing": frame(0, PING),
    "a text inside a text": frame(1, b"a", final=False) + frame(1, b"b"),
    "a ping in pieces": frame(9, b"a", final=False),
    "a ping of 126 bytes": frame(9, b"x" * 126),
    "text that is no UTF-8": frame(1, b"\xff\xfe"),
    "a close of one byte": frame(8, b"\x03"),
    "a close code that is none": frame(8, struct.pack(">H", 999)),
    "a close reason that is no UTF-8": frame(8, struct.pack(">H", 1000) + b"\xff"),
    "2**63 bytes to come": bytes([0x81, 0xFF]) + struct.pack(">Q", 2**63) + bytes(4),
    "a mebibyte to come": bytes([0x81, 0xFF]) + struct.pack(">Q", 2**20) + bytes(4) + b"x" * 100_000,
}


@pytest.fixture
async def shaken(server) -> AsyncIterator[Any]:
    """Opens a socket by hand: (reader, writer) after the first picture."""
    opened = []

    async def shake() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        opened.append(writer)
        writer.write(SHAKE.format(path=LIVE, port=server.port, more=KEY).encode())
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    yield shake
    for writer in opened:
        writer.close()


async def test_a_frame_against_the_protocol_ends_the_connection_and_nothing_else(server, shaken):
    for sent in BROKEN.values():
        reader, writer = await shaken()
        writer.write(sent)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(65_536):
                    pass
    async with asyncio.timeout(10):
        while await sockets_open(server):
            await asyncio.sleep(0.05)


async def test_who_pings_without_end_and_reads_no_answer_is_let_go(server, shaken):
    _, writer = await shaken()
    _, calm = await shaken()
    await until(lambda: _open_are(server, 2))
    pings = frame(9, b"x" * 125) * 500
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            while True:
                writer.write(pings)
                await writer.drain()
    await until(lambda: _open_are(server, 1))
    calm.write(frame(1, PING))


async def test_a_handshake_that_is_none_is_refused(server):
    async def answered(more: str, path: str = LIVE) -> int:
        found = statuses(await said(server, SHAKE.format(path=path, port=server.port, more=more).encode()))
        return found[0] if found else 0

    for more in ("", "Sec-WebSocket-Version: 13", KEY.replace("13", "8"), KEY.replace("dGhlIHNhbXBsZSBub25jZQ==", "short")):
        assert 400 <= await answered(more) < 500, more
    many = ", ".join(f"p{number}" for number in range(200))
    for protocols in (many, "x" * 8_000, "\xe9", "chat", ","):
        status = (await handshake(server, f"Sec-WebSocket-Protocol: {protocols}"))[0]
        assert status == 101 or 400 <= status < 500, protocols
    assert (await handshake(server, "Daphne-Root-Path: /evil"))[0] == 101
    await until(lambda: _open_are(server, 0))


async def _open_are(server: Server, count: int) -> bool:
    return await sockets_open(server) == count

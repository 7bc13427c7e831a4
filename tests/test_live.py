"""`WS /scores/live`: what a viewer hears and when, who may listen, and what a client may say."""

import asyncio
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.test import Client
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken
from websockets.asyncio.client import ClientConnection
from websockets.protocol import Protocol, Side

from leaderboard import board, feeds, live, moderation
from leaderboard.consumers import origin_allowed
from leaderboard.models import Player
from leaderboard.outbox import MESSAGES_KEPT, TOO_SLOW, Outbox
from scoreboard_project import sign_in
from scoreboard_project.request_id import RequestId
from scoreboard_project.websocket_protocol import BoundedWebSocket
from tests.conftest import Api, Server, make_player, serving

LIVE = "/api/v1/scores/live"


class Viewer:
    """One open socket. `heard`: every frame so far, oldest first."""

    def __init__(self, socket: ClientConnection):
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def next(self, seconds: float = 5) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            frame = json.loads(await self.socket.recv())
        assert set(frame) == {"event", "data", "timestamp"}
        assert frame["timestamp"].endswith("Z")
        self.heard.append(frame)
        return frame

    async def hear(self, event: str, seconds: float = 5) -> dict[str, Any]:
        """The data of the next such event; what comes before it stays in `heard`."""
        while True:
            frame = await self.next(seconds)
            if frame["event"] == event:
                return frame["data"]

    async def say(self, message: Any) -> None:
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def ping(self) -> None:
        await self.say({"action": "ping"})
        await self.hear("pong")

    async def closed(self, seconds: float = 5) -> int:
        """The code with which the server closes."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await self.next(seconds)
        assert self.socket.close_code is not None
        return self.socket.close_code

    def updates(self) -> list[dict[str, Any]]:
        return [frame["data"] for frame in self.heard if frame["event"] == "leaderboard:update"]


@contextlib.asynccontextmanager
async def watching(server: Server, who: Player | None = None, *, query: str = "", **headers: str) -> AsyncIterator[Viewer]:
    """A viewer who has had the first picture. `who`: signs in with the header."""
    if who is not None:
        headers["Authorization"] = f"Bearer {sign_in.access_for(who.pk)}"
    url = server.socket_url + query
    async with websockets.connect(url, additional_headers=headers, proxy=None, compression=None) as socket:
        viewer = Viewer(socket)
        first = await viewer.next()
        assert first["event"] == "leaderboard:initial", first
        yield viewer


async def handshake(server: Server, *headers: str, path: str = LIVE) -> tuple[int, str]:
    """Status and head of the answer to a handshake with these header lines (`Host` unless given)."""
    lines = [f"GET {path} HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers]
    if not any(line.startswith("Host:") for line in headers):
        lines.append(f"Host: 127.0.0.1:{server.port}")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        async with asyncio.timeout(3):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    finally:
        writer.close()
    return int(head.split(" ")[1]), head


async def shown(server: Server, *names: str) -> None:
    """Once newcomers are shown these players: a picture may be an interval old."""

    async def right() -> bool:
        async with watching(server) as viewer:
            return tuple(row["username"] for row in viewer.heard[0]["data"]["leaderboard"]) == names

    await until(right)


async def sockets_open(server: Server) -> int:
    async with server.api() as http:
        found = re.search(r"^scoreboard_sockets (\d+)", (await http.get("/metrics")).text, re.M)
    assert found
    return int(found[1])


async def until(true: Callable[[], Any], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.02)


def without_traceback(server: Server) -> None:
    log = server.log.read_text()
    assert "Traceback" not in log and '"level": "error"' not in log, log


@pytest.fixture
def server(world, tmp_path):
    with serving(tmp_path) as one:
        yield one


@pytest.fixture
async def played(server):
    """The API of the real server."""
    async with server.api() as http:
        yield Api(http)


# --- Pictures ---------------------------------------------------------------------------------------------------------


async def test_a_viewer_gets_the_whole_picture_at_once(server, played, alice, bob):
    await played.earn(bob, "task_finish")
    await played.earn(alice, "level_up")
    await shown(server, "alice", "bob")
    async with watching(server) as viewer:
        data = viewer.heard[0]["data"]
        assert set(data) == {"leaderboard", "seq"}
        assert [(row["rank"], row["userId"], row["username"], row["score"], row["avatarUrl"]) for row in data["leaderboard"]] == [
            (1, str(alice.pk), "alice", 100, None),
            (2, str(bob.pk), "bob", 50, None),
        ]
        assert data["seq"] > 0


async def test_an_empty_board_is_a_picture_too(server):
    async with watching(server) as viewer:
        assert viewer.heard[0]["data"]["leaderboard"] == []


async def test_an_update_says_who_entered_moved_and_left(server, played, world):
    players = [await sync_to_async(make_player)(f"p{number:02}") for number in range(11)]
    *ten, eleventh = players
    for player in ten:
        await played.earn(player, "task_finish")
    await shown(server, *(player.username for player in ten))
    async with watching(server) as viewer:
        first = viewer.heard[0]["data"]

        await played.earn(eleventh, "level_up")
        entered = await viewer.hear("leaderboard:update")
        assert set(entered) == {"leaderboard", "changedPositions", "seq"}
        changed = {position["userId"]: position for position in entered["changedPositions"]}
        top, last = str(eleventh.pk), str(ten[9].pk)
        assert changed[top] == {"userId": top, "previousRank": None, "newRank": 1, "score": 100}
        assert changed[last] == {"userId": last, "previousRank": 10, "newRank": None, "score": 50}
        second = str(ten[0].pk)
        assert changed[second] == {"userId": second, "previousRank": 1, "newRank": 2, "score": 50}
        assert len(changed) == 11

        await played.earn(eleventh, "task_finish")
        grew = await viewer.hear("leaderboard:update")
        assert grew["changedPositions"] == [{"userId": top, "previousRank": 1, "newRank": 1, "score": 150}]
        assert first["seq"] < entered["seq"] < grew["seq"]


async def test_who_is_taken_off_the_board_leaves_it_for_every_viewer(server, played, alice, bob, moderator):
    await played.earn(alice)
    await played.earn(bob, "task_finish")
    await shown(server, "alice", "bob")
    async with watching(server) as viewer:
        await sync_to_async(moderation.hide)(player_id=alice.pk, moderator=moderator, reason="x")
        update = await viewer.hear("leaderboard:update")
        assert [row["username"] for row in update["leaderboard"]] == ["bob"]
        left = {position["userId"]: position["newRank"] for position in update["changedPositions"]}
        assert left == {str(alice.pk): None, str(bob.pk): 1}


async def test_the_socket_and_the_rest_call_say_the_same(server, played, alice, bob):
    for player in (alice, bob, alice):
        await played.earn(player)
    async with watching(server) as viewer:
        await played.earn(bob, "task_finish")
        await asyncio.sleep(0.15)  # past the interval for which the call's answer may be kept
        rows = (await played.call("GET", "/scores/leaderboard")).json()["data"]["leaderboard"]
        assert [(row["username"], row["score"]) for row in rows] == [("alice", 200), ("bob", 150)]
        while (await viewer.hear("leaderboard:update"))["leaderboard"] != rows:
            pass  # the pictures of what was earned before; `hear` gives up where the right one never comes


async def test_nothing_is_sent_where_the_top_10_stays_as_it_is(server, played, world):
    players = [await sync_to_async(make_player)(f"p{number:02}") for number in range(11)]
    for player in players[:10]:
        await played.earn(player, "level_up")
    await shown(server, *(player.username for player in players[:10]))
    async with watching(server, players[10]) as viewer:
        await played.earn(players[10], "daily_login")
        assert (await viewer.hear("score:personal"))["rank"] == 11
        # Longer than the hub waits before it looks at the board unasked.
        with pytest.raises(TimeoutError):
            await viewer.next(feeds.LOST_NEWS_SECONDS + 0.4)
        assert viewer.updates() == []


async def test_a_burst_makes_at_most_one_update_in_100_ms_and_its_end_is_always_shown(server, played, world):
    players = [await sync_to_async(make_player)(f"p{number:02}") for number in range(20)]
    async with watching(server) as viewer:
        tokens = [(player, await played.issued(player)) for player in players for _ in range(12)]
        gate = asyncio.Semaphore(8)

        async def redeem(player: Player, token: dict[str, Any]) -> None:
            async with gate:
                assert (await played.redeem(player, token)).status_code == 200

        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(redeem(player, token) for player, token in tokens))
        lasted = asyncio.get_running_loop().time() - started
        final = (await played.call("GET", "/scores/leaderboard")).json()["data"]["leaderboard"]
        assert [row["score"] for row in final] == [1200] * 10
        while (await viewer.hear("leaderboard:update"))["leaderboard"] != final:
            pass
    seqs = [update["seq"] for update in viewer.updates()]
    assert seqs == sorted(set(seqs))
    assert 2 <= len(seqs) <= lasted / 0.1 + 2
    sent = [datetime.fromisoformat(f["timestamp"]) for f in viewer.heard if f["event"] == "leaderboard:update"]
    gaps = [(later - earlier).total_seconds() for earlier, later in zip(sent, sent[1:], strict=False)]
    assert min(gaps) >= 0.099, gaps


class Looks:
    """Stands in for reading the board: one picture after the other, each after so many seconds; then none for ever."""

    def __init__(self, *looks: tuple[float, board.Top]):
        self.looks = iter(looks)
        self.over = asyncio.Event()

    async def __call__(self, _work: Any, _limit: int, _period: Any) -> board.Top:
        seconds, top = next(self.looks, (0, None))
        await asyncio.sleep(seconds)
        if top is None:
            self.over.set()
            await asyncio.Event().wait()
        return top


def top(seq: int, points: int) -> board.Top:
    return board.Top(seq, 1, [board.row(1, uuid.UUID(int=1), "alice", points, None)])


async def paced(looks: Looks) -> list[tuple[float, dict[str, Any]]]:
    """When a hub that is stirred all the time sends which update."""
    loop = asyncio.get_running_loop()
    arrived: list[tuple[float, dict[str, Any]]] = []

    async def arrive(message: dict[str, Any]) -> None:
        arrived.append((loop.time(), json.loads(message["text"])["data"]))

    hub = live.Hub(loop)
    hub.join(Outbox(arrive))
    pacing = asyncio.create_task(hub.feeds["all"].pace())
    async with asyncio.timeout(5):
        while not looks.over.is_set():
            hub.feeds["all"].stir()
            await asyncio.sleep(0.005)
    await live.end([pacing])
    return arrived


async def test_two_updates_are_an_interval_apart_even_where_a_look_at_the_board_took_long(monkeypatch):
    """The pause counts from the sending, not from the beginning of the look."""
    looks = Looks((0, top(1, 0)), (0.08, top(2, 1)), (0, top(3, 2)), (0.08, top(4, 3)), (0, top(5, 4)))
    monkeypatch.setattr(feeds, "off_loop", looks)
    times = [at for at, _ in await paced(looks)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 3
    assert min(gaps) >= 0.099, gaps


async def test_seq_grows_also_where_postgresql_answers_which_keeps_none(monkeypatch):
    looks = Looks((0, top(7, 0)), (0, top(0, 1)), (0, top(0, 2)), (0, top(0, 2)), (0, top(90, 3)))
    monkeypatch.setattr(feeds, "off_loop", looks)
    updates = [data for _, data in await paced(looks)]
    assert [data["seq"] for data in updates] == [8, 9, 90]
    assert [data["leaderboard"][0]["score"] for data in updates] == [1, 2, 3]


# --- Personal messages ------------------------------------------------------------------------------------------------


async def test_only_the_player_hears_of_their_points_on_every_connection_at_both_servers(two_servers, alice, bob):
    first, second = two_servers
    async with contextlib.AsyncExitStack() as stack:
        seats = [(first, alice), (first, alice), (second, alice), (first, bob), (second, bob), (first, None)]
        *hers, his, his_too, nobody = [await stack.enter_async_context(watching(server, who)) for server, who in seats]
        played = Api(await stack.enter_async_context(second.api()))
        await played.earn(alice, "task_finish")
        await played.earn(alice, "level_up")
        for viewer in hers:
            assert await viewer.hear("score:personal") == {"previousScore": 0, "newScore": 50, "pointsAwarded": 50, "rank": 1}
            assert await viewer.hear("score:personal") == {"previousScore": 50, "newScore": 150, "pointsAwarded": 100, "rank": 1}
        await played.earn(bob, "daily_login")
        mine = {"previousScore": 0, "newScore": 10, "pointsAwarded": 10, "rank": 2}
        for viewer in (his, his_too):
            assert await viewer.hear("score:personal") == mine  # his own is the first that he hears
        while [row["username"] for row in (await nobody.hear("leaderboard:update"))["leaderboard"]] != ["alice", "bob"]:
            pass
        await nobody.ping()
        assert not [frame for frame in nobody.heard if frame["event"] == "score:personal"]


# --- What a client may say --------------------------------------------------------------------------------------------


async def test_ping_is_answered(server):
    async with watching(server) as viewer:
        await viewer.say({"action": "ping"})
        assert (await viewer.next())["event"] == "pong"


async def test_subscribing_brings_a_fresh_picture(server, played, alice):
    async with watching(server) as viewer:
        await played.earn(alice)
        update = await viewer.hear("leaderboard:update")
        for message in ({"action": "subscribe", "channel": "leaderboard"}, {"action": "subscribe"}):
            await viewer.say(message)
            again = await viewer.hear("leaderboard:initial")
            assert again == {"leaderboard": update["leaderboard"], "seq": update["seq"]}


BAD_MESSAGES = {
    "not JSON": ("hello", "INVALID_MESSAGE"),
    "empty": ("", "INVALID_MESSAGE"),
    "a list": ("[1]", "INVALID_MESSAGE"),
    "null": ("null", "INVALID_MESSAGE"),
    "a number of 4000 digits": ("9" * 4000, "INVALID_MESSAGE"),
    "binary": (b'{"action": "ping"}', "INVALID_MESSAGE"),
    "2000 levels deep": ("[" * 2000, "INVALID_MESSAGE"),
    "4000 levels deep": ('{"action":' + "[" * 4000, "INVALID_MESSAGE"),
    "over 4 KiB": ('{"action": "ping", "x": "' + "x" * 4096 + '"}', "PAYLOAD_TOO_LARGE"),
    "over 4 KiB of bytes, not of letters": ('{"action": "ping", "x": "' + "é" * 2048 + '"}', "PAYLOAD_TOO_LARGE"),
    "no action": ("{}", "UNKNOWN_ACTION"),
    "an unknown action": ('{"action": "score"}', "UNKNOWN_ACTION"),
    "an action that is a list": ('{"action": ["ping"]}', "UNKNOWN_ACTION"),
    "a name of our own news": ('{"type": "news", "changed": true, "gains": []}', "UNKNOWN_ACTION"),
    "an unknown channel": ('{"action": "subscribe", "channel": "admin"}', "UNKNOWN_CHANNEL"),
    "a channel that is a list": ('{"action": "subscribe", "channel": ["leaderboard"]}', "UNKNOWN_CHANNEL"),
}


async def test_a_bad_message_gets_an_error_and_the_connection_stays(server):
    assert len(BAD_MESSAGES) < 20, "more would be a flood"
    async with watching(server) as viewer:
        for name, (message, error) in BAD_MESSAGES.items():
            await viewer.say(message)
            frame = await viewer.next()
            assert (frame["event"], frame["data"]["code"]) == ("error", error), name
            assert frame["data"]["message"] and set(frame["data"]) == {"code", "message"}, name
        await viewer.ping()
    without_traceback(server)


async def test_a_message_of_4_kib_is_still_read(server):
    async with watching(server) as viewer:
        message = '{"action": "ping", "x": ""}'
        await viewer.say(message[:-2] + "x" * (4096 - len(message)) + message[-2:])
        assert (await viewer.next())["event"] == "pong"


async def test_twenty_messages_a_second_are_no_flood(server):
    async with watching(server) as viewer:
        for _ in range(2):
            for _ in range(20):
                await viewer.say({"action": "ping"})
            for _ in range(20):
                await viewer.hear("pong")
            await asyncio.sleep(1)
        await viewer.ping()


async def test_a_flood_is_closed_with_4429_and_harms_nobody_else(server, played, alice):
    async with watching(server, alice) as calm:
        async with watching(server) as loud:
            # In one write, so that many frames wait behind the one that is too many.
            loud.socket.transport.write(masked_pings(2000))
            assert await loud.closed() == 4429
            assert len([frame for frame in loud.heard if frame["event"] == "pong"]) == 20
        await played.earn(alice)
        assert (await calm.hear("score:personal"))["newScore"] == 100
        await until(lambda: only(1, server))
    await until(lambda: only(0, server))
    without_traceback(server)


async def only(count: int, server: Server) -> bool:
    return await sockets_open(server) == count


def masked_pings(count: int) -> bytes:
    text = b'{"action": "ping"}'
    return (bytes([0x81, 0x80 | len(text)]) + bytes(4) + text) * count


async def test_a_viewer_who_vanishes_is_forgotten(server):
    async with watching(server), watching(server) as gone:
        await until(lambda: only(2, server))
        gone.socket.transport.abort()
        await until(lambda: only(1, server))
    without_traceback(server)


async def test_a_flood_from_a_viewer_who_vanishes_leaves_nothing_behind(server):
    for _ in range(5):
        async with watching(server) as gone:
            gone.socket.transport.write(masked_pings(500))
            gone.socket.transport.abort()
    await until(lambda: only(0, server))
    without_traceback(server)


# --- Who is listening -------------------------------------------------------------------------------------------------


def cookie_of(player: Player) -> str:
    browser = Client()
    browser.force_login(player)
    return f"{django_settings.SESSION_COOKIE_NAME}={browser.cookies[django_settings.SESSION_COOKIE_NAME].value}"


async def test_a_player_is_known_by_cookie_header_query_or_message(server, played, alice):
    token = sign_in.access_for(alice.pk)
    cookie = await sync_to_async(cookie_of)(alice)
    async with contextlib.AsyncExitStack() as stack:
        ways = {
            "cookie": watching(server, Cookie=f"theme=dark; {cookie}"),
            "cookie beside a stranger's": watching(server, Cookie=f'a/b={{"x": 1}}; {cookie}'),
            "header": watching(server, Authorization=f"Bearer {token}"),
            "query": watching(server, query=f"?token={token}"),
            "message": watching(server),
        }
        viewers = {name: await stack.enter_async_context(way) for name, way in ways.items()}
        await viewers["message"].say({"action": "authenticate", "token": token})
        await viewers["message"].ping()
        await played.earn(alice)
        for name, viewer in viewers.items():
            assert (await viewer.hear("score:personal"))["newScore"] == 100, name
    assert token not in server.log.read_text()


async def test_signing_in_again_makes_the_connection_the_other_player_s(server, played, alice, bob):
    async with watching(server, alice) as viewer:
        await viewer.say({"action": "authenticate", "token": sign_in.access_for(bob.pk)})
        await viewer.ping()
        await played.earn(alice)
        await played.earn(bob, "daily_login")
        assert (await viewer.hear("score:personal"))["newScore"] == 10


def expired(player: Player) -> str:
    token = AccessToken()
    token["sub"] = str(player.pk)
    token.set_exp(lifetime=-AccessToken.lifetime)
    return str(token)


def refresh_token(player: Player) -> str:
    token = RefreshToken()
    token["sub"] = str(player.pk)
    return str(token)


def bad_tokens(player: Player, score_token: str) -> dict[str, str]:
    good = sign_in.access_for(player.pk)
    return {
        "rubbish": "rubbish",
        "altered": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "expired": expired(player),
        "a refresh token": refresh_token(player),
        "a score token": score_token,
        "very long": good + "A" * 5000,
        "not ASCII": "é",
    }


async def test_a_bad_token_is_refused_before_the_handshake_ends(server, played, alice):
    tokens = bad_tokens(alice, (await played.issued(alice))["scoreToken"])
    for name, token in tokens.items():
        assert (await handshake(server, f"Authorization: Bearer {token}"))[0] == 403, name
        if token.isascii():
            assert (await handshake(server, path=f"{LIVE}?token={token}"))[0] == 403, name
    assert (await handshake(server, path=f"{LIVE}?token=%C3%A9%00"))[0] == 403
    for header in ("Basic YTpi", "Bearer", "Bearer ", "Token x"):
        assert (await handshake(server, f"Authorization: {header}"))[0] == 403, header
    assert await sockets_open(server) == 0
    log = server.log.read_text()
    assert not [name for name, token in tokens.items() if len(token) > 20 and token in log]
    without_traceback(server)


async def test_a_bad_token_in_a_message_closes_with_4401(server, played, alice):
    tokens: dict[str, Any] = bad_tokens(alice, (await played.issued(alice))["scoreToken"])
    tokens |= {"missing": None, "an object": {"a": 1}, "a lone surrogate": "\ud800"}
    tokens.pop("very long")  # over 4 KiB is answered before anybody looks inside
    for name, token in tokens.items():
        async with watching(server, alice) as viewer:
            message = {"action": "authenticate"} | ({} if token is None else {"token": token})
            await viewer.say(json.dumps(message))
            await viewer.say({"action": "ping"})  # what waits behind it is not read any more
            assert await viewer.closed() == 4401, name
            assert len(viewer.heard) == 1, name
    await until(lambda: only(0, server))
    without_traceback(server)


async def test_a_cookie_that_signs_nobody_in_makes_a_visitor(server, played, alice, bob):
    changed = await sync_to_async(cookie_of)(alice)
    alice.set_password("another password")
    await alice.asave()
    gone = await sync_to_async(cookie_of)(bob)
    bob.is_active = False
    await bob.asave()
    for cookie in ("sessionid=made-up", "sessionid=", "sessionid", "=", changed, gone):
        async with watching(server, Cookie=cookie) as viewer:
            await viewer.ping()
    async with watching(server, Cookie=changed) as viewer:
        await played.earn(alice)
        await viewer.hear("leaderboard:update")
        await viewer.ping()
        assert not [frame for frame in viewer.heard if frame["event"] == "score:personal"]
    without_traceback(server)


# --- Whose pages may open it ------------------------------------------------------------------------------------------


async def test_only_our_own_pages_and_trusted_ones_may_open_the_socket(world, tmp_path):
    with serving(tmp_path, CSRF_TRUSTED_ORIGINS="https://partner.example") as server:
        host = f"127.0.0.1:{server.port}"
        for origin in (f"http://{host}", f"HTTP://{host}", "https://partner.example", "https://Partner.Example"):
            assert (await handshake(server, f"Origin: {origin}"))[0] == 101, origin
        assert (await handshake(server))[0] == 101  # no browser
        refused = {
            "another host": "http://evil.example",
            "another scheme": f"https://{host}",
            "another port": f"http://127.0.0.1:{server.port + 1}",
            "no port": "http://127.0.0.1",
            "a name of the same machine": f"http://localhost:{server.port}",
            "null": "null",
            "empty": "",
            "a file": "file://",
            "ours as the user": f"http://{host}@evil.example",
            "ours as the path": f"http://evil.example/{host}",
            "with a path": f"http://{host}/",
            "malformed": "http://[",
            "a trusted one's scheme": "http://partner.example",
            "a trusted one's neighbour": "https://evil.partner.example",
        }
        for name, origin in refused.items():
            assert (await handshake(server, f"Origin: {origin}"))[0] == 403, name
        both = (f"Origin: http://{host}", "Origin: http://evil.example")
        for pair in (both, both[::-1]):
            assert (await handshake(server, *pair))[0] in (400, 403)
        rebound = f"evil.example:{server.port}"  # a page whose name was pointed at us
        assert (await handshake(server, f"Origin: http://{rebound}", f"Host: {rebound}"))[0] == 403
        without_traceback(server)


@pytest.mark.parametrize(
    ("origin", "host", "secure", "allowed"),
    [
        ("https://board.example", "board.example", True, True),
        ("https://board.example:443", "board.example", True, True),
        ("https://board.example", "board.example:443", True, True),
        ("http://board.example:80", "board.example", False, True),
        ("http://board.example", "board.example", True, False),
        ("https://board.example", "board.example", False, False),
        ("https://board.example:8443", "board.example", True, False),
        ("http://[::1]:8000", "[::1]:8000", False, True),
    ],
)
def test_a_default_port_is_the_same_written_or_not(settings, origin, host, secure, allowed):
    settings.ALLOWED_HOSTS = ["board.example", "[::1]"]
    headers = [(b"host", host.encode()), (b"origin", origin.encode())]
    assert origin_allowed(headers, secure) is allowed


def test_two_origins_are_nobody_s(settings):
    settings.ALLOWED_HOSTS = ["board.example"]
    ours, other = (b"origin", b"http://board.example"), (b"origin", b"http://evil.example")
    for pair in ([ours, other], [other, ours], [ours, ours]):
        assert not origin_allowed([(b"host", b"board.example"), *pair], secure=False)


# --- The handshake's answer -------------------------------------------------------------------------------------------


async def test_the_handshake_carries_the_request_id_also_where_it_refuses(server):
    given = "X-Request-ID: from-the-gateway-1"
    cases = [((), LIVE, 101), (("Origin: http://evil.example",), LIVE, 403), (("Authorization: Bearer x",), LIVE, 403)]
    for headers, path, status in [*cases, ((), "/api/v1/scores/nothing", 403)]:
        answered, head = await handshake(server, given, *headers, path=path)
        assert answered == status
        assert re.search(r"^x-request-id: from-the-gateway-1\r$", head, re.M | re.I), head
        made = re.search(r"^x-request-id: ([0-9a-f]{32})\r$", (await handshake(server, *headers, path=path))[1], re.M | re.I)
        assert made


async def test_an_unknown_address_is_refused_without_a_fault(server):
    for path in (LIVE + "/", LIVE + "/x", "/", "/api/v1/scores/nothing", "/admin/", "/%00", "//"):
        assert (await handshake(server, path=path))[0] == 403, path
    without_traceback(server)


async def test_without_an_upgrade_the_address_is_no_page(server):
    async with server.api() as http:
        for method in ("GET", "POST"):
            assert (await http.request(method, LIVE)).status_code == 404


@pytest.mark.parametrize("extensions", [{}, {"extensions": {}}, {"extensions": {"websocket.http.response": {}}}])
async def test_a_refusal_needs_nothing_that_a_server_may_lack(extensions):
    """Not every ASGI server (daphne does not) can answer a handshake with headers."""
    sent: list[dict[str, Any]] = []

    async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await RequestId(refuse)({"type": "websocket", "headers": [], **extensions}, None, send)
    expected = ["websocket.http.response.start", "websocket.http.response.body"]
    assert [message["type"] for message in sent] == (expected if extensions.get("extensions") else ["websocket.close"])


# --- What waits for a slow socket -------------------------------------------------------------------------------------


class Wire:
    """The server's side of a socket, which may be held up or broken."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.free = asyncio.Event()
        self.free.set()
        self.broken = False

    async def send(self, message: dict[str, Any]) -> None:
        await self.free.wait()
        if self.broken:
            raise OSError("gone")
        assert message["type"] == "websocket.send"
        self.sent.append(message["text"])

    async def flush(self, outbox: Outbox) -> None:
        self.free.set()
        async with asyncio.timeout(1):
            while outbox._task is not None:
                await asyncio.sleep(0)


async def test_an_idle_socket_gets_it_before_the_call_returns():
    wire = Wire()
    outbox = Outbox(wire.send)
    outbox.show("one")
    outbox.say("two")
    assert wire.sent == ["one", "two"]
    assert outbox._task is None


async def test_a_busy_socket_gets_only_the_newest_picture():
    wire = Wire()
    outbox = Outbox(wire.send)
    wire.free.clear()
    for number in range(1, 6):
        outbox.show(f"picture {number}")
    assert wire.sent == []
    await wire.flush(outbox)
    assert wire.sent == ["picture 1", "picture 5"]
    outbox.show("picture 6")
    assert wire.sent[2:] == ["picture 6"]


async def test_messages_keep_their_order_and_none_replaces_another():
    wire = Wire()
    outbox = Outbox(wire.send)
    wire.free.clear()
    for text in ("under way", "a", "b", "c"):
        outbox.say(text)
    outbox.show("picture")
    await wire.flush(outbox)
    assert wire.sent == ["under way", "a", "b", "c", "picture"]


async def test_a_stalled_socket_is_owed_a_few_messages_and_no_more():
    wire = Wire()
    outbox = Outbox(wire.send)
    wire.free.clear()
    outbox.say("under way")
    for number in range(1000):
        outbox.say(str(number))
    await wire.flush(outbox)
    assert wire.sent == ["under way", *map(str, range(1000 - MESSAGES_KEPT, 1000))]


async def test_what_comes_while_the_rest_goes_out_goes_out_too():
    wire = Wire()
    outbox = Outbox(wire.send)
    wire.free.clear()
    outbox.show("picture 1")
    outbox.show("picture 2")
    wire.free.set()
    while "picture 2" not in wire.sent:
        await asyncio.sleep(0)
    outbox.show("picture 3")
    await wire.flush(outbox)
    assert wire.sent == ["picture 1", "picture 2", "picture 3"]


async def test_what_need_not_wait_takes_the_short_way_and_the_rest_stays_in_order_behind_what_must():
    wire, at_once, short = Wire(), [], True
    outbox = Outbox(wire.send, write=lambda text: short and not at_once.append(text))
    outbox.show("picture 1")
    short = False
    wire.free.clear()
    outbox.show("picture 2")
    short = True
    outbox.show("picture 3")
    outbox.say("message")
    assert at_once == ["picture 1"]  # not past picture 2, which waits
    await wire.flush(outbox)
    assert wire.sent == ["picture 2", "message", "picture 3"]
    outbox.show("picture 4")
    assert at_once == ["picture 1", "picture 4"]


@pytest.mark.parametrize("text", ["", "x" * 125, "ä" * 200, "x" * 70_000])
def test_a_frame_written_at_once_is_the_one_that_the_library_sends(text):
    library = Protocol(Side.SERVER)
    library.send_text(text.encode())
    protocol, written = connected()
    assert protocol.write(text)
    assert written == [b"".join(library.data_to_send())]


def test_nothing_is_written_at_once_to_who_does_not_read_has_gone_or_wants_it_compressed():
    refused = []
    for change in (
        lambda protocol: protocol.writable.clear(),
        lambda protocol: protocol.conn.send_close(1000),
        lambda protocol: setattr(protocol, "disconnected", True),
        lambda protocol: setattr(protocol.conn, "extensions", ["permessage-deflate"]),
    ):
        protocol, written = connected()
        change(protocol)
        refused.append((protocol.write("picture"), written))
    assert refused == [(False, [])] * 4


def connected() -> tuple[BoundedWebSocket, list[bytes]]:
    """A connection that is open and reads, and what was written to it."""
    written: list[bytes] = []
    protocol = BoundedWebSocket.__new__(BoundedWebSocket)
    protocol.writable, protocol.conn, protocol.disconnected = asyncio.Event(), Protocol(Side.SERVER), False
    protocol.transport = SimpleNamespace(write=written.append)
    protocol.writable.set()
    return protocol, written


@pytest.mark.parametrize("held_up", [False, True])
async def test_a_send_that_fails_does_no_harm(held_up):
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    wire = Wire()
    outbox = Outbox(wire.send)
    wire.broken = True
    if held_up:
        wire.free.clear()
    outbox.show("picture 1")
    outbox.say("message")
    outbox.show("picture 2")
    await wire.flush(outbox)
    assert wire.sent == []
    wire.broken = False
    outbox.say("later")
    assert wire.sent == ["later"]
    wire.free.clear()
    outbox.show("picture 3")
    await wire.flush(outbox)
    assert wire.sent[1:] == ["picture 3"]  # and not what was left over from before
    assert complaints == []


async def test_closing_ends_a_write_that_hangs():
    wire = Wire()
    outbox = Outbox(wire.send)
    wire.free.clear()
    outbox.show("picture 1")
    hanging = outbox._task
    assert hanging is not None
    await asyncio.sleep(0)
    outbox.close()
    async with asyncio.timeout(1):
        await asyncio.wait([hanging])
    assert hanging.cancelled()
    wire.free.set()
    await asyncio.sleep(0)
    assert wire.sent == []


async def test_a_socket_that_reads_slowly_has_not_stalled():
    """Each write is timed by itself, however long there is always one under way."""
    wire = Wire()
    outbox = Outbox(wire.send)
    assert outbox.stalled_since is None
    wire.free.clear()
    outbox.say("first")
    began = outbox.stalled_since
    assert began is not None
    await asyncio.sleep(0.05)
    assert outbox.stalled_since == began  # the first is still under way
    outbox.say("second")
    wire.free.set()
    wire.free.clear()  # lets one write through and holds the next
    await asyncio.sleep(0)
    assert wire.sent == ["first"]
    assert outbox.stalled_since is not None and outbox.stalled_since > began
    await wire.flush(outbox)
    assert wire.sent == ["first", "second"] and outbox.stalled_since is None


async def test_a_socket_that_has_stalled_is_closed_and_no_other(monkeypatch):
    monkeypatch.setattr(live, "STALLED_SECONDS", 0.05)
    hub = live.Hub(asyncio.get_running_loop())
    closed: list[tuple[str, int]] = []
    stuck, quick = Wire(), Wire()
    stuck.free.clear()
    stalled = Outbox(stuck.send, lambda code: closed.append(("stuck", code)))
    well = Outbox(quick.send, lambda code: closed.append(("quick", code)))
    for outbox in (stalled, well):
        hub.join(outbox)
        hub.know_player(outbox, "somebody")
        outbox.show("picture")
    tending = asyncio.create_task(hub._close_stalled())
    async with asyncio.timeout(3):
        while not closed:
            await asyncio.sleep(0.02)
    await live.end([tending])
    assert closed == [("stuck", TOO_SLOW)]
    assert hub.sockets == {well} and hub.of_player == {"somebody": {well}}


async def test_a_socket_that_hangs_delays_no_other():
    loop = asyncio.get_running_loop()
    hub = live.Hub(loop)
    stuck, quick = Wire(), Wire()
    stuck.free.clear()
    slow = Outbox(stuck.send)
    for outbox in (slow, Outbox(quick.send)):
        hub.join(outbox)
        hub.know_player(outbox, "somebody")
    for points in range(1, 4):
        hub._hear({"changed": False, "gains": [["somebody", points, 1, 1]]})
    assert [json.loads(text)["data"]["newScore"] for text in quick.sent] == [1, 2, 3]
    await stuck.flush(slow)
    assert [json.loads(text)["data"]["newScore"] for text in stuck.sent] == [1, 2, 3]


def test_changed_positions_name_who_entered_left_moved_or_scored():
    def rows(*entries: tuple[str, int]) -> list[dict[str, Any]]:
        return [{"rank": rank, "userId": name, "score": score} for rank, (name, score) in enumerate(entries, start=1)]

    before = rows(("still", 50), ("scores", 40), ("falls", 30), ("leaves", 20))
    after = rows(("still", 50), ("scores", 45), ("enters", 35), ("falls", 30))
    assert feeds.changed_positions(before, after) == [
        {"userId": "scores", "previousRank": 2, "newRank": 2, "score": 45},
        {"userId": "enters", "previousRank": None, "newRank": 3, "score": 35},
        {"userId": "falls", "previousRank": 3, "newRank": 4, "score": 30},
        {"userId": "leaves", "previousRank": 4, "newRank": None, "score": 20},
    ]
    assert feeds.changed_positions(after, after) == []

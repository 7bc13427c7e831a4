"""The live socket on the board of a day, a week or a month."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from leaderboard import board, feeds, live, moderation, periods
from leaderboard.outbox import Outbox
from tests.conftest import make_player
from tests.test_ledger import WHY, award
from tests.test_live import Viewer, Wire, played, server, watching  # noqa: F401 (fixtures)
from tests.test_period_api import earned_long_ago

NOON = datetime(2031, 6, 4, 12, tzinfo=UTC)


def rows(data: dict[str, Any]) -> list[tuple[str, int]]:
    return [(row["username"], row["score"]) for row in data["leaderboard"]]


async def subscribe(viewer: Viewer, **fields: Any) -> dict[str, Any]:
    await viewer.say({"action": "subscribe", "channel": "leaderboard", **fields})
    return await viewer.hear("leaderboard:initial")


@pytest.mark.parametrize("kind", periods.KINDS)
async def test_a_subscription_is_answered_with_that_boards_picture_and_then_its_updates(server, played, alice, bob, kind):  # noqa: F811
    await sync_to_async(earned_long_ago)(bob, 1_000, datetime(2020, 1, 1, tzinfo=UTC))
    await played.earn(alice)
    running = periods.current(kind)
    async with watching(server) as viewer:
        first = await subscribe(viewer, period=kind)
        assert first.keys() == {"leaderboard", "seq", "period", "start", "end"}
        assert rows(first) == [("alice", 100)]
        assert (first["period"], first["start"]) == (kind, f"{running.start:%Y-%m-%d}T00:00:00.000Z")
        await played.earn(bob, "task_finish")
        update = await viewer.hear("leaderboard:update")
        assert update.keys() == {"leaderboard", "changedPositions", "seq", "period", "start", "end"}
        assert rows(update) == [("alice", 100), ("bob", 50)]
        assert update["changedPositions"] == [{"userId": str(bob.pk), "previousRank": None, "newRank": 2, "score": 50}]
        assert update["seq"] > first["seq"]


async def test_who_asks_for_none_watches_all_time_as_ever(server, played, alice):  # noqa: F811
    async with watching(server) as viewer, watching(server, query="?period=week") as other:
        await played.earn(alice)
        assert (await viewer.hear("leaderboard:update")).keys() == {"leaderboard", "changedPositions", "seq"}
        assert (await other.hear("leaderboard:update"))["period"] == "week"
        assert (await subscribe(other)).keys() == (await subscribe(other, period="all")).keys() == {"leaderboard", "seq"}
        await played.earn(alice)
        assert (await other.hear("leaderboard:update")).keys() == {"leaderboard", "changedPositions", "seq"}


async def test_the_first_picture_can_be_a_periods_already(server, played, alice):  # noqa: F811
    await played.earn(alice)
    async with watching(server, query="?period=month") as viewer:
        assert viewer.heard[0]["data"]["period"] == "month"
        assert rows(viewer.heard[0]["data"]) == [("alice", 100)]


async def test_a_picture_for_a_newcomer_is_fresh_though_nobody_had_watched(server, played, alice):  # noqa: F811
    async with watching(server, query="?period=day"):
        pass
    for points in (100, 200, 300):
        await played.earn(alice)
        async with watching(server, query="?period=day") as viewer:
            assert rows(viewer.heard[0]["data"]) == [("alice", points)] or rows(await viewer.hear("leaderboard:update")) == [
                ("alice", points)
            ]


@pytest.mark.parametrize("period", ["year", "", "Day", None, 5, ["week"], {"week": 1}])
async def test_an_unknown_period_is_an_error_and_changes_nothing(server, played, alice, period):  # noqa: F811
    async with watching(server, query="?period=week") as viewer:
        await viewer.say({"action": "subscribe", "period": period})
        assert (await viewer.hear("error"))["code"] == "UNKNOWN_PERIOD"
        await played.earn(alice)
        assert (await viewer.hear("leaderboard:update"))["period"] == "week"


async def test_an_unknown_period_in_the_address_is_an_error_and_all_time(server):  # noqa: F811
    async with watching(server, query="?period=year") as viewer:
        assert viewer.heard[0]["data"].keys() == {"leaderboard", "seq"}
        assert (await viewer.hear("error"))["code"] == "UNKNOWN_PERIOD"


async def test_what_changes_below_the_top_of_all_time_is_seen_at_once(server, played, alice, moderator):  # noqa: F811
    def fill() -> None:
        for number in range(10):
            player = make_player(f"veteran{number}")
            earned_long_ago(player, 10_000, datetime(2020, 1, 1, tzinfo=UTC))
        award(alice, 5)

    await sync_to_async(fill)()
    async with watching(server, query="?period=day") as viewer:
        assert rows(viewer.heard[0]["data"]) == [("alice", 5)]
        await asyncio.sleep(0.2)  # past the look that a newcomer causes
        await played.earn(alice, "task_finish")
        assert rows(await viewer.hear("leaderboard:update", 0.7)) == [("alice", 55)]
        await asyncio.sleep(0.2)
        await sync_to_async(moderation.hide)(player_id=alice.pk, moderator=moderator, reason=WHY)
        assert (await viewer.hear("leaderboard:update", 0.7))["leaderboard"] == []


# --- One feed ---------------------------------------------------------------------------------------------------------


class Boards:
    """Stands in for reading: what is on the board now, and how often it was read."""

    def __init__(self) -> None:
        self.points, self.reads = 0, 0

    async def __call__(self, _work: Any, _limit: int, _period: Any) -> board.Top:
        self.reads += 1
        found = [{"rank": 1, "userId": "a", "username": "a", "score": self.points, "avatarUrl": None}] if self.points else []
        return board.Top(self.reads, 1, found)


@pytest.fixture
async def feed(monkeypatch, settings):
    settings.LIVE_INTERVAL_MS = 10
    boards = Boards()
    monkeypatch.setattr(feeds, "off_loop", boards)
    monkeypatch.setattr(periods, "now", lambda: NOON)
    feed = feeds.Feed("day")
    pacing = asyncio.create_task(feed.pace())
    yield feed, boards
    await live.end([pacing])


def heard(wire: Wire) -> list[dict[str, Any]]:
    return [json.loads(text)["data"] for text in wire.sent]


async def until(true) -> None:
    async with asyncio.timeout(3):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_feed_that_nobody_watches_is_not_read(feed):
    feed, boards = feed
    for _ in range(5):
        feed.stir()
        await asyncio.sleep(0.02)
    assert boards.reads == 0
    assert json.loads(await feed.initial())["data"]["leaderboard"] == []
    await asyncio.sleep(1.2)  # a round more, and it rests again
    reads = boards.reads
    await asyncio.sleep(1.2)
    assert boards.reads == reads


async def test_however_many_come_at_once_the_board_is_read_once_and_a_picture_encoded_once(feed, monkeypatch):
    feed, boards = feed
    encoded = []
    monkeypatch.setattr(feeds, "event", lambda name, data: encoded.append(name) or "text")
    await asyncio.gather(*(feed.initial() for _ in range(100)))
    assert boards.reads == 1
    wires = [Wire() for _ in range(50)]
    feed.sockets.update(Outbox(wire.send) for wire in wires)
    encoded.clear()
    boards.points = 5
    feed.stir()
    await until(lambda: wires[0].sent)
    assert all(wire.sent == ["text"] for wire in wires)
    assert encoded == ["leaderboard:update"]


async def test_at_midnight_the_next_days_picture_comes_by_itself(feed, monkeypatch):
    feed, _ = feed
    wire = Wire()
    feed.sockets.add(Outbox(wire.send))
    await feed.initial()
    monkeypatch.setattr(periods, "now", lambda: NOON + timedelta(hours=12))
    await until(lambda: wire.sent)  # though the board was empty, and still is
    (picture,) = heard(wire)
    assert picture["start"] == "2031-06-05T00:00:00.000Z"
    assert (picture["leaderboard"], picture["changedPositions"]) == ([], [])


async def test_a_board_that_cannot_be_read_is_tried_again(feed, monkeypatch):
    feed, boards = feed
    read, broken = boards.__call__, [True]

    async def failing(*asked: Any) -> board.Top:
        if broken[0]:
            raise OSError
        return await read(*asked)

    monkeypatch.setattr(feeds, "off_loop", failing)
    waiting = asyncio.create_task(feed.initial())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    broken[0] = False
    await asyncio.wait_for(waiting, 2)


async def test_any_gain_stirs_the_periods_that_are_watched_and_only_a_changed_top_the_board_of_all_time():
    hub = live.Hub(asyncio.get_running_loop())
    hub.join(Outbox(Wire().send), "week")
    hub._hear({"changed": False, "gains": [["somebody", 5, 5, 11]]})
    assert [kind for kind, feed in hub.feeds.items() if feed._stir.is_set()] == ["week"]
    hub._hear({"changed": True, "gains": []})
    assert [kind for kind, feed in hub.feeds.items() if feed._stir.is_set()] == ["all", "week"]


async def test_who_turns_to_another_board_gets_no_picture_of_the_old_one_any_more():
    hub = live.Hub(asyncio.get_running_loop())
    wire = Wire()
    outbox = Outbox(wire.send)
    hub.join(outbox)
    wire.free.clear()
    outbox.show("all, under way")
    outbox.show("all, waiting")
    hub.watch(outbox, "week")
    outbox.say("week")
    await wire.flush(outbox)
    assert wire.sent == ["all, under way", "week"]
    assert [kind for kind, feed in hub.feeds.items() if outbox in feed.sockets] == ["week"]
    hub.leave(outbox)
    assert not any(feed.sockets for feed in hub.feeds.values())

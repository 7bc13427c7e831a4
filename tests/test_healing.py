"""The board heals: what a crash between COMMIT and Redis left out, what a flush took, what ran while Redis was away."""

import asyncio
import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction
from structlog.testing import capture_logs

from leaderboard import audit, board, board_rebuild, healing, ledger
from leaderboard.models import Score
from scoreboard_project import redis_client
from scoreboard_project.redis_client import client
from tests.conftest import make_player
from tests.test_ledger import award


@pytest.fixture
def unseen(monkeypatch):
    """Commits that never reach the board, as if the process died right after each."""
    return lambda: monkeypatch.setattr(ledger, "_show", lambda standings, gained: [None] * len(standings))


def test_a_commit_whose_process_died_is_shown_by_the_next_round(alice, bob, unseen, monkeypatch):
    award(bob, 10)
    unseen()
    award(alice, 100)
    award(bob, 20)
    monkeypatch.undo()
    assert board.standings([alice.pk, bob.pk]) == [(None, None), (1, 10)]
    assert healing.heal() == 2
    assert board.standings([alice.pk, bob.pk]) == [(1, 100), (2, 30)]
    assert healing.heal() == 0


def test_a_flushed_board_is_rebuilt(alice, bob):
    award(alice, 100)
    award(bob, 20)
    client().flushdb()
    healing.heal()
    assert healing.disagreements() == []
    assert board.standings([bob.pk]) == [(2, 20)]


def test_a_forged_entry_of_a_player_vanishes_with_the_next_rebuild(alice):
    award(alice, 100)
    client().zadd(board.ORDER, {f"{0:016x}{'f' * 32}": -10_000})
    assert healing.disagreements() != []
    healing.rebuild()
    assert healing.disagreements() == []


def test_the_watermark_waits_for_a_transaction_that_is_still_open(alice, bob, unseen, monkeypatch):
    """Committed late, stamped early: a watermark by the clock alone would pass it by."""
    unseen()
    written, may_commit = threading.Event(), threading.Event()

    def slow_commit() -> None:
        try:
            with transaction.atomic():
                Score.objects.select_for_update().get(player=alice)
                ledger.change(Score.objects.get(player=alice), total_score=7)
                written.set()
                may_commit.wait(5)
        finally:
            connection.close()

    thread = threading.Thread(target=slow_commit)
    thread.start()
    written.wait(5)
    award(bob, 1)
    healing.heal()
    may_commit.set()
    thread.join()
    monkeypatch.undo()
    assert board.standings([alice.pk]) == [(None, None)]
    healing.heal()
    assert board.standings([alice.pk]) == [(1, 7)]


def test_a_transaction_that_had_not_begun_to_write_when_the_watermark_moved_is_found_later(alice, bob):
    begun, may_write = threading.Event(), threading.Event()

    def slow_start() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT now()")  # what it writes will be stamped with this moment
                begun.set()
                may_write.wait(5)
                cursor.execute(  # as an award does; its process dies before the board hears of it
                    "UPDATE leaderboard_score SET total_score = 7, revision = 1, updated_at = now() WHERE player_id = %s",
                    [alice.pk],
                )
        finally:
            connection.close()

    thread = threading.Thread(target=slow_start)
    thread.start()
    begun.wait(5)
    time.sleep(0.05)  # further back than the milliseconds that a watermark stays behind anyway
    healing.heal()
    may_write.set()
    thread.join()
    healing.heal()
    assert board.standings([alice.pk]) == [(1, 7)]


def test_what_is_written_during_a_rebuild_is_on_the_rebuilt_board(alice, bob, monkeypatch):
    award(alice, 5)
    original = board_rebuild.rebuild

    def interrupted(everyone, mark):
        chunks = list(everyone)
        award(bob, 50)  # after the scores were read, before the swap
        return original(chunks, mark)

    monkeypatch.setattr(board_rebuild, "rebuild", interrupted)
    healing.rebuild()
    assert board.standings([bob.pk]) == [(1, 50)]


def test_one_process_at_a_time(alice):
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [healing._LOCK])
                held.set()
                done.wait(5)
        finally:
            connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    assert healing.heal() == -1
    done.set()
    thread.join()
    assert healing.heal() == 0


def test_a_rebuild_in_chunks_holds_everybody(world, monkeypatch):
    monkeypatch.setattr(healing, "CHUNK", 3)
    players = [make_player(f"p{number}") for number in range(10)]
    for number, player in enumerate(players):
        award(player, 1 + number % 4)
    assert healing.rebuild() == 10
    assert healing.disagreements() == []


# --- What somebody else did in Redis ----------------------------------------------------------------------------------


@pytest.fixture
def audited(monkeypatch):
    """A healing round that looks, however short a time ago it looked last."""

    def heal() -> None:
        monkeypatch.setattr(audit, "_next_at", 0.0)
        healing.heal()

    monkeypatch.setattr(audit, "_suspicion", None)
    heal()
    return heal


DAMAGE = {
    "a forged leader": lambda alice: client().zadd(board.ORDER, {f"{0:016x}{'f' * 32}": -10_000}),
    "a forged last": lambda alice: client().zadd(board.ORDER, {f"{0:016x}{'f' * 32}": -1}),
    "another score": lambda alice: client().zincrby(board.ORDER, -5, client().zrange(board.ORDER, 0, 0)[0]),
    "a player taken off": lambda alice: client().zrem(board.ORDER, client().zrange(board.ORDER, 0, 0)[0]),
    "the profiles gone": lambda alice: client().delete(board.PLAYERS),
    "one profile gone": lambda alice: client().hdel(board.PLAYERS, alice.pk.hex),
    "the order gone": lambda alice: client().delete(board.ORDER),
    "a profile of rubbish": lambda alice: client().hset(board.PLAYERS, alice.pk.hex, "\x00 rubbish"),
    "another name": lambda alice: client().hset(board.PLAYERS, alice.pk.hex, "9 0 0 100 0 0 0 " + '["root",null]'),
    "profiles of another type": lambda alice: (client().delete(board.PLAYERS), client().set(board.PLAYERS, "x")),
    "an order of another type": lambda alice: (client().delete(board.ORDER), client().set(board.ORDER, "x")),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_in_redis_costs_no_answer_and_is_healed(api, alice, bob, audited, damage):
    await sync_to_async(award)(alice, 100)
    await sync_to_async(award)(bob, 20)
    await sync_to_async(audited)()
    DAMAGE[damage](alice)
    for asked in ("?limit=7", "?limit=8&period=day"):
        answer = await api.call("GET", f"/scores/leaderboard{asked}", who=alice)
        assert answer.status_code == 200, answer.text
    assert (await api.call("GET", "/scores/around-me", who=alice)).status_code == 200
    await sync_to_async(award)(alice, 1)
    for _ in range(4):  # the application's own rounds may take a turn
        await sync_to_async(audited)()
        await asyncio.sleep(0.1)
    assert await sync_to_async(healing.disagreements)() == []
    assert (await sync_to_async(board.top)()).rows[0]["username"] == "alice"


def test_what_cannot_be_read_is_made_anew_by_the_very_next_round(alice, monkeypatch):
    monkeypatch.setattr(audit, "_next_at", float("inf"))  # nobody compares
    award(alice, 100)
    time.sleep(0.05)
    for _ in range(2):  # past the watermark: it is not placed again as a late change
        healing.heal()
    client().delete(board.PLAYERS)
    with pytest.raises(board.Cold):
        board.top()
    healing.heal()
    assert board.standings([alice.pk]) == [(1, 100)]


def test_what_is_held_of_one_player_holds_up_no_other(alice, bob):
    award(alice, 100)
    client().hset(board.PLAYERS, alice.pk.hex, "\x00 rubbish")
    scores = Score.objects.select_related("player").order_by("player__username")
    award(bob, 20)
    board.place([ledger.standing(score) for score in scores])
    assert [points for _, points in board.standings([alice.pk, bob.pk])] == [100, 20]


@pytest.mark.parametrize("damage", ["a forged last", "the last taken off"])
def test_beyond_its_head_the_size_of_the_board_tells(alice, bob, audited, monkeypatch, damage):
    monkeypatch.setattr(audit, "HEAD", 1)
    award(alice, 100)
    award(bob, 20)
    if damage == "a forged last":
        DAMAGE[damage](alice)
    else:
        client().zremrangebyrank(board.ORDER, -1, -1)
    audited()
    audited()
    assert healing.disagreements() == []


def test_what_is_being_committed_is_no_damage(alice, bob, audited, unseen, monkeypatch):
    rebuilt = []
    monkeypatch.setattr(healing, "rebuild", lambda: rebuilt.append(1))
    award(bob, 10)
    real = healing._reapply
    monkeypatch.setattr(healing, "_reapply", lambda since: 0)  # it never comes to it between the looks
    show = ledger._show
    for points in (1, 2, 3):  # each look finds another line on its way
        unseen()
        award(alice, points)
        audited()
        monkeypatch.setattr(ledger, "_show", show)
        real(since=0)
    audited()
    assert rebuilt == []


def test_it_looks_twice_a_minute_only(alice, audited, monkeypatch):
    looks = []
    monkeypatch.setattr(audit, "_look", lambda: looks.append(1) or audit._Look(frozenset(), 0, 0))
    for _ in range(5):
        healing.heal()
    assert looks == []
    audited()
    assert looks == [1]


def test_a_redis_that_may_evict_is_warned_of(world):
    policy = client().config_get("maxmemory-policy")["maxmemory-policy"]
    try:
        for name, warned in (("noeviction", False), ("allkeys-lru", True)):
            client().config_set("maxmemory-policy", name)
            with capture_logs() as lines:
                redis_client.warn_of_eviction()
            assert any(line["event"] == "redis_may_evict" for line in lines) == warned
    finally:
        client().config_set("maxmemory-policy", policy)

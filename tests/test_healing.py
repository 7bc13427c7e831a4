"""The board heals: what a crash between COMMIT and Redis left out, what a flush took, what ran while Redis was away."""

import threading

import pytest
from django.db import connection, transaction

from leaderboard import board, healing, ledger
from leaderboard.models import Score
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


def test_what_is_written_during_a_rebuild_is_on_the_rebuilt_board(alice, bob, monkeypatch):
    award(alice, 5)
    original = board.rebuild

    def interrupted(everyone, mark):
        chunks = list(everyone)
        award(bob, 50)  # after the scores were read, before the swap
        return original(chunks, mark)

    monkeypatch.setattr(board, "rebuild", interrupted)
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

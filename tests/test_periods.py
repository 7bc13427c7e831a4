"""Boards of a day, a week and a month: what the ledger adds up to, whatever is reversed, hidden, lost or crosses midnight."""

import contextlib
import random
import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from leaderboard import board, board_rebuild, closing, healing, ledger, live, moderation, periods, reading, standings
from leaderboard.models import PastPeriod, PastScore, Player, Score, ScoreEntry
from leaderboard.periods import KINDS, Period
from scoreboard_project.errors import Conflict
from scoreboard_project.redis_client import client
from tests.conftest import make_player
from tests.test_ledger import WHY, award

SATURDAY = datetime(2031, 5, 31, 23, 0, tzinfo=UTC)  # an hour later begins a month, a day later a week


class Clock:
    """PostgreSQL's clock, for this test's connection: functions of these names, found before PostgreSQL's own."""

    def __init__(self, cursor: Any) -> None:
        self.cursor = cursor
        cursor.execute(
            "CREATE SCHEMA test_clock; CREATE TABLE test_clock.ahead (by interval); INSERT INTO test_clock.ahead VALUES ('0')"
        )
        for name in ("now", "statement_timestamp", "clock_timestamp"):
            cursor.execute(
                f"CREATE FUNCTION test_clock.{name}() RETURNS timestamptz LANGUAGE sql STABLE "
                f"AS 'SELECT pg_catalog.{name}() + (SELECT by FROM test_clock.ahead)'"
            )
        cursor.execute("SET search_path = test_clock, pg_catalog, public")

    def set(self, moment: datetime) -> None:
        self.cursor.execute("UPDATE test_clock.ahead SET by = %s - pg_catalog.clock_timestamp()", [moment])
        periods.keep_time(self.now())

    def move(self, **by: float) -> None:
        self.set(self.now() + timedelta(**by))

    def now(self) -> datetime:
        self.cursor.execute("SELECT clock_timestamp()")
        return self.cursor.fetchone()[0]


@pytest.fixture
def clock(world) -> Iterator[Clock]:
    with connection.cursor() as cursor:
        clock = Clock(cursor)
        clock.set(SATURDAY)
        healing.rebuild()
        yield clock
        cursor.execute("RESET search_path; DROP SCHEMA test_clock CASCADE")
    periods.keep_time(datetime.now(UTC))


def by_the_ledger(period: Period) -> list[tuple[str, int]]:
    """(name, points) in the order of that period's board, added up line by line in Python."""
    lines = list(ScoreEntry.objects.all())
    taken_back = {line.reverses_id: line.points for line in lines if line.reverses_id}
    points: defaultdict[uuid.UUID, int] = defaultdict(int)
    reached: dict[uuid.UUID, datetime] = {}
    for line in lines:
        if line.reverses_id is None and period.start <= line.created_at < period.end:
            points[line.player_id] += line.points + taken_back.get(line.pk, 0)
            reached[line.player_id] = max(line.created_at, reached.get(line.player_id, line.created_at))
    shown = {
        score.player_id: score.player.username
        for score in Score.objects.filter(hidden=False, suspended=False).select_related("player")
        if points[score.player_id] > 0
    }
    in_order = sorted(shown, key=lambda player: (-points[player], reached[player], player.hex))
    return [(shown[player], points[player]) for player in in_order]


def shown(top: board.Top) -> list[tuple[str, int]]:
    assert [row["rank"] for row in top.rows] == list(range(1, len(top.rows) + 1))
    return [(row["username"], row["score"]) for row in top.rows]


def on_board(kind: str, at: date | None = None) -> list[tuple[str, int]]:
    return shown(reading.top(100, periods.of_date(kind, at) if at else periods.current(kind)))


def agree(since: datetime, players: list[Player]) -> None:
    """Every period since then that anybody earned in, and the running ones, by every way of reading them."""
    days = {moment.date() for moment in ScoreEntry.objects.filter(created_at__gte=since).values_list("created_at", flat=True)}
    for period in {periods.of_date(kind, day) for kind in KINDS for day in (*days, periods.now().date())}:
        right = by_the_ledger(period)
        assert shown(reading.top(100, period)) == right, period
        assert [(seat.username, seat.points) for seat in standings.Board(period).head(100)] == right, period
        for player in players:
            rank, points = reading.standing(player.pk, period)
            place = standings.Board(period).place(player.pk)
            assert (rank, points, len(right)) == place, (period, player)
            assert rank is None or right[rank - 1] == (player.username, points), (period, player)
            around = reading.around(player.pk, 2, period)
            assert (around.rank, around.points, around.players) == place
            near = right[max(0, rank - 3) : rank + 2] if rank else []
            assert [(row["username"], row["score"]) for row in around.rows] == near


# --- The calendar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "day", "first", "after"),
    [
        ("day", "2024-02-29", "2024-02-29", "2024-03-01"),
        ("week", "2026-06-01", "2026-06-01", "2026-06-08"),  # a Monday
        ("week", "2026-05-31", "2026-05-25", "2026-06-01"),
        ("week", "2027-01-01", "2026-12-28", "2027-01-04"),
        ("month", "2026-12-31", "2026-12-01", "2027-01-01"),
        ("month", "2024-02-29", "2024-02-01", "2024-03-01"),
    ],
)
def test_where_a_period_begins_and_ends(kind, day, first, after):
    period = periods.of_date(kind, date.fromisoformat(day))
    assert (f"{period.start:%Y-%m-%d}", f"{period.end:%Y-%m-%d}") == (first, after)


@pytest.fixture
def any_week_start(settings):
    yield settings
    periods.of_date.cache_clear()
    board.sets_on.cache_clear()


@pytest.mark.parametrize("weekday", range(7))
def test_sql_and_python_have_one_calendar_whatever_day_a_week_begins_on(db, any_week_start, weekday):
    any_week_start.WEEK_STARTS_ON = weekday
    periods.of_date.cache_clear()
    chance = random.Random(weekday)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TimeZone = 'America/New_York'")
        for _ in range(40):
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randrange(5 * 366 * 86_400))
            for kind in KINDS:
                period = periods.containing(kind, moment)
                cursor.execute(
                    f"SELECT {periods.start_in_sql(kind, '%s::timestamptz')} = %s::timestamptz", [moment, period.start]
                )
                assert cursor.fetchone()[0]
                assert period.start <= moment < period.end
                assert periods.containing(kind, period.end).start == period.end
    assert periods.of_date("week", date(2026, 6, 3)).start.weekday() == weekday


# --- What counts where ------------------------------------------------------------------------------------------------


def test_points_count_in_the_day_the_week_and_the_month_they_were_earned_in(clock, alice, bob):
    award(alice, 100)
    award(bob, 30)
    assert [on_board(kind) for kind in KINDS] == [[("alice", 100), ("bob", 30)]] * 3
    clock.move(hours=2)  # Sunday, the first of June
    award(bob, 50)
    assert on_board("day") == on_board("month") == [("bob", 50)]
    assert on_board("week") == [("alice", 100), ("bob", 80)]
    clock.move(days=1)  # Monday
    award(alice, 1)
    assert on_board("day") == on_board("week") == [("alice", 1)]
    assert on_board("month") == [("bob", 50), ("alice", 1)]
    assert on_board("day", date(2031, 5, 31)) == on_board("month", date(2031, 5, 1)) == [("alice", 100), ("bob", 30)]
    assert on_board("week", date(2031, 5, 31)) == [("alice", 100), ("bob", 80)]
    assert shown(reading.top(10)) == [("alice", 101), ("bob", 80)]
    agree(SATURDAY, [alice, bob])


def test_the_last_microsecond_of_a_period_is_its_own(clock, alice, bob):
    midnight = datetime(2031, 6, 1, tzinfo=UTC)
    for player, moment in ((alice, midnight - timedelta(microseconds=1)), (bob, midnight)):
        Score.objects.filter(player=player).update(reached_at=moment)  # a line is not stamped earlier than this
        clock.set(moment - timedelta(minutes=1))
        award(player, 10)
        assert ScoreEntry.objects.get(player=player).created_at == moment
    clock.set(midnight + timedelta(minutes=1))
    assert on_board("month", date(2031, 5, 31)) == [("alice", 10)]
    assert on_board("month") == [("bob", 10)]


def test_a_clock_that_steps_back_over_midnight_takes_no_point_into_the_wrong_day(clock, alice):
    """As a batch that began before another one, and got the player's lock after it."""
    award(alice, 1)
    clock.set(datetime(2031, 6, 1, 0, 0, 1, tzinfo=UTC))
    award(alice, 10)
    clock.set(datetime(2031, 5, 31, 23, 59, 59, tzinfo=UTC))
    award(alice, 100)
    moderation.adjust(player_id=alice.pk, points=1_000, moderator=make_player("clerk"), reason=WHY)
    stamps = list(ScoreEntry.objects.order_by("id").values_list("created_at", flat=True))
    assert stamps == sorted(stamps)
    clock.set(datetime(2031, 6, 1, 0, 0, 2, tzinfo=UTC))
    assert on_board("day") == [("alice", 1_110)]
    assert healing.disagreements() == []
    agree(SATURDAY, [alice])


def test_which_period_runs_is_by_postgresqls_clock(clock):
    clock.cursor.execute("UPDATE test_clock.ahead SET by = by + interval '2 hours'")
    assert f"{periods.current('month').start:%m}" == "05"
    healing.heal()  # each process, once a second
    assert f"{periods.current('month').start:%m}" == "06"


def test_a_reversal_takes_the_points_out_of_where_they_were_earned(clock, alice, bob, moderator):
    award(alice, 100)
    award(alice, 7)
    award(bob, 50)
    in_may = ScoreEntry.objects.get(points=100)
    clock.move(hours=2)
    award(alice, 20)
    moderation.reverse(entry=in_may, moderator=moderator, reason=WHY)
    assert on_board("day") == on_board("month") == [("alice", 20)]
    assert on_board("week") == [("bob", 50), ("alice", 27)]
    assert on_board("month", date(2031, 5, 31)) == [("bob", 50), ("alice", 7)]
    moderation.reverse(entry=ScoreEntry.objects.get(points=20), moderator=moderator, reason=WHY)
    assert on_board("day") == []
    assert reading.standing(alice.pk, periods.current("day")) == (None, 0)
    agree(SATURDAY, [alice, bob])
    assert healing.disagreements() == []


def test_a_free_correction_counts_when_it_is_made(clock, alice, moderator):
    award(alice, 100)
    clock.move(hours=2)
    moderation.adjust(player_id=alice.pk, points=-30, moderator=moderator, reason=WHY)
    assert on_board("week") == [("alice", 70)]
    assert on_board("day") == on_board("month") == []
    assert on_board("day", SATURDAY.date()) == [("alice", 100)]
    agree(SATURDAY, [alice])


def test_who_is_hidden_or_suspended_is_on_no_board_of_any_time(clock, alice, bob, moderator):
    award(alice, 100)
    award(bob, 50)
    clock.move(hours=2)
    closing.close_past()
    for off, on in ((moderation.suspend, moderation.reinstate), (moderation.hide, moderation.show)):
        off(player_id=alice.pk, moderator=moderator, reason=WHY)
        for period in (periods.current("week"), periods.of_date("month", SATURDAY.date())):
            assert shown(reading.top(10, period)) == [("bob", 50)]
            assert reading.standing(alice.pk, period) == (None, 100)
        on(player_id=alice.pk, moderator=moderator, reason=WHY)
        agree(SATURDAY, [alice, bob])


def test_an_act_is_news_for_the_boards_of_periods_though_the_top_10_of_all_time_stays(clock, alice, moderator, monkeypatch):
    for number in range(10):
        award(make_player(f"veteran{number}"), 1_000)
    award(alice, 5)
    news = []
    monkeypatch.setattr(live, "announce", lambda **told: news.append(told))
    award(alice, 5)
    moderation.hide(player_id=alice.pk, moderator=moderator, reason=WHY)
    assert [(told["changed"], len(told["gains"])) for told in news] == [(False, 1), (True, 0)]


def test_a_new_name_is_on_every_board(clock, alice):
    award(alice, 1)
    Player.objects.filter(pk=alice.pk).update(username="alicia")
    moderation.profile_changed(player_id=alice.pk)
    assert [on_board(kind) for kind in KINDS] == [[("alicia", 1)]] * 3


def test_who_reached_it_first_is_first_and_then_the_smaller_id(clock, alice, bob, mallory):
    for player, points in ((bob, 20), (alice, 10), (mallory, 20), (alice, 10)):
        award(player, points)
    assert on_board("day") == [("bob", 20), ("mallory", 20), ("alice", 20)]
    Score.objects.update(reached_at=SATURDAY, earned_at=SATURDAY)
    healing.rebuild()
    in_order = sorted((alice, bob, mallory), key=lambda player: player.pk)
    assert [name for name, _ in on_board("day")] == [player.username for player in in_order]


# --- Past periods -----------------------------------------------------------------------------------------------------


def test_a_period_is_final_once_it_is_over_and_settled(clock, alice):
    award(alice, 100)
    saturday = periods.current("day")
    assert not reading.top(10, saturday).final
    clock.set(saturday.end + timedelta(seconds=1))
    assert closing.close_past() == 0  # what began before midnight may still commit
    assert (shown(reading.top(10, saturday)), reading.top(10, saturday).final) == ([("alice", 100)], False)
    clock.move(seconds=5)
    assert closing.close_past() == 2  # the day and May, not the week
    assert (shown(reading.top(10, saturday)), reading.top(10, saturday).final) == ([("alice", 100)], True)
    assert closing.close_past() == 0
    assert reading.top(10, periods.of_date("day", date(2031, 5, 30))).final  # before anybody had scored
    agree(SATURDAY, [alice])


def test_a_period_is_not_closed_while_a_transaction_from_within_it_is_open(clock, alice):
    award(alice, 100)
    clock.move(days=2)
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN; SELECT 1")
            assert closing.close_past() == 0
            cursor.execute("COMMIT")
    finally:
        other.close()
    assert closing.close_past() == 4  # two days, the week, the month


def test_quiet_periods_are_closed_too(clock, alice):
    award(alice, 1)
    clock.move(days=40)
    closing.close_past()
    closed = [PastPeriod.objects.filter(kind=kind).count() for kind in KINDS]
    assert closed == [40, 6, 2]
    assert PastScore.objects.count() == 3
    agree(SATURDAY, [alice])


def test_a_reversal_reaches_the_standings_of_a_closed_period(clock, alice, bob, moderator):
    award(alice, 100)
    award(bob, 50)
    clock.move(days=40)
    closing.close_past()
    moderation.reverse(entry=ScoreEntry.objects.get(points=100), moderator=moderator, reason=WHY)
    assert on_board("month", SATURDAY.date()) == [("bob", 50)]
    assert healing.disagreements() == []
    agree(SATURDAY, [alice, bob])


def test_points_of_the_past_are_read_in_postgresql_whatever_redis_says(clock, alice):
    award(alice, 100)
    day = periods.current("day")
    clock.move(hours=2)
    client().zadd(board.key_of(day), {f"{0:016x}{alice.pk.hex}": -5})
    assert shown(reading.top(10, day)) == [("alice", 100)]


# --- Healing ----------------------------------------------------------------------------------------------------------


def test_the_sorted_set_of_a_period_goes_an_hour_after_it(clock, alice):
    award(alice, 1)
    for kind in KINDS:
        period = periods.current(kind)
        assert client().expiretime(board.key_of(period)) == period.end.timestamp() + 3600
    healing.rebuild()
    for kind in KINDS:
        assert client().expiretime(board.key_of(periods.current(kind))) == periods.current(kind).end.timestamp() + 3600


def test_what_redis_missed_over_midnight_is_right_afterwards(clock, alice, bob, monkeypatch):
    award(alice, 100)
    monkeypatch.setattr(ledger, "_show", lambda standings, gained: [None] * len(standings))
    award(alice, 10)
    award(bob, 30)
    clock.move(hours=2)
    award(alice, 1)
    monkeypatch.undo()
    assert healing.heal() == 2
    assert on_board("day") == on_board("month") == [("alice", 1)]
    assert on_board("week") == [("alice", 111), ("bob", 30)]
    assert on_board("day", SATURDAY.date()) == [("alice", 110), ("bob", 30)]


def test_an_older_revision_changes_no_board(clock, alice):
    award(alice, 100)
    before = ledger.standing(Score.objects.select_related("player").get(player=alice))
    award(alice, 10)
    board.place([before])
    assert [on_board(kind) for kind in KINDS] == [[("alice", 110)]] * 3


def test_while_redis_is_away_postgresql_gives_the_same_boards(clock, alice, bob, moderator):
    for player, points in ((alice, 100), (bob, 100), (alice, 3)):
        award(player, points)
    moderation.hide(player_id=bob.pk, moderator=moderator, reason=WHY)
    client().flushdb()
    assert [on_board(kind) for kind in KINDS] == [[("alice", 103)]] * 3
    assert reading.standing(bob.pk, periods.current("day")) == (None, 100)
    assert reading.around(alice.pk, 5).rows[0]["score"] == 103
    agree(SATURDAY, [alice, bob])


def test_a_rebuild_makes_the_running_periods_anew_and_throws_away_what_is_forged(clock, alice, bob):
    award(alice, 100)
    clock.move(hours=2)
    award(bob, 50)
    for kind in KINDS:
        client().zadd(board.key_of(periods.current(kind)), {f"{0:016x}{'f' * 32}": -10_000})
    assert len(healing.disagreements()) == 3 + 3 + 1  # each place is off by one, and the week has a third
    healing.rebuild()
    assert healing.disagreements() == []
    assert on_board("day") == [("bob", 50)]


def test_what_is_earned_after_midnight_during_a_rebuild_is_counted_once(clock, alice, bob, monkeypatch):
    award(alice, 5)
    award(bob, 3)
    original = board_rebuild.rebuild

    def interrupted(everyone, mark):
        chunks = list(everyone)
        clock.move(hours=2)
        award(alice, 10)  # on the new day's board, of which the rebuilt copy will know nothing
        seq = original(chunks, mark)
        award(alice, 20)
        return seq

    monkeypatch.setattr(board_rebuild, "rebuild", interrupted)
    healing.rebuild()
    monkeypatch.undo()
    assert client().zcard(board.key_of(periods.current("day"))) == 1
    agree(SATURDAY, [alice, bob])
    assert healing.disagreements() == []


def test_verify_ledger_finds_what_is_kept_wrongly_and_rebuild_leaderboard_sets_it_right(clock, alice, bob, capsys):
    award(alice, 100)
    clock.move(days=3)
    closing.close_past()
    award(bob, 50)
    call_command("verify_ledger")
    Score.objects.filter(player=bob).update(week_points=51)
    PastScore.objects.filter(player=alice, period__kind="month").update(points=99)
    PastScore.objects.filter(player=alice, period__kind="day").delete()
    with pytest.raises(CommandError, match="4 disagreements"):
        call_command("verify_ledger")
    told = capsys.readouterr().out
    assert "bob: the latest day, week or month is not what the ledger adds up to" in told
    assert f"month from 2031-05-01: player {alice.pk} is kept with 99, but the ledger adds up to 100" in told
    assert "place 1 of this week: PostgreSQL has bob" in told
    call_command("rebuild_leaderboard")
    call_command("verify_ledger")
    agree(SATURDAY, [alice, bob])


def test_another_first_day_of_the_week_takes_effect_with_a_rebuild(clock, alice, any_week_start):
    award(alice, 100)  # on a Saturday
    clock.move(hours=2)
    award(alice, 10)
    clock.move(days=10)
    closing.close_past()
    any_week_start.WEEK_STARTS_ON = 6
    periods.of_date.cache_clear()
    board.sets_on.cache_clear()
    call_command("rebuild_leaderboard")
    closing.close_past()
    assert on_board("week", date(2031, 6, 1)) == [("alice", 10)]
    assert reading.top(1, periods.of_date("week", date(2031, 6, 1))).final


def test_sample_players_have_a_past(world):
    call_command("sample_players")
    call_command("rebuild_leaderboard")
    call_command("verify_ledger")
    assert 5 < len(on_board("day")) < 40
    assert len(on_board("month", periods.now().date() - timedelta(days=35))) > 20
    closing.close_past()
    assert healing.disagreements() == []
    assert sorted(score for _, score in shown(reading.top(100))) == [1_000 + 3 * number for number in range(40)]


# --- All of it at once ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_every_board_is_what_the_ledger_adds_up_to(clock, moderator, seed, monkeypatch):
    chance = random.Random(seed)
    players = [make_player(f"p{number}") for number in range(6)]
    for number in range(100):
        player = chance.choice(players)
        match chance.choices(
            ["award", "reverse", "adjust", "switch", "time", "midnight", "unseen", "flush", "heal", "close"],
            [40, 10, 8, 8, 10, 6, 6, 2, 5, 5],
        )[0]:
            case "award":
                award(player, chance.choice([1, 10, 10, 50, 100]))
            case "reverse":
                lines = ScoreEntry.objects.filter(points__gt=0, reversal=None)
                if line := lines.order_by("?").first():
                    try_to(moderation.reverse, entry=line, moderator=moderator)
            case "adjust":
                try_to(moderation.adjust, player_id=player.pk, points=chance.randint(-60, 60), moderator=moderator)
            case "switch":
                acts = [moderation.suspend, moderation.reinstate, moderation.hide, moderation.show]
                try_to(chance.choice(acts), player_id=player.pk, moderator=moderator)
            case "time":
                clock.move(hours=chance.choice([0.1, 5, 20, 24, 100]))
            case "midnight":  # lands on it, give or take
                clock.set(periods.current(chance.choice(KINDS)).end + timedelta(milliseconds=chance.randint(-20, 20)))
            case "unseen":
                with monkeypatch.context() as patch:
                    patch.setattr(ledger, "_show", lambda standings, gained: [None] * len(standings))
                    award(player, 5)
            case "flush":
                client().flushdb()
            case "heal":
                healing.heal()
            case "close":
                closing.close_past()
        if number % 25 == 24:
            periods.keep_time(clock.now())
            healing.heal()
            agree(SATURDAY, players)
    closing.close_past()
    assert healing.disagreements() == []
    agree(SATURDAY, players)


def try_to(act: Any, **given: Any) -> None:
    with contextlib.suppress(Conflict):
        act(reason=WHY, **given)

"""Closing the books: once a day, a week or a month is over, its standings are added up from the ledger and kept.

Only a reversal changes them afterwards (`take_back`). `recount` sets right what is kept of periods, from the ledger alone.
"""

import uuid
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import connection, transaction

from leaderboard.models import PastPeriod, ScoreEntry
from leaderboard.periods import KINDS, Period, containing, of_date, start_in_sql
from leaderboard.standings import FROM_LEDGER
from scoreboard_project.db import read_in_bulk

log = structlog.get_logger(__name__)

# Held alone while a period is added up, and shared by reversals: one that commits meanwhile would be in neither.
_LOCK = 0x5C0EB0A2E  # any number, the same in every process
MOST = 200  # periods closed in one go: an old ledger has many that are over
CHUNK = 1_000
MANY = 1_000
GRACE = timedelta(seconds=2)  # PostgreSQL tells of a transaction a moment after it has stamped it

# No transaction that began earlier is still open, so none can still commit a line of an earlier time.
_SETTLED = """
SELECT least(clock_timestamp(), min(xact_start)) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_KEEP = (
    f"INSERT INTO leaderboard_pastscore (period_id, player_id, points, reached_at) SELECT %(period)s, l.* FROM ({FROM_LEDGER}) l"
)
_DIFFERENT = f"""
SELECT coalesce(l.player_id, k.player_id) AS player_id, l.points, k.points
FROM ({FROM_LEDGER}) l
FULL JOIN (SELECT * FROM leaderboard_pastscore WHERE period_id = %(period)s) k ON k.player_id = l.player_id
WHERE (l.points, l.reached_at) IS DISTINCT FROM (k.points, k.reached_at)
"""

# What the ledger says of the latest day, week and month of these players.
_LATEST = f"""
SELECT e.player_id, l.earned_at,
       coalesce(sum(e.points + coalesce(r.points, 0)) FILTER (WHERE e.created_at >= l.day), 0)::bigint AS day,
       coalesce(sum(e.points + coalesce(r.points, 0)) FILTER (WHERE e.created_at >= l.week), 0)::bigint AS week,
       coalesce(sum(e.points + coalesce(r.points, 0)) FILTER (WHERE e.created_at >= l.month), 0)::bigint AS month
FROM leaderboard_scoreentry e
JOIN (
    SELECT player_id, max(created_at) AS earned_at, {start_in_sql("day", "max(created_at)")} AS day,
           {start_in_sql("week", "max(created_at)")} AS week, {start_in_sql("month", "max(created_at)")} AS month
    FROM leaderboard_scoreentry WHERE reverses_id IS NULL {{among}} GROUP BY player_id
) l ON l.player_id = e.player_id AND e.created_at >= least(l.week, l.month)
LEFT JOIN (SELECT reverses_id, points FROM leaderboard_scoreentry WHERE reverses_id IS NOT NULL) r ON r.reverses_id = e.id
WHERE e.reverses_id IS NULL
GROUP BY e.player_id, l.earned_at
"""
_MISCOUNTED = f"""
SELECT s.player_id, p.username FROM leaderboard_score s JOIN leaderboard_player p ON p.id = s.player_id
LEFT JOIN ({_LATEST.format(among="")}) c ON c.player_id = s.player_id
WHERE (s.earned_at, s.day_points, s.week_points, s.month_points)
    IS DISTINCT FROM (c.earned_at, coalesce(c.day, 0), coalesce(c.week, 0), coalesce(c.month, 0))
ORDER BY s.player_id
"""
_COUNT_ANEW = f"""
UPDATE leaderboard_score s
SET earned_at = c.earned_at, day_points = coalesce(c.day, 0), week_points = coalesce(c.week, 0),
    month_points = coalesce(c.month, 0), revision = revision + 1, updated_at = now()
FROM unnest(%(players)s::uuid[]) AS m (player_id)
LEFT JOIN ({_LATEST.format(among="AND player_id = ANY (%(players)s::uuid[])")}) c ON c.player_id = m.player_id
WHERE s.player_id = m.player_id
"""


def close_past() -> int:
    """Close what is over, oldest first, if no other process is at it. Returns: how many periods were closed."""
    closed = 0
    while closed < MOST and _close_next():
        closed += 1
    return closed


@transaction.atomic
def _close_next() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        if not cursor.fetchone()[0]:
            return False
        cursor.execute(_SETTLED)
        settled: datetime = cursor.fetchone()[0] - GRACE
    for kind in KINDS:
        period = _next(kind)
        if period is not None and period.end <= settled:
            players = _keep(PastPeriod.objects.create(kind=kind, start=period.start, end=period.end))
            log.info("period_closed", kind=kind, start=f"{period.start:%Y-%m-%d}", players=players)
            return True
    return False


def _next(kind: str) -> Period | None:
    """The first period that is not closed; None while nobody has scored."""
    last = PastPeriod.objects.filter(kind=kind).order_by("-end").first()
    if last is not None:
        return containing(kind, last.end)
    first = ScoreEntry.objects.order_by("id").first()
    return containing(kind, first.created_at) if first else None


def _keep(past: PastPeriod) -> int:
    """Add a period up from the ledger, in place of what was kept. Returns: how many players are in it."""
    with connection.cursor() as cursor:
        read_in_bulk()
        cursor.execute("DELETE FROM leaderboard_pastscore WHERE period_id = %s", [past.pk])
        cursor.execute(_KEEP, _params(past))
        players = cursor.rowcount
        if players > MANY:
            cursor.execute("ANALYZE leaderboard_pastscore")  # with the statistics of before, ranks took five times as long
        return players


def _params(past: PastPeriod) -> dict[str, Any]:
    return {"period": past.pk, "start": past.start, "end": past.end}


def take_back(player_id: uuid.UUID, points: int, counts_at: datetime) -> None:
    """A line of that moment is reversed: take its points (below zero) out of the closed periods it counts in."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [_LOCK])
        cursor.execute(
            "UPDATE leaderboard_pastscore k SET points = k.points + %(points)s FROM leaderboard_pastperiod p "
            'WHERE p.id = k.period_id AND p.start <= %(at)s AND p."end" > %(at)s AND k.player_id = %(player)s',
            {"points": points, "at": counts_at, "player": player_id},
        )


def needs_recount() -> bool:
    """Whether `recount` would find anything. It only reads."""
    return bool(_miscounted()) or any(_has_moved(past) or _wrong_in(past) for past in PastPeriod.objects.all())


def recount() -> int:
    """Set right whatever is kept of periods and is not what the ledger says. Returns: how many players were counted anew.

    The boards hear of it as of any other change: a revision is newer.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        for past in PastPeriod.objects.all():
            if _has_moved(past):
                cursor.execute("DELETE FROM leaderboard_pastscore WHERE period_id = %s", [past.pk])
                cursor.execute("DELETE FROM leaderboard_pastperiod WHERE id = %s", [past.pk])
            elif _wrong_in(past):
                _keep(past)
    miscounted = [player_id for player_id, _ in _miscounted()]
    for start in range(0, len(miscounted), CHUNK):
        players = miscounted[start : start + CHUNK]
        with transaction.atomic(), connection.cursor() as cursor:
            # Locked first, counted in the next statement: it sees every line of a player who can now earn no more.
            cursor.execute("SELECT 1 FROM leaderboard_score WHERE player_id = ANY (%s) ORDER BY player_id FOR UPDATE", [players])
            cursor.execute(_COUNT_ANEW, {"players": players})
    return len(miscounted)


def disagreements() -> list[str]:
    """What is kept of periods and is not what the ledger says; one sentence each."""
    wrong = [f"{name}: the latest day, week or month is not what the ledger adds up to" for _, name in _miscounted()]
    for past in PastPeriod.objects.order_by("start"):
        wrong += [
            f"{past}: player {player} is kept with {kept}, but the ledger adds up to {added}"
            for player, added, kept in _wrong_in(past)
        ]
    return wrong


def _has_moved(past: PastPeriod) -> bool:
    """The week begins on another day now."""
    return of_date(past.kind, past.start.date()).start != past.start


@transaction.atomic
def _miscounted() -> list[tuple[uuid.UUID, str]]:
    read_in_bulk()
    with connection.cursor() as cursor:
        cursor.execute(_MISCOUNTED)
        return cursor.fetchall()


@transaction.atomic
def _wrong_in(past: PastPeriod) -> list[tuple[uuid.UUID, int | None, int | None]]:
    read_in_bulk()
    with connection.cursor() as cursor:
        cursor.execute(_DIFFERENT, _params(past))
        return cursor.fetchall()

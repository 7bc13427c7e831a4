"""Keeping the Redis copy equal to the ledger, whatever is lost or killed.

Each second one server process (whoever gets PostgreSQL's advisory lock) re-applies the changes since the watermark that
the board does not have; a change whose process died between COMMIT and the board is among them. A board without a
watermark (first start, FLUSHALL, empty restart), or one that `audit` finds damaged, is rebuilt from SQL aside and swapped in.
"""

import uuid
from collections.abc import Iterator
from datetime import datetime
from itertools import islice, zip_longest

import structlog
from django.db import connection, transaction

from leaderboard import audit, board, board_rebuild, closing, ledger, live, periods, standings
from leaderboard.models import Score
from scoreboard_project import metrics
from scoreboard_project.db import read_in_bulk

log = structlog.get_logger(__name__)

_LOCK = 0x5C0EB0A2D  # any number, the same in every process
CHUNK = 2_000
PLACED = 250  # standings in one Lua call: among a million players 2,000 took longer than anybody's patience with Redis
MOST_SENTENCES = 100  # of `disagreements`: a board that is off by one place is off at every place below

# Every change stamped up to here is visible: no transaction that began earlier is still to commit. One that has begun to write
# has a number; a young one may be about to; an old one without a number reads, and would hold everybody up.
_SETTLED = """
SELECT least(now(), min(xact_start)) - interval '1 millisecond' FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND (backend_xid IS NOT NULL OR xact_start > clock_timestamp() - interval '5 seconds')
"""


def heal() -> int:
    """One round, if no other process is at it. Returns: how many players the board was wrong about (−1: not our turn).

    Raises: `redis_client.Down`; Django's and psycopg's errors.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s), clock_timestamp()", [_LOCK])
        our_turn, now = cursor.fetchone()
        periods.keep_time(now)
        if not our_turn:
            return -1
        mark = board.watermark()
        if mark is None or audit.is_damaged():
            return rebuild()
        behind = _reapply(since=mark)
        metrics.board_drift.set(behind)
        return behind


def rebuild() -> int:
    """Make the board anew from PostgreSQL and swap it in while it is being read. Returns: how many players are on it."""
    count = 0
    mark = _settled()

    def everyone() -> Iterator[list[board.Standing]]:
        nonlocal count
        # In the board's order: Redis then writes next to what it has just written, which halves its work.
        scores = Score.objects.filter(revision__gt=0).order_by("-total_score", "reached_at", "player_id")
        standings = ledger.standings(scores)
        while chunk := list(islice(standings, CHUNK)):
            count += len(chunk)
            yield chunk

    with transaction.atomic():
        read_in_bulk()
        seq = board_rebuild.rebuild(everyone(), mark)
    _reapply(since=board.microseconds(mark))
    live.announce(changed=True, gains=[])
    log.info("board_rebuilt", players=count, seq=seq)
    return count


def _settled() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute(_SETTLED)
        return cursor.fetchone()[0]


def _reapply(*, since: int) -> int:
    """Place what changed after `since` (PostgreSQL's clock, µs) and the board lacks; move the watermark on."""
    mark = _settled()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT player_id, revision FROM leaderboard_score WHERE revision > 0 "
            "AND updated_at >= to_timestamp(%s / 1000000.0) - interval '1 millisecond'",
            [since],
        )
        changed: list[tuple[uuid.UUID, int]] = cursor.fetchall()
    behind = 0
    while changed:
        chunk, changed = changed[:PLACED], changed[PLACED:]
        held = board.revisions([player_id for player_id, _ in chunk])
        stale = [player_id for (player_id, revision), have in zip(chunk, held, strict=True) if have < revision]
        behind += len(stale)
        if stale:
            scores = Score.objects.filter(pk__in=stale).select_related("player")
            board.place([ledger.standing(score) for score in scores])
            live.announce(changed=True, gains=[])
    board.advance(board.microseconds(mark))
    return behind


def disagreements() -> list[str]:
    """Every player whose score is not the sum of its ledger, or whom the board shows wrongly; one sentence each."""
    with transaction.atomic(), connection.cursor() as cursor:
        read_in_bulk()
        cursor.execute(
            "SELECT p.username, s.total_score, coalesce(sum(e.points), 0), count(e.id), s.revision "
            "FROM leaderboard_score s JOIN leaderboard_player p ON p.id = s.player_id "
            "LEFT JOIN leaderboard_scoreentry e ON e.player_id = s.player_id "
            "GROUP BY p.username, s.total_score, s.revision HAVING s.total_score <> coalesce(sum(e.points), 0)"
        )
        wrong = [f"{name}: score {total}, but the ledger adds up to {added}" for name, total, added, _, _ in cursor]
    wrong += closing.disagreements()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        periods.keep_time(cursor.fetchone()[0])
    for period in (None, *periods.all_of(periods.now())):
        where = f" of this {period.kind}" if period else ""
        in_sql = standings.Board(period).everyone()
        for place, (seat, shown) in enumerate(zip_longest(in_sql, board.everyone(period)), start=1):
            mine = f"{seat.username} ({seat.player_id}) with {seat.points}" if seat else "nobody"
            theirs = f"player {shown[1]} with {shown[2]}" if shown else "nobody"
            if seat is None or shown is None or (seat.player_id, seat.points) != shown[1:]:
                wrong.append(f"place {place}{where}: PostgreSQL has {mine}, the board {theirs}")
            if len(wrong) >= MOST_SENTENCES:
                return [*wrong, "… and perhaps more"]
    return wrong

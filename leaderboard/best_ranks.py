"""The best place each player was seen at on the board of all time. A redemption has no part in it.

A place gets better by one's own points, so once a minute the places of those who scored since the last look are read from the
Redis board, and kept where they are better. A place that was held for less than a minute may be missed.
"""

from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from django.db import connection

from leaderboard import board
from scoreboard_project.redis_client import client

EVERY_SECONDS = 60
CHUNK = 500  # places asked for in one Lua call: a millisecond or two of Redis's time
OVERLAP = timedelta(seconds=10)  # a transaction commits a moment after it has stamped its change
LOOKS_BACK = timedelta(hours=1)  # where Redis does not know when the last look was

_TURN, _UNTIL = "{best}:turn", "{best}:until"

MOST = 10_000  # scores in one look; what a bulk change leaves over is the next look's

_CHANGED = """
SELECT player_id, revision, updated_at FROM leaderboard_score WHERE revision > 0 AND updated_at >= %s ORDER BY updated_at LIMIT %s
"""
# Only of scores that are still what they were when the places were read: a correction in between has forgotten the place.
_KEEP = """
INSERT INTO leaderboard_bestrank AS b (player_id, rank, reached_at)
SELECT n.player_id, n.rank, now() FROM unnest(%(players)s::uuid[], %(revisions)s::bigint[], %(ranks)s::int[])
    AS n (player_id, revision, rank)
JOIN leaderboard_score s ON s.player_id = n.player_id AND s.revision = n.revision
ON CONFLICT (player_id) DO UPDATE SET rank = excluded.rank, reached_at = excluded.reached_at WHERE excluded.rank < b.rank
"""


def look() -> int:
    """One look, if a minute has passed since the last one of any process. Returns: how many places were new or better.

    Raises: `redis_client.Down`, `board.Cold`; Django's and psycopg's errors.
    """
    if board.watermark() is None or not client().set(_TURN, 1, nx=True, ex=EVERY_SECONDS):
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        now: datetime = cursor.fetchone()[0]
        last_look = _last_look(now)
        cursor.execute(_CHANGED, [last_look - OVERLAP, MOST])
        found = cursor.fetchall()
        changed = [(player_id, revision) for player_id, revision, _ in found]
        until = _reached(found) if len(found) == MOST else max(now, last_look)
        better = 0
        for start in range(0, len(changed), CHUNK):
            chunk = changed[start : start + CHUNK]
            places = board.standings([player_id for player_id, _ in chunk])
            seen = [(*who, rank) for who, (rank, _) in zip(chunk, places, strict=True) if rank is not None]
            if seen:
                players, revisions, ranks = map(list, zip(*seen, strict=True))
                cursor.execute(_KEEP, {"players": players, "revisions": revisions, "ranks": ranks})
                better += cursor.rowcount
    client().set(_UNTIL, until.isoformat())
    return better


def _reached(found: list[tuple[UUID, int, datetime]]) -> datetime:
    """Where the next look goes on; past a moment at which more changed than one look takes, or it would see these for ever."""
    first, last = found[0][2], found[-1][2]
    return last + OVERLAP + timedelta(microseconds=first == last)


def _last_look(now: datetime) -> datetime:
    held = cast(bytes | None, client().get(_UNTIL))
    return max(datetime.fromisoformat(held.decode()), now - LOOKS_BACK) if held else now - LOOKS_BACK

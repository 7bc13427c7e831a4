"""Whether the Redis copy of the all-time board still says what PostgreSQL says, without reading all of it.

Healing adds what the board lacks, by revision. What somebody else did in Redis (an entry forged, a key lost) has none. So twice
a minute the head and the size are compared. What is being committed makes them differ for a moment: damage is what a second
look finds just the same.
"""

import time
from typing import NamedTuple

import redis
import structlog

from leaderboard import board, standings

log = structlog.get_logger(__name__)

EVERY_SECONDS = 30.0
HEAD = 100  # rows


class _Look(NamedTuple):
    """`odd`: rows that only one of the two has. `shown`, `due`: how many are on the board; in PostgreSQL, a moment later."""

    odd: frozenset[tuple[str, tuple[str, str, int, str | None]]]
    shown: int
    due: int


_next_at = 0.0
_suspicion: _Look | None = None


def is_damaged() -> bool:
    """Whether the board must be made anew; asked each second, mostly without looking. Raises: `redis_client.Down`."""
    global _next_at, _suspicion
    if time.monotonic() < _next_at:
        return False
    first, _suspicion = _suspicion, None
    try:
        look = _look()
    except (board.Cold, redis.ResponseError) as problem:  # what is held cannot be read, or is of another type
        log.warning("board_damaged", problem=type(problem).__name__)
        return True
    _next_at = time.monotonic() + EVERY_SECONDS
    if first is None:
        if look.odd or look.shown != look.due:
            _suspicion, _next_at = look, 0.0
        return False
    rows = first.odd & look.odd
    too_many = first.shown > first.due and look.shown > look.due
    too_few = first.shown < first.due and look.shown < first.due
    if damaged := bool(rows) or too_many or too_few:
        log.warning("board_damaged", rows=sorted(map(str, rows))[:3], shown=look.shown, due=look.due)
    return damaged


def _look() -> _Look:
    in_sql = standings.Board(None, using="default")  # a replica may lag, and never cease to
    shown = board.size()
    due = in_sql.size()
    seats = {(str(seat.player_id), seat.username, seat.points, seat.avatar_url) for seat in in_sql.head(HEAD)}
    rows = {(row["userId"], row["username"], row["score"], row["avatarUrl"]) for row in board.top(HEAD).rows}
    odd = [("in PostgreSQL", row) for row in seats - rows] + [("on the board", row) for row in rows - seats]
    return _Look(frozenset(odd), shown, due)

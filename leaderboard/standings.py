"""Any board in SQL: of all time, of a period that runs, of one that is over. Where Redis has no answer, and for the past.

A board is a relation of player_id, points and reached_at; its order is points, then who reached them first, then player id.
A line of the ledger counts in the period in which it was written; a reversal counts where the line counted that it reverses.
"""

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections

from leaderboard.models import PastPeriod
from leaderboard.periods import Period

CHUNK = 10_000

# %(start)s, %(end)s: of the period. The reversals are few, and named here: else they would be looked up for each line.
FROM_LEDGER = """
SELECT e.player_id, sum(e.points + coalesce(r.points, 0))::bigint AS points, max(e.created_at) AS reached_at
FROM leaderboard_scoreentry e
LEFT JOIN (SELECT reverses_id, points FROM leaderboard_scoreentry WHERE reverses_id IS NOT NULL) r ON r.reverses_id = e.id
WHERE e.reverses_id IS NULL AND e.created_at >= %(start)s AND e.created_at < %(end)s
GROUP BY e.player_id
"""
_ALL_TIME = """
SELECT player_id, total_score AS points, reached_at, NOT (suspended OR hidden OR opted_out) AS public FROM leaderboard_score
WHERE revision > 0
"""
# The condition on `updated_at` is there for its index.
_RUNNING = """
SELECT player_id, {kind}_points AS points, earned_at AS reached_at, NOT (suspended OR hidden OR opted_out) AS public
FROM leaderboard_score
WHERE earned_at >= %(start)s AND earned_at < %(end)s AND updated_at >= %(start)s::timestamptz - interval '1 hour'
"""
_OVER = """
SELECT l.player_id, l.points, l.reached_at, NOT (s.suspended OR s.hidden OR s.opted_out) AS public
FROM ({sums}) l JOIN leaderboard_score s ON s.player_id = l.player_id
"""
_CLOSED = "SELECT player_id, points, reached_at FROM leaderboard_pastscore WHERE period_id = %(period)s"

_LISTED = "FROM ({board}) b WHERE b.points > 0 AND b.public"
_IN_ORDER = "ORDER BY b.points DESC, b.reached_at, b.player_id"
_HEAD = f"""
SELECT b.player_id, p.username, b.points, p.avatar_url
FROM (SELECT b.* {_LISTED} {_IN_ORDER} LIMIT %(limit)s OFFSET %(skip)s) b JOIN leaderboard_player p ON p.id = b.player_id
{_IN_ORDER}
"""
# Read along the index from where the player stands, in both directions: an OFFSET would read all who are ahead.
_NEAR = f"""
SELECT b.player_id, p.username, b.points, p.avatar_url FROM (
    (SELECT b.* {_LISTED} AND b.points >= %(points)s
     AND (b.points > %(points)s OR (b.reached_at, b.player_id) < (%(reached_at)s, %(player)s))
     ORDER BY b.points, b.reached_at DESC, b.player_id DESC LIMIT %(span)s)
    UNION ALL
    (SELECT b.* {_LISTED} AND b.points <= %(points)s
     AND (b.points < %(points)s OR (b.reached_at, b.player_id) >= (%(reached_at)s, %(player)s)) {_IN_ORDER} LIMIT %(span)s + 1)
) b JOIN leaderboard_player p ON p.id = b.player_id
{_IN_ORDER}
"""
_AHEAD = f"""
SELECT count(*), count(*) FILTER (WHERE b.points > %(points)s
    OR (b.points = %(points)s AND (b.reached_at, b.player_id) < (%(reached_at)s, %(player)s))) {_LISTED}
"""
_MINE = "SELECT b.points, b.reached_at, b.points > 0 AND b.public FROM ({board}) b WHERE b.player_id = %(player)s"


class Seat(NamedTuple):
    """A row of a board. `points`: whole."""

    player_id: uuid.UUID
    username: str
    points: int
    avatar_url: str | None


class Place(NamedTuple):
    """Where a player stands among `players`; `rank` None where the board does not show them, `points` too before the first."""

    rank: int | None
    points: int | None
    players: int


class Board:
    """The board of a period, or of all time (None), as PostgreSQL has it now (a replica, where there is one and no `using`).

    Attributes:
        final: whether the period is over and settled.
    """

    def __init__(self, period: Period | None, *, using: str = "") -> None:
        self._using = using or ("replica" if "replica" in connections else "default")
        self.final = False
        self._params: dict[str, Any] = {}
        if period is None:
            self._relation = _ALL_TIME
            return
        self._params = {"start": period.start, "end": period.end}
        if not period.over:
            self._relation = _RUNNING.format(kind=period.kind)
            return
        closed = PastPeriod.objects.using(self._using).filter(kind=period.kind)
        if found := closed.filter(start=period.start, end=period.end).first():
            self._relation, self._params, self.final = _OVER.format(sums=_CLOSED), {"period": found.pk}, True
        else:
            self._relation = _OVER.format(sums=FROM_LEDGER)
            first = closed.order_by("start").first()
            self.final = first is not None and period.end <= first.start  # nobody had scored yet

    def head(self, limit: int, *, skip: int = 0) -> list[Seat]:
        """`limit` rows in order, after the first `skip`."""
        return [Seat(*row) for row in self._run(_HEAD, limit=limit, skip=skip)]

    def size(self) -> int:
        """How many are ranked."""
        return next(self._run(f"SELECT count(*) {_LISTED}"))[0]

    def everyone(self) -> Iterator[Seat]:
        """The whole board in its order, for checks."""
        with connections[self._using].chunked_cursor() as cursor:
            cursor.execute(_HEAD.format(board=self._relation), {**self._params, "limit": None, "skip": 0})
            while chunk := cursor.fetchmany(CHUNK):
                yield from (Seat(*row) for row in chunk)

    def place(self, player_id: uuid.UUID) -> Place:
        """Rank and points of a player."""
        points, reached_at, listed = self._mine(player_id)
        players, ahead = next(self._run(_AHEAD, points=points or 0, reached_at=reached_at, player=player_id))
        return Place(ahead + 1 if listed else None, points, players)

    def near(self, player_id: uuid.UUID, span: int) -> list[Seat]:
        """The player's row with up to `span` on either side; none where the board does not show them."""
        points, reached_at, listed = self._mine(player_id)
        if not listed:
            return []
        return [Seat(*row) for row in self._run(_NEAR, points=points, reached_at=reached_at, player=player_id, span=span)]

    def _mine(self, player_id: uuid.UUID) -> tuple[int | None, datetime | None, bool]:
        return next(self._run(_MINE, player=player_id), (None, None, False))

    def _run(self, sql: str, **params: Any) -> Iterator[Any]:
        with connections[self._using].cursor() as cursor:
            cursor.execute(sql.format(board=self._relation), {**self._params, **params})
            yield from cursor.fetchall()

"""Reading the leaderboard: from the Redis copy, or from PostgreSQL while that is away or cold, and for periods that are over."""

import time
import uuid
from collections.abc import Sequence

from leaderboard import board, standings
from leaderboard.periods import Period
from scoreboard_project import metrics
from scoreboard_project.db import off_loop
from scoreboard_project.group_commit import Again, GroupCommit
from scoreboard_project.redis_client import Down

_Standing = tuple[int | None, int | None]


def top(limit: int, period: Period | None = None) -> board.Top:
    """The first `limit` rows of all time, or of a period. Where PostgreSQL answers, `seq` is this process's clock: as Redis's
    would be, nearly."""
    if period is None or not period.over:
        try:
            return board.top(limit, period)
        except (Down, board.Cold) as exc:
            metrics.board_fallbacks.labels(reason=type(exc).__name__).inc()
    in_sql = standings.Board(period)
    rows = [board.row(rank, *seat) for rank, seat in enumerate(in_sql.head(limit), start=1)]
    now = time.time_ns()
    return board.Top(seq=now // 1_000, changed_at=now // 1_000_000, rows=rows, final=in_sql.final)


def standing(player_id: uuid.UUID, period: Period | None = None) -> tuple[int | None, int | None]:
    """(rank, points) of a player; (None, None) before their first points."""
    if period is None or not period.over:
        try:
            return board.standings([player_id], period)[0]
        except (Down, board.Cold) as exc:
            metrics.board_fallbacks.labels(reason=type(exc).__name__).inc()
    place = standings.Board(period).place(player_id)
    return place.rank, place.points


async def standing_in_company(player_id: uuid.UUID) -> tuple[int | None, int | None]:
    """`standing` of all time, for many who ask at once: they share one hop to a thread and one call of Redis."""
    try:
        return await _standings.submit(player_id)
    except (Down, board.Cold):
        return await off_loop(standing, player_id)  # PostgreSQL's, in several threads


def _standings_batch(player_ids: Sequence[uuid.UUID]) -> Sequence[_Standing | Exception | Again]:
    try:
        return board.standings(player_ids)
    except (Down, board.Cold) as exc:
        return [exc] * len(player_ids)


_standings: GroupCommit[uuid.UUID, _Standing] = GroupCommit("standings", _standings_batch)


def around(player_id: uuid.UUID, span: int, period: Period | None = None) -> board.Around:
    """A player with up to `span` rows on either side."""
    if period is None or not period.over:
        try:
            return board.around(player_id, span, period)
        except (Down, board.Cold) as exc:
            metrics.board_fallbacks.labels(reason=type(exc).__name__).inc()
    in_sql = standings.Board(period)
    place = in_sql.place(player_id)
    rows = []
    if place.rank is not None:
        seats = in_sql.near(player_id, span)
        above = next((number for number, seat in enumerate(seats) if seat.player_id == player_id), 0)
        rows = [board.row(rank, *seat) for rank, seat in enumerate(seats, start=place.rank - above)]
    return board.Around(place.rank, place.points, place.players, rows, time.time_ns() // 1_000_000, in_sql.final)

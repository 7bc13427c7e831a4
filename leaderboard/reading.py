"""Reading the leaderboard: from the Redis copy, or from PostgreSQL while that is away or cold."""

import time
import uuid

from django.db import connections
from django.db.models import Q, QuerySet

from leaderboard import board
from leaderboard.models import Score
from scoreboard_project import metrics
from scoreboard_project.redis_client import Down


def listed() -> QuerySet[Score]:
    """The public board in its order, from PostgreSQL (a replica where there is one)."""
    scores = Score.objects.using("replica" if "replica" in connections else "default")
    return (
        scores.filter(total_score__gt=0, suspended=False, hidden=False)
        .order_by("-total_score", "reached_at", "player_id")
        .select_related("player")
    )


def top(limit: int) -> board.Top:
    """The first `limit` rows. Where PostgreSQL answers, `seq` is this process's clock: as Redis's would be, nearly."""
    try:
        return board.top(limit)
    except (Down, board.Cold) as exc:
        metrics.board_fallbacks.labels(reason=type(exc).__name__).inc()
    rows = []
    for rank, score in enumerate(listed()[:limit], start=1):
        player = score.player
        rows.append(board.row(rank, player.id, player.username, score.total_score, player.avatar_url))
    now = time.time_ns()
    return board.Top(seq=now // 1_000, changed_at=now // 1_000_000, rows=rows)


def standing(player_id: uuid.UUID) -> tuple[int | None, int | None]:
    """(rank, points) of a player; (None, None) before their first points."""
    try:
        return board.standings([player_id])[0]
    except (Down, board.Cold) as exc:
        metrics.board_fallbacks.labels(reason=type(exc).__name__).inc()
    score = Score.objects.filter(player_id=player_id, revision__gt=0).first()
    if score is None:
        return None, None
    if not score.listed:
        return None, score.total_score
    ahead = Q(total_score__gt=score.total_score) | Q(total_score=score.total_score, reached_at__lt=score.reached_at)
    ahead |= Q(total_score=score.total_score, reached_at=score.reached_at, player_id__lt=player_id)
    return listed().filter(ahead).count() + 1, score.total_score

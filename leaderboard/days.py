"""What a player earned on each of the last 30 days: the chart of the player page.

Days that are over come from the closed books, today from the score's own row; only a day that is over and not closed yet, for
seconds after midnight, is added up from the ledger. So a page costs the same for a player of ten lines and of ten million.
"""

from datetime import UTC, date, datetime, time, timedelta

from django.db import connection

from leaderboard import periods
from leaderboard.models import Score

DAYS = 30

_CLOSED = """
SELECT (p.start AT TIME ZONE 'UTC')::date, k.points FROM leaderboard_pastperiod p
LEFT JOIN leaderboard_pastscore k ON k.period_id = p.id AND k.player_id = %(player)s
WHERE p.kind = 'day' AND p.start >= %(first)s
"""
# As in `standings.FROM_LEDGER`: a reversal counts where the line counted that it takes back.
_OPEN = """
SELECT (e.created_at AT TIME ZONE 'UTC')::date, sum(e.points + coalesce(r.points, 0))::bigint
FROM leaderboard_scoreentry e LEFT JOIN leaderboard_scoreentry r ON r.reverses_id = e.id
WHERE e.player_id = %(player)s AND e.reverses_id IS NULL AND e.created_at >= %(first)s AND e.created_at < %(today)s
GROUP BY 1
"""


def earned(score: Score) -> list[tuple[date, int]]:
    """(UTC day, points) of the last 30 days, today last. Below zero where corrections took more than was earned."""
    today = periods.current("day").start
    first = today - timedelta(days=DAYS - 1)
    with connection.cursor() as cursor:
        cursor.execute(_CLOSED, {"player": score.player_id, "first": first})
        points: dict[date, int] = {day: kept or 0 for day, kept in cursor.fetchall()}
        still_open = datetime.combine(max(points), time.min, UTC) + timedelta(days=1) if points else first
        if still_open < today:
            cursor.execute(_OPEN, {"player": score.player_id, "first": still_open, "today": today})
            points.update(cursor.fetchall())
    if score.earned_at and score.earned_at >= today:
        points[today.date()] = score.day_points
    days = [(first + timedelta(days=place)).date() for place in range(DAYS)]
    return [(day, points.get(day, 0)) for day in days]

"""What each player on the board earned lately, minute by minute: the data behind the sparklines.

Only page views ask, at most one query a minute for each player and process; a redemption costs nothing more. An open page adds
what it sees on the live socket by itself.
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from django.db import DatabaseError
from django.db.models import Q, Sum
from django.db.models.functions import TruncMinute
from django.utils import timezone

from leaderboard.models import ScoreEntry
from scoreboard_project.db import Outage

MINUTES = 60
_AWARDS_AND_REVERSALS = Q(act=None) | Q(reverses__isnull=False)  # a moderator's adjustment is nobody's form

_known: tuple[int, dict[uuid.UUID, list[int]]] = (0, {})


def last_hour(player_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    """Points earned in each of the last 60 minutes, the current one last, as of at most a minute ago.

    Empty lists while PostgreSQL is away: a board without its lines is still a board. (The limit on redemptions bounds the
    cost: `SCORE_RATE_LIMIT` lines a minute and player.)
    """
    global _known
    minute = int(timezone.now().timestamp() // 60)
    if _known[0] != minute:
        _known = (minute, {})
    known = _known[1]
    missing = [player_id for player_id in player_ids if player_id not in known]
    if missing:
        try:
            known.update(_earned(missing))
        except (DatabaseError, *Outage):
            known.update({player_id: [] for player_id in missing})  # asked again in a minute, not by every visitor
    return {player_id: known[player_id] for player_id in player_ids}


def _earned(player_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    first = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
    lines = ScoreEntry.objects.filter(_AWARDS_AND_REVERSALS, player_id__in=player_ids, created_at__gte=first).order_by()
    minutes = lines.annotate(minute=TruncMinute("created_at")).values_list("player_id", "minute").annotate(Sum("points"))
    earned = {player_id: [0] * MINUTES for player_id in player_ids}
    for player_id, minute, points in minutes:
        at = int((minute - first).total_seconds()) // 60
        if at < MINUTES:
            earned[player_id][at] = int(points)
    return earned

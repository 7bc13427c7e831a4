"""What looks wrong: a flag for staff with its evidence, a WARNING line and a counter. Nobody is blocked by it."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from django.db import connection, transaction

from actions import alerts
from actions.models import Flag
from scoreboard_project import limits, metrics
from scoreboard_project.request_id import network

log = structlog.get_logger(__name__)

Evidence = dict[str, Any]

POINTS_A_MINUTE = 1000
ACTIONS_AN_HOUR = 100
FAILURES_IN_5_MINUTES = 20

ADJUSTED_POINTS = 10_000
QUIET_SECONDS = 60.0  # after a flag was raised, for this process to leave its subject alone

_quiet_until: dict[uuid.UUID | str, float] = {}  # monotonic time
_LOCK = 0x5C0EB0A2F  # any number, the same in every process and nobody else's

# Of those who were paid in the last 75 seconds and have no open flag yet: any minute that ends in the last 15 seconds (sweeps
# are 5 seconds apart), not just the one that ends now. The sum over all 75 comes first, because it is cheap and clears nearly
# everybody.
_FAST_GAINS = """
WITH recent AS MATERIALIZED (
    SELECT player_id, points, created_at FROM leaderboard_scoreentry
    WHERE created_at > now() - interval '75 seconds' AND act_id IS NULL
),
suspect AS MATERIALIZED (
    SELECT player_id FROM recent GROUP BY player_id HAVING sum(points) > %(threshold)s
    EXCEPT SELECT player_id FROM actions_flag WHERE kind = 'fast_gain' AND closed_at IS NULL
)
SELECT player_id, max(gained)::bigint FROM (
    SELECT player_id, created_at,
           sum(points) OVER (PARTITION BY player_id ORDER BY created_at
                             RANGE BETWEEN interval '1 minute' PRECEDING AND CURRENT ROW) AS gained
    FROM recent JOIN suspect USING (player_id)
) minutes
WHERE created_at > now() - interval '15 seconds' AND gained > %(threshold)s GROUP BY player_id
"""

_MANY_ACTIONS = """
SELECT recent.player_id, hour.actions FROM (
    SELECT player_id FROM actions_actionlog WHERE created_at > now() - interval '15 seconds'
    EXCEPT SELECT player_id FROM actions_flag WHERE kind = 'many_actions' AND closed_at IS NULL
) recent
CROSS JOIN LATERAL (
    SELECT count(*) AS actions FROM actions_actionlog
    WHERE player_id = recent.player_id AND created_at > now() - interval '1 hour'
) hour
WHERE hour.actions > %(threshold)s
"""

_LARGE_ADJUSTMENTS = """
SELECT entry.player_id, entry.points, entry.id, moderator.username FROM leaderboard_scoreentry entry
JOIN leaderboard_moderationact act ON act.id = entry.act_id
JOIN leaderboard_player moderator ON moderator.id = act.moderator_id
WHERE entry.created_at > now() - interval '75 seconds' AND entry.points > %(threshold)s AND moderator.is_active
  AND NOT EXISTS (SELECT 1 FROM actions_flag f WHERE f.kind = 'large_adjustment' AND f.evidence->>'line' = entry.id::text)
"""


# One open flag per kind and subject; only its first raising is news. An address is nobody's, and an account may be gone: its
# access tokens live on for minutes.
_RAISE = """
INSERT INTO actions_flag (kind, subject, player_id, evidence)
SELECT %(kind)s, new.subject, player.id, new.evidence
FROM unnest(%(subjects)s::text[], %(players)s::uuid[], %(evidence)s::jsonb[]) AS new (subject, player_id, evidence)
LEFT JOIN leaderboard_player player ON player.id = new.player_id
ON CONFLICT (kind, subject) WHERE closed_at IS NULL DO NOTHING
RETURNING id, subject
"""


def sweep() -> None:
    """Look over what was completed and paid in the last seconds; one server process at a time."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        if not cursor.fetchone()[0]:
            return
        cursor.execute(_FAST_GAINS, {"threshold": POINTS_A_MINUTE})
        gains = {player: {"pointsInAMinute": gained, "threshold": POINTS_A_MINUTE} for player, gained in cursor}
        _raise_flags(Flag.Kind.FAST_GAIN, gains)
        cursor.execute(_MANY_ACTIONS, {"threshold": ACTIONS_AN_HOUR})
        busy = {player: {"actionsInAnHour": actions, "threshold": ACTIONS_AN_HOUR} for player, actions in cursor}
        _raise_flags(Flag.Kind.MANY_ACTIONS, busy)
        cursor.execute(_LARGE_ADJUSTMENTS, {"threshold": ADJUSTED_POINTS})
        for player_id, points, line, moderator in cursor.fetchall():
            _raise_flags(Flag.Kind.LARGE_ADJUSTMENT, {player_id: {"points": points, "line": str(line), "moderator": moderator}})


def failed_redemption(player_id: uuid.UUID, address: str, code: str) -> None:
    """Count a redemption that was refused, for its player and its network. Who goes on after the flag costs one Redis call."""
    evidence = {"lastCode": code, "threshold": FAILURES_IN_5_MINUTES, "address": address}
    subjects: tuple[uuid.UUID | str, ...] = (player_id, network(address))
    waits = limits.take([limits.Take("failed", str(subject), FAILURES_IN_5_MINUTES, 300) for subject in subjects])
    for subject, wait in zip(subjects, waits, strict=True):
        if wait and _quiet_until.get(subject, 0) < time.monotonic():
            if len(_quiet_until) > 10_000:
                _quiet_until.clear()
            _quiet_until[subject] = time.monotonic() + QUIET_SECONDS
            _raise_flags(Flag.Kind.FAILED_REDEMPTIONS, {subject: evidence})


def never_issued(player_id: uuid.UUID, action_id: uuid.UUID) -> None:
    """A token with our signature that we never gave out: a key may have leaked."""
    _raise_flags(Flag.Kind.NEVER_ISSUED, {player_id: {"actionId": str(action_id)}})


def _raise_flags(kind: Flag.Kind, found: Mapping[uuid.UUID, Evidence] | Mapping[uuid.UUID | str, Evidence]) -> None:
    """`found`: subject → evidence. In one statement: an event at which a thousand players gain a lot is one sweep's work too."""
    if not found:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _RAISE,
            {
                "kind": kind,
                "subjects": [str(subject) for subject in found],
                "players": [subject if isinstance(subject, uuid.UUID) else None for subject in found],
                "evidence": [json.dumps(evidence) for evidence in found.values()],
            },
        )
        new = dict(cursor.fetchall())
        alerts.owe(new)
    evidence = {str(subject): of_it for subject, of_it in found.items()}
    metrics.alerts.labels(kind).inc(len(new))
    for subject in new.values():
        log.warning("alert", kind=str(kind), subject=subject, **evidence[subject])

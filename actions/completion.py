"""Completing an action: the server judges it, records it, and hands out a score token for it.

Batches share one transaction (group commit) and one statement. Cooldowns and daily caps are counters in PostgreSQL, moved
on in the same statement, so that no number of parallel calls and no outage of Redis gets past them.
"""

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings

from actions.score_tokens import Claim, sign
from scoreboard_project import limits, metrics
from scoreboard_project.db import run_statement
from scoreboard_project.errors import Forbidden, RateLimited, Unauthorized
from scoreboard_project.group_commit import AGAIN, Again, GroupCommit


class ActionNotAllowed(Forbidden):
    """Unknown or switched-off type, suspended player, cooldown or daily cap reached."""

    code = "ACTION_NOT_ALLOWED"
    message = "This action is not allowed now."


@dataclass(slots=True)
class Completion:
    """A wish to have an action recognised. `data` and `client_timestamp` are recorded, never trusted."""

    player_id: uuid.UUID
    action_type: str
    data: dict[str, Any]
    client_timestamp: datetime | None
    request_id: str
    action_id: uuid.UUID = field(default_factory=uuid.uuid4)
    token_id: uuid.UUID = field(default_factory=uuid.uuid4)
    admitted: bool = False  # past the rate limit; a second look in a later batch is not charged again
    looked_twice: bool = False  # a first try whose answer was lost may have been committing while this one looked


@dataclass(frozen=True, slots=True)
class Issued:
    """An accepted completion and the token that pays for it."""

    score_token: str
    points: int
    expires_at: datetime
    action_id: uuid.UUID


# `tally` moves the counter of (player, type) on, or, where cap or cooldown forbid, leaves it: then there is no row, and no
# completion. A row can move once in a statement, so a player's second completion of a counted type waits for the next batch.
# A completion that is on record already is one whose answer from PostgreSQL was lost: it was accepted then.
_COMPLETE = """
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%(action)s::uuid[], %(token)s::uuid[], %(player)s::uuid[], %(type)s::text[], %(data)s::jsonb[],
                         %(client)s::timestamptz[], %(request)s::text[]) WITH ORDINALITY
        AS a (action_id, token_id, player_id, slug, data, client_timestamp, request_id, i)
),
named AS MATERIALIZED (SELECT set_config('application_name', %(name)s, true)),
judged AS MATERIALIZED (
    SELECT a.*, t.points, t.cooldown_seconds > 0 OR t.daily_cap IS NOT NULL AS counted,
           l.points AS known_points, l.created_at AS known_at, l.expires_at AS known_until,
           CASE WHEN l.action_id IS NOT NULL THEN 'accepted'
                WHEN p.id IS NULL OR NOT p.is_active THEN 'inactive'
                WHEN t.slug IS NULL OR NOT t.enabled THEN 'unknown'
                WHEN s.suspended THEN 'suspended'
           END AS refusal
    FROM named, asked a
    LEFT JOIN actions_actionlog l ON l.action_id = a.action_id
    LEFT JOIN actions_actiontype t ON t.slug = a.slug
    LEFT JOIN leaderboard_player p ON p.id = a.player_id
    LEFT JOIN leaderboard_score s ON s.player_id = a.player_id
),
turn AS MATERIALIZED (
    SELECT DISTINCT ON (player_id, slug) i, player_id, slug FROM judged
    WHERE refusal IS NULL AND counted ORDER BY player_id, slug, i
),
tally AS (
    INSERT INTO actions_actiontally AS y (player_id, action_type_id, day, count, last_at)
    SELECT player_id, slug, (now() AT TIME ZONE 'UTC')::date, 1, now() FROM turn ORDER BY player_id, slug
    ON CONFLICT (player_id, action_type_id) DO UPDATE
    SET day = greatest(y.day, excluded.day), last_at = excluded.last_at,
        count = CASE WHEN y.day < excluded.day THEN 1 ELSE y.count + 1 END
    WHERE y.last_at + make_interval(secs => (SELECT cooldown_seconds FROM actions_actiontype WHERE slug = y.action_type_id))
          <= excluded.last_at
      AND (y.day < excluded.day
           OR y.count < coalesce((SELECT daily_cap FROM actions_actiontype WHERE slug = y.action_type_id), y.count + 1))
    RETURNING player_id, action_type_id
),
written AS (
    INSERT INTO actions_actionlog (action_id, token_id, player_id, action_type_id, points, data, client_timestamp, request_id,
                                   created_at, expires_at)
    SELECT action_id, token_id, player_id, slug, points, data, client_timestamp, request_id, now(),
           now() + make_interval(secs => %(ttl)s)
    FROM judged j
    WHERE refusal IS NULL AND (NOT counted OR i IN (
        SELECT turn.i FROM turn JOIN tally ON tally.player_id = turn.player_id AND tally.action_type_id = turn.slug))
    ON CONFLICT (action_id) DO NOTHING
    RETURNING action_id, points, created_at, expires_at
)
SELECT j.i, coalesce(w.points, j.known_points) AS points, coalesce(w.created_at, j.known_at) AS created_at,
       coalesce(w.expires_at, j.known_until) AS expires_at,
       CASE WHEN w.action_id IS NOT NULL THEN 'accepted'
            WHEN j.refusal IS NOT NULL THEN j.refusal
            WHEN j.i IN (SELECT i FROM turn) THEN 'limited' ELSE 'busy' END AS verdict,
       CASE WHEN y.last_at + make_interval(secs => t.cooldown_seconds) > now()
            THEN extract(epoch FROM y.last_at + make_interval(secs => t.cooldown_seconds) - now())::float8 END AS cooldown_left
FROM judged j
LEFT JOIN written w ON w.action_id = j.action_id
LEFT JOIN actions_actiontally y ON y.player_id = j.player_id AND y.action_type_id = j.slug AND j.counted
LEFT JOIN actions_actiontype t ON t.slug = j.slug
"""


async def complete(completion: Completion) -> Issued:
    """Record a completed action and issue its score token.

    Raises: `Unauthorized` (the player is not active), `ActionNotAllowed`, `RateLimited`, `Unavailable`. None writes anything.
    """
    issued = await _completions.submit(completion)
    metrics.completions.labels(completion.action_type).inc()
    return issued


def complete_batch(items: Sequence[Completion]) -> list[Issued | Exception | Again]:
    """The results of a batch, in its order."""
    wishes = [limits.Take("actions", item.player_id.hex, 0 if item.admitted else settings.ACTION_RATE_LIMIT) for item in items]
    waits = limits.take(wishes)
    results: list[Issued | Exception | Again] = [RateLimited(retry_after=math.ceil(wait)) for wait in waits]
    admitted = [(place, item) for place, (item, wait) in enumerate(zip(items, waits, strict=True)) if not wait]
    if admitted:
        for (place, item), row in zip(admitted, _recorded([item for _, item in admitted]), strict=True):
            item.admitted = True
            results[place] = _result(item, row)
    return results


def _recorded(items: Sequence[Completion]) -> list[dict[str, Any]]:
    name = items[0].request_id if len(items) == 1 else f"{items[0].request_id[:50]}+{len(items) - 1}"
    rows = run_statement(
        _COMPLETE,
        {
            "action": [item.action_id for item in items],
            "token": [item.token_id for item in items],
            "player": [item.player_id for item in items],
            "type": [item.action_type for item in items],
            "data": [json.dumps(item.data) for item in items],
            "client": [item.client_timestamp for item in items],
            "request": [item.request_id for item in items],
            "ttl": settings.SCORE_TOKEN_TTL_SECONDS,
            "name": name,
        },
    )
    return sorted(rows, key=lambda row: row["i"])


def _result(item: Completion, row: dict[str, Any]) -> Issued | Exception | Again:
    match row["verdict"]:
        case "accepted":
            claim = Claim(item.token_id, item.action_id, item.player_id, row["points"])
            token = sign(claim, issued_at=row["created_at"], expires_at=row["expires_at"])
            return Issued(token, row["points"], row["expires_at"], item.action_id)
        case "busy":
            return AGAIN
        case "inactive":
            return Unauthorized("This account is not active.")
        case "limited" if not item.looked_twice:
            item.looked_twice = True
            return AGAIN
        case "suspended":
            return ActionNotAllowed("This player is suspended.", details={"reason": "suspended"})
        case "limited" if row["cooldown_left"]:
            seconds = math.ceil(row["cooldown_left"])
            details = {"reason": "cooldown", "retryAfterSeconds": seconds}
            return ActionNotAllowed(f"Too soon: try again in {seconds} s.", details=details)
        case "limited":
            return ActionNotAllowed("Not again today: the daily cap is reached.", details={"reason": "daily_cap"})
    return ActionNotAllowed("There is no such action.", details={"reason": "unknown_action"})


_completions: GroupCommit[Completion, Issued] = GroupCommit("complete", complete_batch)

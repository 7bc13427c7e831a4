"""Completing an action: the server verifies it, records it, and hands out a score token for it.

Batches share one transaction (group commit) and one statement. Cooldowns and daily caps are counters in PostgreSQL, moved
on in the same statement, and an occurrence (a day, an attempt, a match) is unique there, so that no number of parallel calls
and no outage of Redis gets past them.
"""

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings

from actions import catalogue, server_keys
from actions.kinds import KINDS
from actions.models import ActionType, ServerKey
from actions.score_tokens import Claim, sign
from actions.verification import UTC_DAY, ActionNotAllowed
from scoreboard_project import limits, metrics
from scoreboard_project.db import off_loop, run_statement
from scoreboard_project.errors import RateLimited, Unauthorized, Unavailable
from scoreboard_project.group_commit import AGAIN, Again, GroupCommit, Lane
from scoreboard_project.timestamps import timestamp

UNREDEEMED = "unredeemed"  # the layer of limits that counts them


class _Changed(Exception):
    """The type was verified by a kind that it does not have any more."""


@dataclass(slots=True)
class Completion:
    """A wish to have an action recognised. `data` is evidence to be verified; `client_timestamp` is recorded, never trusted.

    Attributes:
        server_key: of the game server that asks on the player's behalf.
        verified_as, occurrence: the kind that verified it, and what it is for where that counts once.
    """

    player_id: uuid.UUID
    action_type: str
    data: dict[str, Any]
    client_timestamp: datetime | None
    request_id: str
    server_key: ServerKey | None = None
    verified_as: str = ""
    occurrence: str | None = None
    action_id: uuid.UUID = field(default_factory=uuid.uuid4)
    token_id: uuid.UUID = field(default_factory=uuid.uuid4)
    charged: bool = False  # to the rate limit, once
    admitted: bool = False  # past all limits; a second look in a later batch is not counted again
    looked_twice: bool = False  # a first try whose answer was lost may have been committing while this one looked


@dataclass(frozen=True, slots=True)
class Issued:
    """An accepted completion and the token that pays for it."""

    score_token: str
    points: int
    expires_at: datetime
    action_id: uuid.UUID

    def wire(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "scoreToken": self.score_token,
            "pointsEarned": self.points,
            "tokenExpiresAt": timestamp(self.expires_at),
            "actionId": str(self.action_id),
        }


# `tally` moves the counter of (player, type) on, or, where cap or cooldown forbid, leaves it: then there is no row, and no
# completion. A row can move once in a statement, so a player's second completion of a counted type waits for the next batch.
# A completion that is on record already is one whose answer from PostgreSQL was lost: it was accepted then. One whose
# occurrence is on record is refused, with the first one's token (`first_…`) for as long as that can be redeemed; for those
# without one nothing is looked up (LATERAL; else all of a player's completions were read).
_COMPLETE = """
WITH asked AS MATERIALIZED (
    SELECT action_id, token_id, player_id, slug, kind, data, client_timestamp, request_id, server_key_id, i,
           CASE occurrence WHEN %(utc_day)s THEN to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD') ELSE occurrence END AS occurrence
    FROM unnest(%(action)s::uuid[], %(token)s::uuid[], %(player)s::uuid[], %(type)s::text[], %(kind)s::text[],
                %(occurrence)s::text[], %(data)s::jsonb[], %(client)s::timestamptz[], %(request)s::text[],
                %(server_key)s::bigint[]) WITH ORDINALITY
        AS a (action_id, token_id, player_id, slug, kind, occurrence, data, client_timestamp, request_id, server_key_id, i)
),
named AS MATERIALIZED (SELECT set_config('application_name', %(name)s, true)),
judged AS MATERIALIZED (
    SELECT a.*, t.points, %(paced)s AND (t.cooldown_seconds > 0 OR t.daily_cap IS NOT NULL) AS counted,
           l.points AS known_points, l.created_at AS known_at, l.expires_at AS known_until,
           o.action_id AS first_action, o.token_id AS first_token, o.points AS first_points, o.created_at AS first_at,
           o.expires_at AS first_until,
           CASE WHEN l.action_id IS NOT NULL THEN 'accepted'
                WHEN p.id IS NULL OR NOT p.is_active THEN 'inactive'
                WHEN t.slug IS NULL OR NOT t.enabled THEN 'unknown'
                WHEN s.suspended THEN 'suspended'
                WHEN t.verification <> a.kind THEN 'changed'
                WHEN o.action_id IS NOT NULL THEN 'repeated'
           END AS refusal
    FROM named, asked a
    LEFT JOIN actions_actionlog l ON l.action_id = a.action_id
    LEFT JOIN LATERAL (
        SELECT * FROM actions_actionlog o
        WHERE a.occurrence IS NOT NULL AND o.player_id = a.player_id AND o.action_type_id = a.slug AND o.occurrence = a.occurrence
    ) o ON true
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
passed AS MATERIALIZED (
    SELECT turn.i FROM turn JOIN tally ON tally.player_id = turn.player_id AND tally.action_type_id = turn.slug
    UNION ALL SELECT i FROM judged WHERE refusal IS NULL AND NOT counted
),
written AS (
    INSERT INTO actions_actionlog (action_id, token_id, player_id, action_type_id, points, data, client_timestamp, request_id,
                                   server_key_id, occurrence, created_at, expires_at)
    SELECT action_id, token_id, player_id, slug, points, data, client_timestamp, request_id, server_key_id, occurrence, now(),
           now() + make_interval(secs => %(ttl)s)
    FROM judged WHERE i IN (SELECT i FROM passed)
    ON CONFLICT DO NOTHING
    RETURNING action_id, points, created_at, expires_at
)
SELECT j.i, coalesce(w.points, j.known_points) AS points, coalesce(w.created_at, j.known_at) AS created_at,
       coalesce(w.expires_at, j.known_until) AS expires_at,
       CASE WHEN w.action_id IS NOT NULL THEN 'accepted'
            WHEN j.refusal IS NOT NULL THEN j.refusal
            WHEN j.i IN (SELECT i FROM passed) THEN 'repeated'
            WHEN j.i IN (SELECT i FROM turn) THEN 'limited' ELSE 'busy' END AS verdict,
       j.first_action, j.first_token, j.first_points, j.first_at, j.first_until,
       CASE WHEN j.first_until > now()
            THEN NOT EXISTS (SELECT 1 FROM leaderboard_scoreentry e WHERE e.source = j.first_action) END AS first_is_good,
       CASE WHEN y.last_at + make_interval(secs => t.cooldown_seconds) > now()
            THEN extract(epoch FROM y.last_at + make_interval(secs => t.cooldown_seconds) - now())::float8 END AS cooldown_left
FROM judged j
LEFT JOIN written w ON w.action_id = j.action_id
LEFT JOIN actions_actiontally y ON y.player_id = j.player_id AND y.action_type_id = j.slug AND j.counted
LEFT JOIN actions_actiontype t ON t.slug = j.slug
"""


async def complete(completion: Completion) -> Issued:
    """Verify and record a completed action, and issue its score token.

    Raises: `Unauthorized` (the player is not active), `InvalidEvidence`, `ActionNotAllowed`, `RateLimited`, `Unavailable`.
        None issues anything.
    """
    for _ in range(2):
        try:
            action_type = await catalogue.find(completion.action_type)
            if action_type is not None and action_type.enabled:
                await _verify(completion, action_type)
            issued = await _completions.submit(completion)
        except _Changed:
            catalogue.forget()
        else:
            metrics.completions.labels(completion.action_type).inc()
            return issued
    raise Unavailable("The catalogue is being edited. Nothing was changed: try again.")


async def _verify(completion: Completion, action_type: ActionType) -> None:
    kind = KINDS[action_type.verification]
    if kind.by_server or completion.server_key is not None:
        allowed = kind.by_server and completion.server_key is not None
        if not allowed or not await off_loop(server_keys.may_complete, completion.server_key, action_type.slug):
            raise ActionNotAllowed("Only a game server's key for this action may complete it.", details={"reason": "server_key"})
    if kind.reads_database:
        completion.occurrence = await off_loop(_verified_in_thread, completion, action_type)
    else:
        completion.occurrence = kind.verify(action_type, completion.player_id, completion.data)
    completion.verified_as = kind.kind


def _verified_in_thread(completion: Completion, action_type: ActionType) -> str | None:
    """What reads the database is charged first: guesses are to cost a player their limit, and us nothing more."""
    wait = limits.take([_rate(completion)])[0]
    if wait:
        raise RateLimited(retry_after=math.ceil(wait))
    completion.charged = True
    return KINDS[action_type.verification].verify(action_type, completion.player_id, completion.data)


def _rate(item: Completion) -> limits.Take:
    limit = 0 if item.charged else settings.ACTION_RATE_LIMIT
    return limits.Take("actions", item.player_id.hex, limit, ticket=item.action_id.hex)


def _hold(item: Completion) -> limits.Take:
    """A player's place among the unredeemed tokens; redeeming gives it back, and its minute ends it."""
    most = 0 if item.admitted else settings.UNREDEEMED_TOKEN_LIMIT
    window = settings.SCORE_TOKEN_TTL_SECONDS
    return limits.Take(UNREDEEMED, item.player_id.hex, most, window, item.token_id.hex, after_previous=True)


def complete_batch(items: Sequence[Completion]) -> list[Issued | Exception | Again]:
    """The results of a batch, in its order."""
    waits = limits.take([wish for item in items for wish in (_rate(item), _hold(item))])
    results: list[Issued | Exception | Again] = [_limited(*waits[2 * i : 2 * i + 2]) for i in range(len(items))]
    admitted = [(place, item) for place, item in enumerate(items) if not any(waits[2 * place : 2 * place + 2])]
    if admitted:
        for _, item in admitted:  # before the statement: where it fails, each is tried again by itself, and not charged again
            item.admitted = item.charged = True
        for (place, item), row in zip(admitted, _recorded([item for _, item in admitted]), strict=True):
            results[place] = _result(item, row)
        if settings.UNREDEEMED_TOKEN_LIMIT:
            limits.give_back([_hold(item) for place, item in admitted if isinstance(results[place], Exception)])
    return results


def _limited(rate_wait: float, hold_wait: float) -> RateLimited:
    if rate_wait:
        return RateLimited(retry_after=math.ceil(rate_wait))
    message = "Too many score tokens wait to be redeemed. Redeem them first."
    return RateLimited(message, retry_after=math.ceil(hold_wait), details={"reason": "unredeemed_tokens"})


def _recorded(items: Sequence[Completion]) -> list[dict[str, Any]]:
    name = items[0].request_id if len(items) == 1 else f"{items[0].request_id[:50]}+{len(items) - 1}"
    rows = run_statement(
        _COMPLETE,
        {
            "action": [item.action_id for item in items],
            "token": [item.token_id for item in items],
            "player": [item.player_id for item in items],
            "type": [item.action_type for item in items],
            "kind": [item.verified_as for item in items],
            "occurrence": [item.occurrence for item in items],
            "utc_day": UTC_DAY,
            "server_key": [item.server_key and item.server_key.pk for item in items],
            "data": [json.dumps(item.data) for item in items],
            "client": [item.client_timestamp for item in items],
            "request": [item.request_id for item in items],
            "ttl": settings.SCORE_TOKEN_TTL_SECONDS,
            # The limit on completions is a layer, and cooldowns and caps are part of it: switched off, nothing paces.
            "paced": settings.ACTION_RATE_LIMIT > 0,
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
        case "inactive" if item.server_key:
            return ActionNotAllowed("There is no such active player.", details={"reason": "inactive_player"})
        case "inactive":
            return Unauthorized("This account is not active.")
        case "limited" | "repeated" if not item.looked_twice:
            item.looked_twice = True
            return AGAIN
        case "changed":
            return _Changed()
        case "repeated":
            return _repeated(item, row)
        case "suspended":
            return ActionNotAllowed("This player is suspended.", details={"reason": "suspended"})
        case "limited" if row["cooldown_left"]:
            seconds = math.ceil(row["cooldown_left"])
            details = {"reason": "cooldown", "retryAfterSeconds": seconds}
            return ActionNotAllowed(f"Too soon: try again in {seconds} s.", details=details)
        case "limited":
            return ActionNotAllowed("Not again today: the daily cap is reached.", details={"reason": "daily_cap"})
    return ActionNotAllowed("There is no such action.", details={"reason": "unknown_action"})


def _repeated(item: Completion, row: dict[str, Any]) -> ActionNotAllowed:
    """Who lost the answer to the first completion finds its token here, while it is good; it still pays once."""
    details: dict[str, Any] = {"reason": "already_completed"}
    if row["first_is_good"]:
        claim = Claim(row["first_token"], row["first_action"], item.player_id, row["first_points"])
        token = sign(claim, issued_at=row["first_at"], expires_at=row["first_until"])
        details["completion"] = Issued(token, row["first_points"], row["first_until"], row["first_action"]).wire()
    daily = item.occurrence == UTC_DAY
    message = "Done for today: it counts once a UTC day." if daily else "This has been completed already; it counts once."
    return ActionNotAllowed(message, details=details)


LANE = Lane("commit")
_completions: GroupCommit[Completion, Issued] = GroupCommit(LANE, complete_batch)

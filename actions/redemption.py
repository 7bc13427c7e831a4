"""Redeeming a score token: its points are added exactly once, or the caller learns why not.

Batches share one transaction (group commit). This module says which completions may be paid; the ledger pays them.
"""

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from django.conf import settings

from actions import watch
from actions.completion import LANE, UNREDEEMED
from actions.score_tokens import Claim, InvalidToken, open_token
from actions.verification import ActionNotAllowed
from leaderboard import ledger
from scoreboard_project import limits, metrics
from scoreboard_project.db import off_loop
from scoreboard_project.errors import Conflict, Forbidden, RateLimited, Refusal, Unauthorized
from scoreboard_project.group_commit import AGAIN, Again, GroupCommit
from scoreboard_project.timestamps import timestamp

log = structlog.get_logger(__name__)


class NeverIssued(InvalidToken):
    """Our signature on something that is not on record."""


class TokenExpired(Forbidden):
    """Past its minute, by PostgreSQL's clock."""

    code = "TOKEN_EXPIRED"
    message = "The score token has expired."


class TokenUserMismatch(Forbidden):
    """Somebody else's token; it stays good for its owner."""

    code = "TOKEN_USER_MISMATCH"
    message = "This score token belongs to another player."


class TokenAlreadyUsed(Conflict):
    """These points have been added before; `details.redemption` says when and how many."""

    code = "TOKEN_ALREADY_USED"
    message = "These points have already been added."


@dataclass(frozen=True, slots=True)
class Redemption:
    """A paid token. Scores and points are whole; `rank` is None while the public board does not show the player."""

    player_id: uuid.UUID
    points: int
    new_score: int
    rank: int | None
    at: datetime

    @property
    def previous_score(self) -> int:
        return self.new_score - self.points


@dataclass(slots=True)
class _Wish:
    claim: Claim
    player_id: uuid.UUID
    request_id: str
    admitted: bool = False  # past the rate limit; a second look in a later batch is not charged again


# In the contract's order: known at all, age, owner; the ledger adds first use and whether the player may still earn.
_REDEEM = ledger.award_statement("""
    SELECT a.i, a.action_id AS source, a.player_id, l.points,
           CASE WHEN l.action_id IS NULL OR l.token_id <> a.token_id OR l.player_id <> a.owner_id OR l.points <> a.points
                THEN 'unknown'
                WHEN l.expires_at <= now() THEN 'expired'
                WHEN l.player_id <> a.player_id THEN 'mismatch'
           END AS refusal
    FROM unnest(%(action)s::uuid[], %(token)s::uuid[], %(owner)s::uuid[], %(points)s::bigint[], %(player)s::uuid[])
         WITH ORDINALITY AS a (action_id, token_id, owner_id, points, player_id, i)
    LEFT JOIN actions_actionlog l ON l.action_id = a.action_id
""")


async def redeem(*, token: str, action_id: str, player_id: uuid.UUID, request_id: str, address: str) -> Redemption:
    """Spend one score token. What is returned is committed.

    Args:
        token: as the client sent it.
        action_id: the action it must be for.
        player_id: who asks, from the access token.
        address: the caller's, for the watch on failed redemptions.

    Raises, in the order of checking: `InvalidToken`, `RateLimited`, `TokenExpired`, `TokenUserMismatch`,
        `TokenAlreadyUsed`, `ActionNotAllowed`, `Unauthorized` (not active); `Unavailable`: nothing is known to have been
        spent, and asking again gives the true answer.
    """
    try:
        claim = open_token(token, action_id)
        redemption = await _redemptions.submit(_Wish(claim, player_id, request_id))
    except Refusal as refusal:
        metrics.redemptions.labels(refusal.code).inc()
        if isinstance(refusal, NeverIssued):
            await _tell(watch.never_issued, player_id, claim.action_id)
        if isinstance(refusal, InvalidToken | TokenExpired | TokenUserMismatch | TokenAlreadyUsed):
            await _tell(watch.failed_redemption, player_id, address, refusal.code)
        raise
    metrics.redemptions.labels("PAID").inc()
    metrics.points.inc(redemption.points)
    return redemption


async def _tell(watching: Callable[..., None], *args: Any) -> None:
    """The watch may be slow or away: the caller's answer stays the true one."""
    try:
        await off_loop(watching, *args)
    except Exception as exc:
        log.warning("watch_not_told", error=type(exc).__name__)


def redeem_batch(wishes: Sequence[_Wish]) -> list[Redemption | Exception | Again]:
    """The results of a batch, in its order."""
    waits = limits.take([_rate(wish) for wish in wishes])
    results: list[Redemption | Exception | Again] = [RateLimited(retry_after=math.ceil(wait)) for wait in waits]
    admitted = [(place, wish) for place, (wish, wait) in enumerate(zip(wishes, waits, strict=True)) if not wait]
    if admitted:
        for _, wish in admitted:  # before the statement: where it fails, each is tried again by itself, and not charged again
            wish.admitted = True
        lines = _paid([wish for _, wish in admitted])
        for i, (place, wish) in enumerate(admitted, start=1):
            results[place] = _result(wish, lines[i])
    return results


def _rate(wish: _Wish) -> limits.Take:
    if wish.admitted:
        return limits.Take("scores", "", 0)
    # A redemption that passes frees its token's place among the unredeemed ones, in the same call.
    freed = (UNREDEEMED, wish.claim.token_id.hex) if settings.UNREDEEMED_TOKEN_LIMIT else None
    return limits.Take("scores", wish.player_id.hex, settings.SCORE_RATE_LIMIT, gives_back=freed)


def _paid(wishes: Sequence[_Wish]) -> dict[int, ledger.Line]:
    return ledger.award(
        _REDEEM,
        {
            "action": [wish.claim.action_id for wish in wishes],
            "token": [wish.claim.token_id for wish in wishes],
            "owner": [wish.claim.player_id for wish in wishes],
            "points": [wish.claim.points for wish in wishes],
            "player": [wish.player_id for wish in wishes],
        },
        [wish.request_id for wish in wishes],
    )


def _result(wish: _Wish, line: ledger.Line) -> Redemption | Exception | Again:
    match line.verdict:
        case "paid":
            assert line.created_at is not None
            return Redemption(line.player_id, line.points, line.score_after, line.rank, line.created_at)
        case "busy":
            return AGAIN
        case "used":
            return TokenAlreadyUsed(details={"redemption": receipt(line)})
        case "expired":
            # Its own player may have redeemed it in time and lost the answer: then say so.
            known = line.created_at is not None and wish.claim.player_id == wish.player_id
            return TokenExpired(details={"redemption": receipt(line)} if known else None)
        case "mismatch":
            return TokenUserMismatch()
        case "inactive":
            return Unauthorized("This account is not active.")
        case "suspended":
            return ActionNotAllowed("This player is suspended.", details={"reason": "suspended"})
        case "full":
            return ActionNotAllowed("The score cannot grow any further.", details={"reason": "score_is_full"})
    return NeverIssued()


def receipt(line: ledger.Line) -> dict[str, object]:
    """What the first redemption awarded: the same for every repeated call."""
    assert line.created_at is not None
    return {
        "userId": str(line.player_id),
        "previousScore": line.score_after - line.points,
        "pointsAwarded": line.points,
        "newScore": line.score_after,
        "timestamp": timestamp(line.created_at),
    }


_redemptions: GroupCommit[_Wish, Redemption] = GroupCommit(LANE, redeem_batch)

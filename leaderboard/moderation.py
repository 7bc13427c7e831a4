"""What staff can do to a player: always with a reason, always with a line in the audit, always shown at once."""

import uuid

from django.db import transaction

from leaderboard import ledger
from leaderboard.models import ModerationAct, Player, Score, ScoreEntry
from scoreboard_project.errors import Conflict, Invalid

Verb = ModerationAct.Verb


class NothingToDo(Conflict):
    """The player is already in that state."""

    message = "The player is already in that state."


class OwnScore(Conflict):
    """Staff play too; their scores are for others to judge."""

    code = "OWN_SCORE"
    message = "Nobody moderates their own score: ask another moderator."


class ReasonMissing(Invalid):
    """Every act needs a reason."""

    code = "REASON_MISSING"
    message = "Say why: every act of moderation needs a reason."


def suspend(*, player_id: uuid.UUID, moderator: Player, reason: str) -> ModerationAct:
    """Stop a player from earning, and take them off the board. Their points stay in the ledger."""
    return _switch(Verb.SUSPEND, {"suspended": True}, player_id, moderator, reason)


def reinstate(*, player_id: uuid.UUID, moderator: Player, reason: str) -> ModerationAct:
    return _switch(Verb.REINSTATE, {"suspended": False}, player_id, moderator, reason)


def hide(*, player_id: uuid.UUID, moderator: Player, reason: str) -> ModerationAct:
    """Keep a player off the public board while they go on earning."""
    return _switch(Verb.HIDE, {"hidden": True}, player_id, moderator, reason)


def show(*, player_id: uuid.UUID, moderator: Player, reason: str) -> ModerationAct:
    return _switch(Verb.SHOW, {"hidden": False}, player_id, moderator, reason)


@transaction.atomic
def reverse(*, entry: ScoreEntry, moderator: Player, reason: str) -> ScoreEntry:
    """Take an award back with a line that says so. Raises: `AlreadyReversed`, `BelowZero`, `Conflict`."""
    if entry.points <= 0 or entry.reverses_id:
        raise Conflict("Only an award can be reversed.")
    act = _act(Verb.REVERSE, entry.player_id, moderator, reason)
    return ledger.correct(act=act, points=-entry.points, reverses=entry)


@transaction.atomic
def adjust(*, player_id: uuid.UUID, points: int, moderator: Player, reason: str) -> ScoreEntry:
    """Add points, or take some away. Raises: `BelowZero`, `Conflict`."""
    if not points:
        raise Conflict("An adjustment of 0 points changes nothing.")
    act = _act(Verb.ADJUST, player_id, moderator, reason)
    return ledger.correct(act=act, points=points)


@transaction.atomic
def _switch(
    verb: ModerationAct.Verb, switch: dict[str, bool], player_id: uuid.UUID, moderator: Player, reason: str
) -> ModerationAct:
    score = Score.objects.select_for_update().get(player_id=player_id)
    if all(getattr(score, name) == value for name, value in switch.items()):
        raise NothingToDo
    ledger.change(score, **switch)
    return _act(verb, player_id, moderator, reason)


def _act(verb: ModerationAct.Verb, player_id: uuid.UUID, moderator: Player, reason: str) -> ModerationAct:
    if not reason.strip():
        raise ReasonMissing
    if moderator.pk == player_id:
        raise OwnScore
    return ModerationAct.objects.create(verb=verb, player_id=player_id, moderator=moderator, reason=reason.strip())


@transaction.atomic
def profile_changed(*, player_id: uuid.UUID) -> None:
    """A name or an avatar is new: open boards are to show it. No act, since nobody's points or place changes."""
    ledger.change(Score.objects.select_for_update().get(player_id=player_id))

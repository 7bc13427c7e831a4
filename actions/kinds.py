"""The kinds of verification that an action type can name."""

import re
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from actions.models import ActionType
from actions.quiz import Quiz
from actions.verification import UTC_DAY, InvalidEvidence, Verification


class OncePerDay(Verification):
    """Being there is all it takes, once a UTC day by PostgreSQL's clock; the unique occurrence sees to that."""

    kind = "once_per_day"
    label = _("Once per UTC day")

    def verify(self, action_type: ActionType, player_id: UUID, data: dict[str, Any]) -> str | None:
        return UTC_DAY


class Cooldown(Verification):
    """Nothing can be checked, so time is: the type's cooldown and its daily cap bound what a script can gain."""

    kind = "cooldown"
    label = _("Paced: a least time between, and a daily cap")

    def check(self, action_type: ActionType) -> None:
        super().check(action_type)
        if not action_type.cooldown_seconds or not action_type.daily_cap:
            raise ValidationError(_("A type that proves nothing needs a cooldown and a daily cap."))

    def verify(self, action_type: ActionType, player_id: UUID, data: dict[str, Any]) -> str | None:
        return None


class Trusted(Verification):
    """A game's own server judged it, and says so with its key. Each `actionData.reference` counts once per player."""

    kind = "trusted"
    label = _("Trusted: completed by a game server with its key")
    by_server = True
    _reference: ClassVar = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)

    def verify(self, action_type: ActionType, player_id: UUID, data: dict[str, Any]) -> str | None:
        reference = data.get("reference")
        if not isinstance(reference, str) or not self._reference.fullmatch(reference):
            raise InvalidEvidence(
                "actionData.reference is missing: your own id of this win, 1-64 of A-Z a-z 0-9 . _ : -, so that it pays once.",
                details={"reason": "reference"},
            )
        return reference


KINDS: dict[str, Verification] = {kind.kind: kind for kind in (OncePerDay(), Cooldown(), Quiz(), Trusted())}

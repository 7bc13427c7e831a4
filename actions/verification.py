"""What it takes to be believed: the interface of the kinds of verification.

A kind is a class with one instance in `actions.kinds.KINDS`; an action type names its kind and holds that kind's settings as
JSON. To add one: subclass `Verification`, put it into `KINDS`, done; admin offers it at once.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from actions.models import ActionType
from scoreboard_project.errors import Forbidden, Invalid

# An occurrence that PostgreSQL's clock fills in. References have no asterisk, so no client can send it.
UTC_DAY = "*day*"


class ActionNotAllowed(Forbidden):
    """Unknown or switched-off type, suspended player, cooldown or daily cap reached, or completed before."""

    code = "ACTION_NOT_ALLOWED"
    message = "This action is not allowed now."


class InvalidEvidence(Invalid):
    """What came with the completion does not prove it. `details.reason` says why."""

    code = "INVALID_ACTION_DATA"
    message = "What was sent does not prove that the action was completed."


class Verification(ABC):
    """One kind of verification.

    Attributes:
        kind: as stored in `ActionType.verification`.
        label: for staff.
        settings_form: checks the settings of a type of this kind; its cleaned data are what is stored.
        reads_database: whether `verify` may use the ORM; it then runs in a thread, after the player's rate limit was charged.
        by_server: whether only a game server's key may complete a type of this kind.
    """

    kind: ClassVar[str]
    label: ClassVar[Any]
    settings_form: ClassVar[type[forms.Form]] = forms.Form
    reads_database: ClassVar[bool] = False
    by_server: ClassVar[bool] = False

    def check(self, action_type: ActionType) -> None:
        """Whether a type may be of this kind. Sets its settings to the cleaned ones. Raises: Django's `ValidationError`."""
        given = action_type.settings
        if not isinstance(given, dict):
            raise ValidationError({"settings": _("A JSON object.")})
        if unknown := sorted(set(given) - set(self.settings_form.base_fields)):
            raise ValidationError({"settings": _("Unknown: %(names)s.") % {"names": ", ".join(unknown)}})
        initial = {name: field.initial for name, field in self.settings_form.base_fields.items()}
        form = self.settings_form(initial | given)
        if not form.is_valid():
            problems = [f"{name}: {' '.join(map(str, errors))}" for name, errors in form.errors.items()]
            raise ValidationError({"settings": problems})
        action_type.settings = form.cleaned_data

    @abstractmethod
    def verify(self, action_type: ActionType, player_id: UUID, data: dict[str, Any]) -> str | None:
        """Judge a completion's `actionData`.

        Returns: the occurrence it is for, where that may count only once (at most 64 characters); None where it may repeat.
        Raises: `InvalidEvidence`.
        """

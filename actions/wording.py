"""What the play page says where the API refuses: the API itself speaks English, and names each reason in `details.reason`."""

from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from scoreboard_project.errors import Refusal

# In braces: names of `details`.
SAID: dict[str, Any] = {
    "cooldown": _("Too soon: try again in {retryAfterSeconds} s."),
    "daily_cap": _("Not again today: the daily cap is reached."),
    "already_completed": _("Done already: it counts once. Daily actions open again at 0:00 UTC."),
    "unredeemed_tokens": _("Too many score tokens wait to be redeemed. Redeem them first."),
    "suspended": _("Moderators have suspended this account: it earns no points."),
    "unknown_action": _("There is no such action any more. Reload the page."),
    "not_passed": _("Not passed: too fast, or not enough right answers. You can start again in {retryAfterSeconds} s."),
    "pause": _("You can start again in {retryAfterSeconds} s."),
    "attempts_a_day": _("Not again today: no attempts are left."),
    "attempt_expired": _("These questions are too old. Start again."),
    "already_answered": _("These questions have been answered. Start again."),
    "unknown_attempt": _("These questions are gone. Start again."),
    "no_questions": _("This quiz has too few questions yet."),
    "score_is_full": _("The score cannot grow any further."),
    # Where there is no reason, the code says enough.
    "RATE_LIMITED": _("Too quick. Wait a little, then try again."),
    "UNAUTHORIZED": _("Sign in again: the session has ended."),
    "UNAVAILABLE": _("The scoreboard cannot do this right now. Nothing was changed: try again."),
    "TOKEN_EXPIRED": _("The token has expired. Complete the action again."),
}

# What every board starts with is translated as well; what staff add is shown as they wrote it.
STARTING_CATALOGUE = [
    *(gettext_noop("Quiz"), gettext_noop("Finish a quiz.")),
    *(gettext_noop("Task"), gettext_noop("Finish a task.")),
    *(gettext_noop("Daily check-in"), gettext_noop("Once a day (UTC).")),
]


def said(refusal: Refusal) -> str:
    """The sentence for a person, in their language; the API's own where there is none."""
    details = refusal.details or {}
    text: str | Promise = SAID.get(details.get("reason", ""), SAID.get(refusal.code, ""))
    try:
        return str(text).format_map(details) or refusal.message
    except KeyError:  # the rule and its wording have come apart
        return refusal.message

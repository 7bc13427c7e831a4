"""Quizzes: the questions go out, the right answers stay here, and the first answers that come back are the ones that count."""

import math
import random
from datetime import UTC, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now, Trunc
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from actions.models import ActionTally, ActionType, QuizAttempt
from actions.verification import ActionNotAllowed, InvalidEvidence, Verification
from leaderboard.models import Player, Score
from scoreboard_project import limits
from scoreboard_project.errors import RateLimited, Unauthorized

_random = random.SystemRandom()  # guessing the order of choices must not help


KEPT_DAYS = 7  # of answered attempts; what was completed stays on record


class QuizSettings(forms.Form):
    """`least_seconds`: quicker than this nobody reads. `open_minutes`: how long an attempt may be answered.
    `pause_seconds`: after an attempt that was not passed. `attempts_a_day`: passed or not, of one player in a UTC day.
    """

    questions = forms.IntegerField(min_value=1, max_value=50, initial=3)
    right_to_pass = forms.IntegerField(min_value=1, max_value=50, initial=3)
    least_seconds = forms.FloatField(min_value=0.5, max_value=3600, initial=3)
    open_minutes = forms.IntegerField(min_value=1, max_value=1440, initial=10)
    pause_seconds = forms.IntegerField(min_value=0, max_value=86_400, initial=30)
    attempts_a_day = forms.IntegerField(min_value=1, max_value=10_000, initial=30)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("right_to_pass", 0) > cleaned.get("questions", 0):
            raise ValidationError(_("More right answers than questions."))
        return cleaned


class Quiz(Verification):
    """`start` hands out questions; the completion brings `{"attemptId": …, "answers": {question id: place of the choice}}`."""

    kind = "quiz"
    label = _("Quiz: marked by the server")
    settings_form = QuizSettings
    reads_database = True

    def verify(self, action_type: ActionType, player_id: UUID, data: dict[str, Any]) -> str | None:
        attempt = _answered(action_type, player_id, data)
        if not attempt.passed:
            # Nothing about which answers were wrong, nor how many: that would be an oracle.
            pause = _rules(action_type)["pause_seconds"]
            message = f"Not passed: too fast, or not enough right answers. You can start again in {pause} s."
            raise _refused("not_passed", message, retryAfterSeconds=pause)
        return attempt.id.hex


def start(slug: str, player_id: UUID) -> QuizAttempt:
    """The player's open attempt at this quiz, made where there is none.

    Raises: `RateLimited`, `Unauthorized` (not active), `ActionNotAllowed`, `InvalidEvidence` (no quiz, or one without questions).
    """
    wait = limits.take([limits.Take("starts", player_id.hex, settings.ACTION_RATE_LIMIT)])[0]
    if wait:
        raise RateLimited(retry_after=math.ceil(wait))
    action_type = ActionType.objects.filter(pk=slug, enabled=True).first()
    _check_player(action_type, player_id)
    if action_type is None:
        raise ActionNotAllowed("There is no such action.", details={"reason": "unknown_action"})
    if action_type.verification != Quiz.kind:
        raise _refused("no_start", "This action needs no start: complete it.")
    with transaction.atomic():
        Player.objects.select_for_update(no_key=True).get(pk=player_id)  # one start of a player at a time
        mine = QuizAttempt.objects.filter(player_id=player_id, action_type=action_type)
        mine.filter(Q(answered_at=None, expires_at__lte=Now()) | Q(answered_at__lt=Now() - timedelta(days=KEPT_DAYS))).delete()
        attempt = mine.filter(answered_at=None).first()
        if attempt is None:
            _check_pace(mine, _rules(action_type))
            attempt = _new_attempt(action_type, player_id)
    return attempt


def _check_pace(attempts: QuerySet[QuizAttempt], rules: dict[str, Any]) -> None:
    """Who fails waits, and nobody tries without end: else guessing and learning by heart would be a living."""
    if attempts.filter(answered_at__gte=Trunc(Now(), "day", tzinfo=UTC)).count() >= rules["attempts_a_day"]:
        raise ActionNotAllowed("Not again today: no attempts are left.", details={"reason": "attempts_a_day"})
    since = Now() - timedelta(seconds=rules["pause_seconds"])
    failed = attempts.filter(passed=False, answered_at__gt=since).annotate(since=Now() - F("answered_at")).first()
    if failed is not None:
        seconds = max(1, math.ceil(rules["pause_seconds"] - failed.since.total_seconds()))
        raise ActionNotAllowed(f"You can start again in {seconds} s.", details={"reason": "pause", "retryAfterSeconds": seconds})


def _check_player(action_type: ActionType | None, player_id: UUID) -> None:
    """What the recording statement will refuse anyway, said before anybody answers questions in vain."""
    score = Score.objects.filter(player_id=player_id, player__is_active=True).first()
    if score is None:
        raise Unauthorized("This account is not active.")
    if score.suspended:
        raise ActionNotAllowed("This player is suspended.", details={"reason": "suspended"})
    if action_type and action_type.daily_cap and settings.ACTION_RATE_LIMIT:
        today = timezone.now().astimezone(UTC).date()
        spent = ActionTally.objects.filter(player_id=player_id, action_type=action_type, day=today)
        if spent.filter(count__gte=action_type.daily_cap).exists():
            raise ActionNotAllowed("Not again today: the daily cap is reached.", details={"reason": "daily_cap"})


def asked(attempt: QuizAttempt) -> list[dict[str, Any]]:
    """The questions as a player may see them: `[{"id": 12, "text": "…", "choices": ["…", …]}, …]`."""
    return [{name: question[name] for name in ("id", "text", "choices")} for question in attempt.questions]


def _new_attempt(action_type: ActionType, player_id: UUID) -> QuizAttempt:
    rules = _rules(action_type)
    bank = list(action_type.questions.all())
    questions = []
    for question in _random.sample(bank, min(rules["questions"], len(bank))):
        choices = [question.right, *question.wrong_answers]
        _random.shuffle(choices)
        right = choices.index(question.right)
        questions.append({"id": question.pk, "text": question.text, "choices": choices, "right": right})
    if len(questions) < rules["right_to_pass"]:
        raise _refused("no_questions", "This quiz has too few questions yet. Staff can add some.")
    expires_at = timezone.now() + timedelta(minutes=rules["open_minutes"])
    attempt = QuizAttempt.objects.create(player_id=player_id, action_type=action_type, questions=questions, expires_at=expires_at)
    attempt.refresh_from_db()
    return attempt


def _answered(action_type: ActionType, player_id: UUID, data: dict[str, Any]) -> QuizAttempt:
    """The attempt with its first answers. The same answers may be sent again, as after a lost reply; others may not."""
    attempt_id, answers = data.get("attemptId"), data.get("answers")
    with transaction.atomic():
        attempt = QuizAttempt.objects.select_for_update().filter(pk=_uuid(attempt_id), player_id=player_id).first()
        if attempt is None or attempt.action_type_id != action_type.pk:
            raise _refused("unknown_attempt", "There is no such attempt of yours: POST /api/v1/actions/start first.")
        if attempt.answered_at is None:
            if attempt.expires_at <= timezone.now():
                raise _refused("attempt_expired", "This attempt is too old: start a new one.")
            _mark(attempt, _checked(attempt, answers), _rules(action_type))
        elif attempt.answers != answers:
            raise _refused("already_answered", "This attempt has been answered: start a new one.")
    return attempt


def _mark(attempt: QuizAttempt, answers: dict[str, int], rules: dict[str, Any]) -> None:
    attempt.answers, attempt.answered_at = answers, Now()
    attempt.save(update_fields=["answers", "answered_at"])
    attempt.refresh_from_db()
    assert attempt.answered_at is not None
    read = attempt.answered_at - attempt.started_at >= timedelta(seconds=rules["least_seconds"])
    right = sum(answers[str(question["id"])] == question["right"] for question in attempt.questions)
    attempt.passed = read and right >= rules["right_to_pass"]
    attempt.save(update_fields=["passed"])


def _checked(attempt: QuizAttempt, answers: Any) -> dict[str, int]:
    wanted = {str(question["id"]): len(question["choices"]) for question in attempt.questions}
    if not isinstance(answers, dict) or answers.keys() != wanted.keys():
        raise _refused("answers", "actionData.answers must have one answer for each question id, and no others.")
    for question_id, place in answers.items():
        if type(place) is not int or not 0 <= place < wanted[question_id]:
            raise _refused("answers", "An answer is the place of a choice, counted from 0.")
    return answers


def _rules(action_type: ActionType) -> dict[str, Any]:
    return {name: field.initial for name, field in QuizSettings.base_fields.items()} | action_type.settings


def _uuid(text: Any) -> UUID:
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        raise _refused("attemptId", "actionData.attemptId is missing: POST /api/v1/actions/start gives one.") from None


def _refused(reason: str, message: str, **details: Any) -> InvalidEvidence:
    return InvalidEvidence(message, details={"reason": reason, **details})

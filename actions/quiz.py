"""Quizzes: the questions go out, the right answers stay here, and the first answers that come back are the ones that count."""

import math
import random
from datetime import UTC, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from actions.models import ActionTally, ActionType, QuizAttempt
from actions.verification import ActionNotAllowed, InvalidEvidence, Verification
from leaderboard.models import Score
from scoreboard_project import limits
from scoreboard_project.errors import RateLimited, Unauthorized

_random = random.SystemRandom()  # guessing the order of choices must not help


class QuizSettings(forms.Form):
    """`least_seconds`: quicker than this nobody reads. `open_minutes`: how long an attempt may be answered."""

    questions = forms.IntegerField(min_value=1, max_value=50, initial=3)
    right_to_pass = forms.IntegerField(min_value=1, max_value=50, initial=3)
    least_seconds = forms.FloatField(min_value=0.5, max_value=3600, initial=3)
    open_minutes = forms.IntegerField(min_value=1, max_value=1440, initial=10)

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
        rules = _rules(action_type)
        assert attempt.answered_at is not None and attempt.answers is not None
        if attempt.answered_at - attempt.started_at < timedelta(seconds=rules["least_seconds"]):
            raise _refused("too_fast", "Nobody reads that fast. Start again, and take your time.")
        right = sum(attempt.answers[str(question["id"])] == question["right"] for question in attempt.questions)
        if right < rules["right_to_pass"]:
            message = f"{right} of {len(attempt.questions)} right; {rules['right_to_pass']} are needed. Start again."
            raise _refused("not_passed", message, right=right, needed=rules["right_to_pass"])
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
    mine = QuizAttempt.objects.filter(player_id=player_id, action_type=action_type, answered_at=None)
    mine.filter(expires_at__lte=Now()).delete()
    attempt = mine.first()
    if attempt is None:
        try:
            with transaction.atomic():
                attempt = _new_attempt(action_type, player_id)
        except IntegrityError:  # another call of this player was quicker
            attempt = mine.get()
    return attempt


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
            _check_shape(attempt, answers)
            attempt.answers, attempt.answered_at = answers, Now()
            attempt.save(update_fields=["answers", "answered_at"])
            attempt.refresh_from_db()
        elif attempt.answers != answers:
            raise _refused("already_answered", "This attempt has been answered: start a new one.")
    return attempt


def _check_shape(attempt: QuizAttempt, answers: Any) -> None:
    wanted = {str(question["id"]): len(question["choices"]) for question in attempt.questions}
    if not isinstance(answers, dict) or answers.keys() != wanted.keys():
        raise _refused("answers", "actionData.answers must have one answer for each question id, and no others.")
    for question_id, place in answers.items():
        if type(place) is not int or not 0 <= place < wanted[question_id]:
            raise _refused("answers", "An answer is the place of a choice, counted from 0.")


def _rules(action_type: ActionType) -> dict[str, Any]:
    return {name: field.initial for name, field in QuizSettings.base_fields.items()} | action_type.settings


def _uuid(text: Any) -> UUID:
    try:
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        raise _refused("attemptId", "actionData.attemptId is missing: POST /api/v1/actions/start gives one.") from None


def _refused(reason: str, message: str, **details: Any) -> InvalidEvidence:
    return InvalidEvidence(message, details={"reason": reason, **details})

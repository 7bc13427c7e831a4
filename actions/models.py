"""What a player can complete and what it is worth; each completion as it was accepted; what looked wrong."""

import uuid

from django.conf import settings
from django.contrib.postgres.indexes import BrinIndex
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

MAX_POINTS = 10_000


class ActionType(models.Model):
    """A row of the catalogue. Its points are what the server pays, whatever a client says.

    `verification` names the kind (`actions.kinds`) that decides whether a completion is believed; `settings` are that kind's.
    Cooldown and daily cap hold for every kind.
    """

    slug = models.SlugField(primary_key=True, max_length=64)
    label = models.CharField(max_length=80)
    description = models.CharField(max_length=200, blank=True)
    points = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MAX_POINTS)])
    enabled = models.BooleanField(default=True)
    verification = models.CharField(max_length=32, default="cooldown", db_default="cooldown")
    settings = models.JSONField(default=dict, db_default={}, blank=True)
    cooldown_seconds = models.PositiveIntegerField(default=0, help_text=_("Least time between two completions; 0: none."))
    daily_cap = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text=_("Most completions in a UTC day; empty: no cap.")
    )

    class Meta:
        ordering = ["-points", "slug"]
        verbose_name = _("action type")
        verbose_name_plural = _("action types")
        constraints = [
            models.CheckConstraint(condition=Q(points__gte=1, points__lte=MAX_POINTS), name="action_type_pays_1_to_10000"),
            models.CheckConstraint(condition=Q(daily_cap=None) | Q(daily_cap__gte=1), name="daily_cap_is_none_or_at_least_1"),
        ]

    def __str__(self) -> str:
        return self.label


class ActionTally(models.Model):
    """How often a player has completed a type today, and when last: what cooldowns and daily caps are decided by."""

    # The unique constraint's index finds a player's rows too.
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False)
    action_type = models.ForeignKey(ActionType, models.CASCADE, related_name="+")
    day = models.DateField(help_text=_("UTC"))
    count = models.PositiveIntegerField()
    last_at = models.DateTimeField()

    class Meta:
        verbose_name = _("tally")
        verbose_name_plural = _("tallies")
        constraints = [models.UniqueConstraint(fields=["player", "action_type"], name="tally_per_player_and_type")]

    def __str__(self) -> str:
        return f"{self.action_type_id}: {self.count} on {self.day}"


class ActionLog(models.Model):
    """One accepted completion: the server's own record that a score token was issued, and for what.

    Never deleted; a trigger lets nobody change what it is worth, whose it is, or make it live longer.
    """

    action_id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    token_id = models.UUIDField(unique=True, help_text=_("The `jti` of the one score token that was issued."))
    # Each index is written to by each completion: none that another one covers, or that only the deletion of a type would use.
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="actions", db_index=False)
    action_type = models.ForeignKey(ActionType, models.PROTECT, related_name="completions", db_index=False)
    points = models.PositiveIntegerField()
    data = models.JSONField(default=dict, help_text=_("What the client sent as actionData."))
    client_timestamp = models.DateTimeField(null=True, help_text=_("The client's clock: recorded, never trusted."))
    request_id = models.CharField(max_length=128)
    occurrence = models.CharField(
        max_length=64,
        null=True,
        help_text=_("What it was for, where that counts once: a UTC day, an attempt, a match."),
    )
    server_key = models.ForeignKey("ServerKey", models.PROTECT, null=True, related_name="+", db_index=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("completed action")
        verbose_name_plural = _("completed actions")
        constraints = [
            models.CheckConstraint(condition=Q(points__gte=1, points__lte=MAX_POINTS), name="action_pays_1_to_10000"),
            models.UniqueConstraint(
                fields=["player", "action_type", "occurrence"],
                condition=Q(occurrence__isnull=False),
                name="occurrence_counts_once",
            ),
        ]
        indexes = [
            models.Index(fields=["player", "created_at"], name="action_by_player"),
            models.Index(fields=["server_key"], condition=Q(server_key__isnull=False), name="action_by_server_key"),
            # Rows come in the order of time, so an index of page ranges finds the latest at next to no cost for a write.
            BrinIndex(fields=["created_at"], name="action_by_time", autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.action_type_id} (+{self.points})"


class Question(models.Model):
    """A question of a quiz. The right answer never leaves the server."""

    action_type = models.ForeignKey(ActionType, models.CASCADE, related_name="questions")
    text = models.CharField(max_length=300)
    right = models.CharField(_("right answer"), max_length=120)
    wrong = models.TextField(_("wrong answers"), max_length=1000, help_text=_("One a line."))

    class Meta:
        ordering = ["id"]
        verbose_name = _("question")
        verbose_name_plural = _("questions")

    def __str__(self) -> str:
        return self.text

    @property
    def wrong_answers(self) -> list[str]:
        return [line.strip() for line in self.wrong.splitlines() if line.strip()]


class QuizAttempt(models.Model):
    """Questions that a player was given, and the first answers that came back. One open attempt per player and quiz, so that
    nobody starts again until the questions suit them.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    action_type = models.ForeignKey(ActionType, models.CASCADE, related_name="+")
    questions = models.JSONField(help_text=_("As they were asked: id, text, choices, and the place of the right one."))
    started_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()
    answers = models.JSONField(null=True, help_text=_("The first that were sent: question id to the place of the choice."))
    answered_at = models.DateTimeField(null=True)
    passed = models.BooleanField(null=True)

    class Meta:
        verbose_name = _("quiz attempt")
        verbose_name_plural = _("quiz attempts")
        constraints = [
            models.UniqueConstraint(
                fields=["player", "action_type"], condition=Q(answered_at=None), name="one_open_attempt_per_player_and_quiz"
            ),
            models.CheckConstraint(
                condition=Q(answers=None, answered_at=None) | Q(answers__isnull=False, answered_at__isnull=False),
                name="attempt_answers_have_a_time",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class ServerKey(models.Model):
    """A game server's key for completing `trusted` actions for players. Only its hash is stored; the key is shown once."""

    name = models.CharField(max_length=80, help_text=_("Whose key it is, for staff."))
    action_types = models.ManyToManyField(ActionType, related_name="server_keys", help_text=_("What it may complete."))
    hint = models.CharField(max_length=16, editable=False, help_text=_("How the key begins."))
    key_hash = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("server key")
        verbose_name_plural = _("server keys")

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"


class Flag(models.Model):
    """Something that looks wrong, for staff to judge. One open flag per kind and subject; nobody is blocked by it."""

    class Kind(models.TextChoices):
        FAST_GAIN = "fast_gain", _("over 1000 points within a minute")
        MANY_ACTIONS = "many_actions", _("over 100 completed actions within an hour")
        FAILED_REDEMPTIONS = "failed_redemptions", _("over 20 failed redemptions within 5 minutes")
        NEVER_ISSUED = "never_issued", _("a correctly signed token that was never issued")
        LARGE_ADJUSTMENT = "large_adjustment", _("a member of staff added over 10,000 points at once")

    kind = models.CharField(max_length=32, choices=Kind.choices)
    subject = models.CharField(max_length=64, help_text=_("A player's id, or an address."))
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="flags")
    evidence = models.JSONField(default=dict)
    raised_at = models.DateTimeField(db_default=Now(), editable=False)
    closed_at = models.DateTimeField(null=True)
    closed_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")

    class Meta:
        ordering = ["-raised_at"]
        verbose_name = _("flag")
        verbose_name_plural = _("flags")
        permissions = [("close_flag", _("Can close flags"))]
        constraints = [models.UniqueConstraint(fields=["kind", "subject"], condition=Q(closed_at=None), name="flag_is_open_once")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.subject}"


class AlertDelivery(models.Model):
    """One flag on its way to one channel. Due until it was delivered or given up."""

    class Channel(models.TextChoices):
        WEBHOOK = "webhook", _("webhook")
        EMAIL = "email", _("e-mail")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    flag = models.ForeignKey(Flag, models.CASCADE, related_name="deliveries")
    channel = models.CharField(max_length=16, choices=Channel.choices)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(
        null=True, db_default=Now(), help_text=_("Of the next try; none once it was delivered or given up.")
    )
    delivered_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=200, blank=True, help_text=_("Why the last try failed."))

    class Meta:
        ordering = ["-due_at"]
        verbose_name = _("alert delivery")
        verbose_name_plural = _("alert deliveries")
        constraints = [models.UniqueConstraint(fields=["flag", "channel"], name="alert_goes_once_to_a_channel")]
        indexes = [models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="alert_due")]

    def __str__(self) -> str:
        return f"{self.get_channel_display()}: {self.flag}"

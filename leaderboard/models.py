"""Players, their scores, the ledger behind each score, and the acts of moderators. The invariants are constraints."""

import unicodedata
import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.indexes import BrinIndex
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from leaderboard import avatars, names

# Exact in PostgreSQL's bigint, in a Redis score (a double) and in JavaScript's numbers alike.
MAX_SCORE = 2**53 - 1


class Player(AbstractUser):
    """A user, who has a score from the first moment on (a trigger of migration 0002 makes it)."""

    first_name = None  # type: ignore[assignment]
    last_name = None  # type: ignore[assignment]
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    username = models.CharField(
        _("username"),
        max_length=names.LONGEST,
        unique=True,
        validators=[names.validate],
        help_text=_("At most 32 letters and digits, and . _ - between them."),
        error_messages={"unique": _("A player with that name exists already.")},
    )
    name_skeleton = models.CharField(max_length=4 * names.LONGEST, unique=True, editable=False)
    email = models.EmailField(_("email address"), unique=True, null=True, blank=True)  # type: ignore[assignment]
    avatar_url = models.URLField(_("avatar"), max_length=500, null=True, blank=True, validators=[avatars.validate])
    # Kept by a trigger (scoreboard_project.0002): nothing that Python writes here counts.
    access_epoch = models.PositiveIntegerField(
        default=0, db_default=0, editable=False, help_text=_("Rises when the password changes or the account is deactivated.")
    )
    access_ended_at = models.DateTimeField(null=True, editable=False, help_text=_("When it last rose."))

    REQUIRED_FIELDS = []

    class Meta:
        verbose_name = _("player")
        verbose_name_plural = _("players")
        indexes = [
            models.Index(fields=["access_ended_at"], condition=Q(access_ended_at__isnull=False), name="player_access_ended")
        ]

    def clean(self) -> None:
        super().clean()
        self._settle()
        # Forms leave out fields that nobody edits when they check what is unique.
        if Player.objects.filter(name_skeleton=self.name_skeleton).exclude(pk=self.pk).exists():
            raise ValidationError({"username": _("That name looks too much like another player's.")}, code="name_taken")

    def save(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        super().save(*args, **kwargs)

    def _settle(self) -> None:
        self.email = self.email or None  # unique, yet many players have none
        self.username = unicodedata.normalize("NFKC", self.username)
        self.name_skeleton = names.skeleton(self.username)


class Score(models.Model):
    """Where a player stands: always the sum of their ledger. Only `ledger` writes it.

    `day_points`, `week_points` and `month_points` are of the day, the week and the month in which `earned_at` lies; of earlier
    ones the ledger knows, and `PastScore` once they are over.
    """

    player = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="score")
    total_score = models.BigIntegerField(default=0, db_default=0)
    revision = models.BigIntegerField(default=0, db_default=0, help_text=_("Rises with every change; newer wins."))
    reached_at = models.DateTimeField(db_default=Now(), help_text=_("Of equal scores, the earlier one ranks first."))
    suspended = models.BooleanField(default=False, db_default=False, help_text=_("Earns nothing, shown nowhere."))
    hidden = models.BooleanField(default=False, db_default=False, help_text=_("Earns points, shown nowhere."))
    opted_out = models.BooleanField(
        default=False, db_default=False, help_text=_("The player's own wish to be shown nowhere; moderators decide on `hidden`.")
    )
    updated_at = models.DateTimeField(db_default=Now(), db_index=True)
    earned_at = models.DateTimeField(null=True, help_text=_("The last award or adjustment; a reversal does not count."))
    day_points = models.BigIntegerField(default=0, db_default=0)
    week_points = models.BigIntegerField(default=0, db_default=0)
    month_points = models.BigIntegerField(default=0, db_default=0)

    class Meta:
        verbose_name = _("score")
        verbose_name_plural = _("scores")
        permissions = [("moderate_score", _("Can suspend, reinstate, reverse and adjust"))]
        constraints = [
            models.CheckConstraint(
                condition=Q(total_score__gte=0, total_score__lte=MAX_SCORE), name="score_is_exact_and_not_negative"
            )
        ]
        indexes = [
            models.Index(
                F("total_score").desc(),
                "reached_at",
                "player",
                condition=Q(total_score__gt=0, suspended=False, hidden=False),
                name="score_board_order",
            )
        ]

    def __str__(self) -> str:
        return f"{self.player.username}: {self.total_score}"

    @property
    def public(self) -> bool:
        """Whether public boards may show this player."""
        return not (self.suspended or self.hidden or self.opted_out)

    @property
    def listed(self) -> bool:
        """Whether the public board of all time shows it."""
        return self.total_score > 0 and self.public


class BestRank(models.Model):
    """The best place on the board of all time that a player was seen at; `best_ranks` looks once a minute."""

    player = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="best_rank")
    rank = models.PositiveIntegerField()
    reached_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"#{self.rank}"


class ModerationAct(models.Model):
    """What a member of staff did to a player, and why. Never edited or deleted."""

    class Verb(models.TextChoices):
        SUSPEND = "suspend", _("suspend")
        REINSTATE = "reinstate", _("reinstate")
        HIDE = "hide", _("hide from the board")
        SHOW = "show", _("show on the board")
        REVERSE = "reverse", _("reverse an award")
        ADJUST = "adjust", _("adjust the score")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    verb = models.CharField(max_length=16, choices=Verb.choices)
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="moderation_acts")
    moderator = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    reason = models.CharField(max_length=500)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("moderation act")
        verbose_name_plural = _("moderation acts")
        constraints = [
            models.CheckConstraint(condition=Q(reason__regex=r"\S"), name="act_has_a_reason"),
            models.CheckConstraint(
                condition=Q(verb__in=["suspend", "reinstate", "hide", "show", "reverse", "adjust"]), name="act_verb_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_verb_display()}: {self.player.username}"


class ScoreEntry(models.Model):
    """One line of the ledger. Never edited or deleted: a wrong line is answered by one that `reverses` it."""

    # `entry_by_player` finds a player's lines; a second index of them is one more for each award to write to.
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="entries", db_index=False)
    points = models.BigIntegerField(help_text=_("Whole points; below zero only when correcting."))
    score_after = models.BigIntegerField(help_text=_("The player's score once this line was added."))
    source = models.UUIDField(help_text=_("What moved the points: an action, or a moderation act."))
    act = models.OneToOneField(ModerationAct, models.PROTECT, null=True, related_name="entry")
    reverses = models.OneToOneField("self", models.PROTECT, null=True, related_name="reversal")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name = _("ledger line")
        verbose_name_plural = _("ledger")
        constraints = [
            models.UniqueConstraint(fields=["source"], name="entry_source_counts_once"),
            # An award is above zero and nobody's act; all else is a moderator's act, with its reason.
            models.CheckConstraint(
                condition=Q(act=None, reverses=None, points__gt=0)
                | Q(act__isnull=False, reverses__isnull=False, points__lt=0)
                | (Q(act__isnull=False, reverses=None) & ~Q(points=0)),
                name="entry_is_award_reversal_or_adjustment",
            ),
            models.CheckConstraint(
                condition=Q(score_after__gte=0, score_after__lte=MAX_SCORE), name="entry_score_after_is_exact"
            ),
        ]
        indexes = [
            models.Index(fields=["player", "-id"], name="entry_by_player"),
            # Lines come in the order of time, so an index of page ranges finds the latest at next to no cost for a write.
            BrinIndex(fields=["created_at"], name="entry_by_time", autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.points:+d} → {self.score_after}"


class PastPeriod(models.Model):
    """A day, week or month that is over and settled: its standings are `PastScore`s. Only `closing` writes it."""

    kind = models.CharField(max_length=5)
    start = models.DateTimeField()
    end = models.DateTimeField()
    closed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "start"], name="period_is_closed_once"),
            models.CheckConstraint(condition=Q(kind__in=["day", "week", "month"]), name="period_kind_is_known"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} from {self.start:%Y-%m-%d}"


class PastScore(models.Model):
    """What a player earned in a period that is over: the sum of the ledger lines that count there.

    Written in bulk from the ledger, whose own keys are checked: checking them again took longer than all the rest.
    """

    pk = models.CompositePrimaryKey("period_id", "player_id")
    period = models.ForeignKey(PastPeriod, models.CASCADE, related_name="scores", db_index=False, db_constraint=False)
    player = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="past_scores", db_index=False, db_constraint=False
    )
    points = models.BigIntegerField()
    reached_at = models.DateTimeField(help_text=_("Of equal scores, the earlier one ranks first."))

    class Meta:
        indexes = [
            models.Index(
                "period", F("points").desc(), "reached_at", "player", condition=Q(points__gt=0), name="past_score_board_order"
            )
        ]

    def __str__(self) -> str:
        return f"{self.points} in {self.period}"

"""Sign-ins: one row per chain of refresh tokens."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class SignIn(models.Model):
    """A sign-in through the API. Only `current_token` may be refreshed; any other token of the chain ends it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    player = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="sign_ins")
    current_token = models.UUIDField(help_text="The `jti` of the newest refresh token; the token itself is never stored.")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("sign-in")
        verbose_name_plural = _("sign-ins")

    def __str__(self) -> str:
        return f"{self.player_id} {self.created_at:%Y-%m-%d %H:%M}"

"""Whose access has been taken back lately: why an access token needs no query to be checked, and still cannot outlive it.

A trigger of PostgreSQL raises a player's `access_epoch` when the password changes or the account is deactivated, whichever
door that came through. A token carries the epoch it was made in. Each process asks every few seconds for the players whose
epoch rose within the life of an access token, and refuses what is older. (docs/decisions/09-ended-access.md)
"""

import uuid
from collections.abc import Mapping
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.db.models.functions import Now
from rest_framework_simplejwt.tokens import AccessToken

LOOK_SECONDS = 2.0
# A token that was being made while access ended; and the clocks of the servers and of PostgreSQL differ.
MARGIN = timedelta(seconds=60)

_least: Mapping[uuid.UUID, int] | None = None


def look() -> None:
    """Ask PostgreSQL anew; one short indexed query. Raises: Django's and psycopg's errors, and then remembers what it knew."""
    global _least
    since = Now() - AccessToken.lifetime - MARGIN
    _least = dict(get_user_model().objects.filter(access_ended_at__gt=since).values_list("pk", "access_epoch"))


def look_first() -> None:
    """`look`, unless this process has looked already: until then it believes tokens that were taken back. Raises as `look`."""
    if _least is None:
        look()


def is_over(player_id: uuid.UUID, epoch: int) -> bool:
    """Whether access that was given in this epoch of the player's has been taken back."""
    return epoch < players().get(player_id, 0)


def players() -> Mapping[uuid.UUID, int]:
    """{player: the least epoch that is still good}, of those whose access ended lately."""
    return _least or {}

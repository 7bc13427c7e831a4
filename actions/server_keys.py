"""Keys of game servers: 256 random bits, shown once, stored as a hash, each good for the action types it names."""

import hashlib
import secrets

from django.db.models import QuerySet
from django.utils import timezone

from actions.models import ActionType, ServerKey
from scoreboard_project.errors import Unauthorized

PREFIX = "sbk_"  # lets secret scanners, and people, see what it is


def issue(name: str, slugs: list[str]) -> tuple[ServerKey, str]:
    """A new key: its record, and the key itself, which nobody can look up again."""
    key = new()
    record = ServerKey.objects.create(name=name, **columns(key))
    record.action_types.set(ActionType.objects.filter(pk__in=slugs))
    return record, key


def new() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def columns(key: str) -> dict[str, str]:
    """What is stored of a key. A plain hash will do: there is nothing to guess in 256 random bits."""
    return {"hint": key[: len(PREFIX) + 4], "key_hash": hashlib.sha256(key.encode()).hexdigest()}


def holder(key: str) -> ServerKey:
    """The record behind a key that is in force. Raises: `Unauthorized`."""
    record = ServerKey.objects.filter(key_hash=hashlib.sha256(key.encode()).hexdigest(), revoked_at=None).first()
    if record is None:
        raise Unauthorized("This server key is not valid, or has been revoked.")
    return record


def may_complete(record: ServerKey, slug: str) -> bool:
    return record.action_types.filter(pk=slug).exists()


def revoke(keys: QuerySet[ServerKey]) -> int:
    """From now on these keys are refused; what they completed stays. Returns: how many were in force."""
    return keys.filter(revoked_at=None).update(revoked_at=timezone.now())

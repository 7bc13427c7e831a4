"""A player's picture: a pattern made from their id, or an address at a host that `AVATAR_HOSTS` names.

The same setting makes the pages' Content-Security-Policy, so whatever is accepted here is also shown.
"""

import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

HUES = 8


@dataclass(frozen=True, slots=True)
class Identicon:
    """A mirrored pattern of 5 by 5 squares. `squares`: (x, y) of the filled ones; `hue`: which colours, 0–7."""

    squares: list[tuple[int, int]]
    hue: int


def identicon(player_id: uuid.UUID) -> Identicon:
    """The same pattern that `row.js` draws on the board."""
    bits = _mixed(str(player_id))
    filled = [(cell % 3, cell // 3) for cell in range(15) if bits >> cell & 1]
    return Identicon([(column, y) for x, y in filled for column in sorted({x, 4 - x})], (bits >> 16) % HUES)


def allowed(url: str) -> bool:
    """Whether the pages may show this picture."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return False
    if parts.scheme != "https" or port not in (None, 443) or "@" in parts.netloc or "\\" in url:
        return False
    return any(_covers(pattern, host) for pattern in settings.AVATAR_HOSTS)


def validate(url: str) -> None:
    """`allowed`, as a field's validator."""
    if allowed(url):
        return
    hosts = ", ".join(settings.AVATAR_HOSTS)
    if not hosts:
        raise ValidationError(_("Pictures from other hosts are switched off here."), code="avatar_host")
    if "*" in settings.AVATAR_HOSTS:
        raise ValidationError(_("A picture's address begins with https://"), code="avatar_host")
    raise ValidationError(
        _("A picture's address begins with https:// and is at one of these hosts: %(hosts)s"),
        params={"hosts": hosts},
        code="avatar_host",
    )


def _covers(pattern: str, host: str) -> bool:
    # As browsers read a policy: `*.example.com` is every host below example.com, and not that host itself.
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _mixed(text: str) -> int:
    """FNV-1a, then mixed, since ids may differ in one digit only."""
    total = 0x811C9DC5
    for letter in text:
        total = (total ^ ord(letter)) * 0x01000193 & 0xFFFFFFFF
    total = (total ^ total >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    return total ^ total >> 13

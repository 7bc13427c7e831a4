"""Reading the environment: typed, once, refusing by name.

Nothing but `settings.py` calls these. A value may also come from a mounted file: `SECRET_KEY_FILE=/run/secrets/key`.
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str | None = None) -> str:
    """The value of `name`, or of the file that `name`_FILE points at; without a default it is required."""
    file = os.environ.get(f"{name}_FILE")
    if file:
        try:
            return Path(file).read_text().strip()
        except OSError as exc:
            raise ImproperlyConfigured(f"{name}_FILE={file!r} cannot be read ({exc.strerror}).") from exc
    value = os.environ.get(name, "").strip() or default
    if value is None:
        raise ImproperlyConfigured(f"{name} is not set. Set it in the environment, or {name}_FILE to a file that holds it.")
    return value


def whole(name: str, default: int, *, least: int = 0) -> int:
    """A whole number of at least `least`."""
    raw = text(name, str(default))
    if not raw.isdecimal() or int(raw) < least:
        raise ImproperlyConfigured(f"{name}={raw!r}: expected a whole number of at least {least}.")
    return int(raw)


def switch(name: str, default: bool = False) -> bool:
    """on/off, true/false, yes/no, 1/0."""
    raw = text(name, "on" if default else "off").lower()
    if raw not in {"on", "off", "true", "false", "yes", "no", "1", "0"}:
        raise ImproperlyConfigured(f"{name}={raw!r}: expected on or off.")
    return raw in {"on", "true", "yes", "1"}


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list; blanks are dropped."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def one_of(name: str, default: str, choices: tuple[str, ...]) -> str:
    raw = text(name, default)
    if raw not in choices:
        raise ImproperlyConfigured(f"{name}={raw!r}: expected one of {', '.join(choices)}.")
    return raw


def key_ring(raw: str) -> dict[str, str]:
    """`kid:secret[,kid:secret…]` → {kid: secret}, the first being the one that signs."""
    ring = dict(part.strip().partition(":")[::2] for part in raw.split(",") if part.strip())
    if not ring or not all(kid and len(secret.encode()) >= 32 for kid, secret in ring.items()):
        raise ImproperlyConfigured("SCORE_TOKEN_KEYS: expected kid:secret[,kid:secret…], each secret of at least 32 bytes.")
    return ring

"""Reading the environment: typed, once, refusing by name.

Nothing but `settings.py` calls these. A value may also come from a mounted file: `SECRET_KEY_FILE=/run/secrets/key`.
"""

import base64
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

LEAST_SECRET_BYTES = 32
LEAST_LETTERS = 8  # of 32 random hexadecimal digits fewer differ once in ten thousand million
# What people copy out of examples, without its punctuation. Django's own startproject begins with the first.
_PLACEHOLDERS = (
    *("djangoinsecure", "changeme", "changethis", "replaceme", "replacethis", "placeholder", "insertsecret"),
    *("yoursecret", "supersecret", "defaultsecret", "examplesecret", "notsosecret", "dontuseinproduction"),
)


def text(name: str, default: str | None = None) -> str:
    """The value of `name`, or of the file that `name`_FILE points at; without a default it is required."""
    file, given = os.environ.get(f"{name}_FILE"), os.environ.get(name, "")
    if file:
        try:
            given = Path(file).read_text()
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or "not UTF-8 text"
            raise ImproperlyConfigured(f"{name}_FILE={file!r} cannot be read ({reason}).") from exc
    value = given.strip() or default
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


def frame_ancestors(name: str, default: str) -> list[str]:
    """Who may show a page in a frame: `self`, `*`, or origins such as https://example.com and https://*.example.com."""
    given = words(name, default)
    for word in given:
        if word not in ("self", "*") and not re.fullmatch(r"https?://(\*\.)?[a-z0-9.-]+(:\d+)?", word):
            raise ImproperlyConfigured(f"{name}: {word!r} is neither self nor * nor an origin like https://example.com.")
    return ["'self'" if word == "self" else word for word in given]


def hosts(name: str) -> list[str]:
    """Host names such as `cdn.example.com` and `*.example.com`; `*` is any."""
    given = [word.lower() for word in words(name)]
    for word in given:
        if word != "*" and not re.fullmatch(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+", word):
            raise ImproperlyConfigured(f"{name}: {word!r} is neither * nor a host like cdn.example.com or *.example.com.")
    return given


def image_sources(allowed: list[str]) -> list[str]:
    """Those hosts as a Content-Security-Policy has them: https, on its usual port."""
    return ["https:"] if "*" in allowed else [f"https://{host}" for host in allowed]


def one_of(name: str, default: str, choices: tuple[str, ...]) -> str:
    raw = text(name, default)
    if raw not in choices:
        raise ImproperlyConfigured(f"{name}={raw!r}: expected one of {', '.join(choices)}.")
    return raw


def http_url(name: str) -> str:
    """An http(s) address, or nothing. It may be a secret, so it is not repeated in a refusal."""
    raw = text(name, "")
    try:
        parts = urlsplit(raw)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        good = False
    if raw and (not good or not raw.isascii() or any(letter <= " " for letter in raw)):
        raise ImproperlyConfigured(f"{name}: expected http:// or https:// and a host, without a user name.")
    return raw


def webhook_key(name: str, raw: str) -> bytes:
    """The bytes of `whsec_` and base64, as Standard Webhooks has them: 24 to 64."""
    try:
        key = base64.b64decode(raw.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not raw.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ImproperlyConfigured(
            f"{name}: expected whsec_ and 24 to 64 bytes as base64. One is made by: python3 -c "
            "'import base64, secrets; print(\"whsec_\" + base64.b64encode(secrets.token_bytes(32)).decode())'"
        )
    return key


def key_ring(raw: str) -> dict[str, str]:
    """`kid:secret[,kid:secret…]` → {kid: secret}, the first being the one that signs."""
    pairs = [part.strip().partition(":")[::2] for part in raw.split(",") if part.strip()]
    if not pairs or not all(kid and len(secret.encode()) >= LEAST_SECRET_BYTES for kid, secret in pairs):
        raise ImproperlyConfigured("SCORE_TOKEN_KEYS: expected kid:secret[,kid:secret…], each secret of at least 32 bytes.")
    if len(dict(pairs)) < len(pairs):
        raise ImproperlyConfigured("SCORE_TOKEN_KEYS: a kid appears twice. A new key needs a new kid.")
    return dict(pairs)


def refuse_unsafe(secrets: dict[str, str], *, debug: bool, hosts: list[str]) -> None:
    """What production does not start with. `secrets` by their names. Raises: `ImproperlyConfigured`, naming all of it."""
    problems = [f"{name} {fault}." for name, secret in secrets.items() if (fault := _fault_of(secret))]
    if len(set(secrets.values())) < len(secrets):
        problems.append(f"{', '.join(secrets)}: two of them are the same. Each needs a secret of its own.")
    if debug:
        problems.append("DEBUG is on: it shows settings and source code to strangers. Switch it off.")
    if any("*" in host for host in hosts):
        problems.append("ALLOWED_HOSTS has a wildcard: name the public hosts.")
    if problems:
        problems.append("A secret is made by: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'")
        raise ImproperlyConfigured("\n".join(["This is not safe for production (DATABASE_URL is set):", *problems]))


def _fault_of(secret: str) -> str:
    if len(secret.encode()) < LEAST_SECRET_BYTES:
        return f"is shorter than {LEAST_SECRET_BYTES} bytes"
    letters = "".join(letter for letter in secret.lower() if letter.isalnum())
    if any(word in letters for word in _PLACEHOLDERS):
        return "is a placeholder, and known to everybody"
    if len(set(secret)) < LEAST_LETTERS:
        return f"has fewer than {LEAST_LETTERS} different characters: it is not random"
    return ""

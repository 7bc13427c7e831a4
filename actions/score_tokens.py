"""Score tokens: the server's signed word that one completion may be paid once, to one player, for a minute.

A token grants nothing by itself: the ledger's statement looks up the completion it names, and takes owner, points and
expiry from there. The signature keeps strangers from asking at all.

They are JSON Web Tokens (HS256), written and read here: only one header per key is ever ours, so it is compared, not
interpreted (no algorithm to be talked into), and the signature is compared as text, so that there is one spelling of it.
PyJWT, which is strict enough too, took a fifth of a redemption's CPU; the tests hold the two against each other.
"""

import hmac
import json
import time
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.conf import settings

from scoreboard_project.errors import Invalid

AUDIENCE = "scoreboard:redeem"
TYPE = "score+jwt"
ALGORITHM = "HS256"
_CLAIMS = {"aud", "sub", "jti", "act", "pts", "iat", "exp"}
_LONGEST = 2048
CLOCKS_DIFFER = 60  # s; of PostgreSQL, which issues, and of this machine


class InvalidToken(Invalid):
    """Not a score token of ours, or not the one of this action."""

    code = "INVALID_TOKEN"
    message = "The score token is not valid for this action."


@dataclass(frozen=True, slots=True)
class Claim:
    """What a token says. `points` are for display: the ledger pays what its own record says."""

    token_id: uuid.UUID
    action_id: uuid.UUID
    player_id: uuid.UUID
    points: int


def sign(claim: Claim, *, issued_at: datetime, expires_at: datetime) -> str:
    """A token, signed with the first key of the ring."""
    kid, secret = next(iter(settings.SCORE_TOKEN_KEYS.items()))
    payload = {
        "aud": AUDIENCE,
        "sub": claim.player_id.hex,
        "jti": claim.token_id.hex,
        "act": claim.action_id.hex,
        "pts": claim.points,
        "iat": int(issued_at.timestamp()),
        "exp": int(expires_at.timestamp()) + 1,
    }
    signed = f"{_head(kid)}.{_part(payload)}"
    return f"{signed}.{_signature(signed, secret)}"


def open_token(raw: str, action_id: str) -> Claim:
    """What a token of ours claims; its age is for the ledger's clock to judge.

    Args:
        raw: the token.
        action_id: the one it must have been issued for, as the client wrote it.

    Raises: `InvalidToken` for any other string.
    """
    if not raw.isascii() or len(raw) > _LONGEST:
        raise InvalidToken
    signed, _, signature = raw.rpartition(".")
    head, _, body = signed.partition(".")
    secret = next((secret for kid, secret in settings.SCORE_TOKEN_KEYS.items() if _head(kid) == head), None)
    if secret is None or not hmac.compare_digest(_signature(signed, secret), signature):
        raise InvalidToken
    try:
        payload = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        # Expiry is PostgreSQL's to judge, by one clock for all servers; so `exp` is not checked here.
        if payload.keys() != _CLAIMS or payload["aud"] != AUDIENCE:
            raise InvalidToken
        if not all(type(payload[name]) is int for name in ("pts", "iat", "exp")):
            raise InvalidToken
        if payload["iat"] > time.time() + CLOCKS_DIFFER:
            raise InvalidToken
        claim = Claim(_id(payload["jti"]), _id(payload["act"]), _id(payload["sub"]), payload["pts"])
        if claim.action_id != uuid.UUID(action_id):
            raise InvalidToken
        return claim
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidToken from None


@lru_cache(maxsize=16)
def _head(kid: str) -> str:
    """The first part of every token that this key has signed."""
    return _part({"alg": ALGORITHM, "kid": kid, "typ": TYPE})


def _part(content: Mapping[str, Any]) -> str:
    return _text(json.dumps(content, separators=(",", ":")).encode())


def _signature(signed: str, secret: str) -> str:
    return _text(hmac.digest(secret.encode(), signed.encode(), "sha256"))


def _text(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _id(text: str) -> uuid.UUID:
    """A UUID as `sign` writes it; `uuid.UUID` alone would take braces, hyphens and `urn:` as well."""
    found = uuid.UUID(text)
    if found.hex != text:
        raise InvalidToken
    return found

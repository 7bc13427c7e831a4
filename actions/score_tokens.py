"""Score tokens: the server's signed word that one completion may be paid once, to one player, for a minute.

A token grants nothing by itself: the ledger's statement looks up the completion it names, and takes owner, points and
expiry from there. The signature keeps strangers from asking at all.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime

import jwt
from django.conf import settings

from scoreboard_project.errors import Invalid

AUDIENCE = "scoreboard:redeem"
TYPE = "score+jwt"
ALGORITHM = "HS256"
_CLAIMS = {"aud", "sub", "jti", "act", "pts", "iat", "exp"}
_LONGEST = 2048


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
    return jwt.encode(payload, secret, ALGORITHM, headers={"kid": kid, "typ": TYPE})


def open_token(raw: str, action_id: str) -> Claim:
    """What a token of ours claims; its age is for the ledger's clock to judge.

    Args:
        raw: the token.
        action_id: the one it must have been issued for, as the client wrote it.

    Raises: `InvalidToken` for any other string.
    """
    try:
        if not raw.isascii() or len(raw) > _LONGEST:
            raise InvalidToken
        header = jwt.get_unverified_header(raw)
        secret = settings.SCORE_TOKEN_KEYS[header["kid"]]
        if header.keys() != {"alg", "kid", "typ"} or header["typ"] != TYPE:
            raise InvalidToken
        # Expiry is PostgreSQL's to judge, by one clock for all servers; so `exp` is not checked here.
        payload = jwt.decode(raw, secret, [ALGORITHM], audience=AUDIENCE, options={"verify_exp": False, "require": list(_CLAIMS)})
        if payload.keys() != _CLAIMS or not all(type(payload[name]) is int for name in ("pts", "iat", "exp")):
            raise InvalidToken
        claim = Claim(_id(payload["jti"]), _id(payload["act"]), _id(payload["sub"]), payload["pts"])
        if claim.action_id != uuid.UUID(action_id):
            raise InvalidToken
        return claim
    except (jwt.PyJWTError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidToken from None


def _id(text: str) -> uuid.UUID:
    """A UUID as `sign` writes it; `uuid.UUID` alone would take braces, hyphens and `urn:` as well."""
    found = uuid.UUID(text)
    if found.hex != text:
        raise InvalidToken
    return found

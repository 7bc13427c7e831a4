"""Who is asking: access and refresh tokens (the only module that knows simplejwt), sessions on the socket, the password gate.

An access token is checked without a query (`ended_access` knows who must be refused); statements that pay refuse inactive
players themselves. A refresh token has one successor: the library's own rotation let several parallel calls succeed, so ours
happens under a row lock, and a token that comes back a second time ends its whole chain.
"""

import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import structlog
from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, ngettext_lazy
from rest_framework.authentication import BaseAuthentication
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from scoreboard_project import ended_access, limits, passwords
from scoreboard_project.db import off_loop
from scoreboard_project.errors import Unauthorized, Unavailable
from scoreboard_project.models import SignIn
from scoreboard_project.request_id import client_address, network

log = structlog.get_logger(__name__)

SIGN_IN_WINDOW_SECONDS = 15 * 60
LONGEST_TOKEN, LONGEST_PASSWORD = 4096, 128


@dataclass(frozen=True, slots=True)
class Caller:
    """The player who asks, by an access token or a session.

    Attributes:
        expires_at: seconds since 1970.
        epoch: the player's `access_epoch` when the token was made.
    """

    player_id: uuid.UUID
    expires_at: float
    epoch: int
    is_authenticated = True  # what DRF's permissions look at


def check_access(raw: str) -> Caller:
    """The holder of an access token. Raises: `Unauthorized`."""
    if len(raw) > LONGEST_TOKEN:
        raise Unauthorized
    caller = _verified(raw)
    if caller.expires_at <= time.time():
        raise Unauthorized("The access token has expired: refresh it.")
    if ended_access.is_over(caller.player_id, caller.epoch):
        raise Unauthorized("The access token was taken back: sign in again.")
    return caller


@lru_cache(maxsize=16_384)
def _verified(raw: str) -> Caller:
    # The same token comes with call after call: its signature needs checking once, its age each time.
    try:
        token = AccessToken(raw)  # type: ignore[arg-type]
        return Caller(uuid.UUID(token["sub"]), float(token["exp"]), int(token.get("epoch", 0)))
    except (TokenError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unauthorized("The access token is not valid.") from None


def check_header(value: str) -> Caller:
    """The holder of the token in an `Authorization` header. Raises: `Unauthorized`."""
    scheme, _, raw = value.partition(" ")
    if scheme.lower() != "bearer" or not raw:
        raise Unauthorized
    return check_access(raw)


class BearerAuthentication(BaseAuthentication):
    """DRF's way in: no query, no I/O."""

    def authenticate(self, request: Any) -> tuple[Caller, None] | None:
        value = request.META.get("HTTP_AUTHORIZATION")
        return (check_header(value), None) if value is not None else None

    def authenticate_header(self, request: Any) -> str:
        return "Bearer"


def access_for(player_id: uuid.UUID, epoch: int = 0) -> str:
    """A fresh access token, for a player who is already known to be who they are.

    Args:
        epoch: the player's `access_epoch`, read together with what proves who they are; 0 until their access has ended once.
    """
    token = AccessToken()
    token["sub"] = str(player_id)
    token["epoch"] = epoch
    return str(token)


def _pair(sign_in: SignIn, epoch: int) -> dict[str, str]:
    refresh_token = RefreshToken()
    refresh_token["sub"] = str(sign_in.player_id)
    refresh_token["sid"] = sign_in.id.hex
    refresh_token["jti"] = sign_in.current_token.hex
    return {"access": access_for(sign_in.player_id, epoch), "refresh": str(refresh_token)}


@transaction.atomic
def begin(player: Any) -> dict[str, str]:
    """{access, refresh} of a new sign-in. Raises: `Unauthorized` where the password that was checked is the player's no more."""
    same = get_user_model().objects.filter(pk=player.pk, password=player.password, is_active=True)
    # Locked: a change of password either waits and then ends this sign-in too, or was first and is seen here.
    epoch = same.select_for_update(no_key=True).values_list("access_epoch", flat=True).first()
    if epoch is None:
        raise Unauthorized
    expires_at = timezone.now() + RefreshToken.lifetime
    sign_in = SignIn.objects.create(player=player, current_token=uuid.uuid4(), expires_at=expires_at)
    return _pair(sign_in, epoch)


def refresh(raw: str) -> dict[str, str]:
    """{access, refresh}; the token given is refused from now on. Raises: `Unauthorized`."""
    sign_in_id, token_id = _opened(raw)
    with transaction.atomic():
        sign_in = (
            SignIn.objects.select_for_update(of=("self",))
            .select_related("player")
            .filter(pk=sign_in_id, ended_at=None, expires_at__gt=timezone.now(), player__is_active=True)
            .first()
        )
        if sign_in is not None:
            if sign_in.current_token == token_id:
                sign_in.current_token = uuid.uuid4()
                sign_in.expires_at = timezone.now() + RefreshToken.lifetime
            else:  # a used token came back: whoever holds its successor may be the thief
                log.warning("refresh_token_reused", sign_in=str(sign_in_id))
                sign_in.ended_at = timezone.now()
            sign_in.save()
    if sign_in is None or sign_in.ended_at:
        raise Unauthorized("The refresh token is not valid any more: sign in again.")
    return _pair(sign_in, sign_in.player.access_epoch)


def revoke(raw: str) -> None:
    """End the sign-in that this refresh token belongs to. Raises: `Unauthorized` for a token that is not ours."""
    sign_in_id, _ = _opened(raw)
    SignIn.objects.filter(pk=sign_in_id, ended_at=None).update(ended_at=timezone.now())


def _opened(raw: str) -> tuple[uuid.UUID, uuid.UUID]:
    try:
        token = RefreshToken(raw)  # type: ignore[arg-type]
        return uuid.UUID(token["sid"]), uuid.UUID(token["jti"])
    except (TokenError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unauthorized("The refresh token is not valid: sign in again.") from None


class GatedBackend(ModelBackend):
    """Passwords, for site, admin and API alike. Each try is charged before the password is looked at, and given back when
    it was right: reading the count first and writing it afterwards would let a parallel burst through.

    Raises (both ways): `PermissionDenied` where a limit says no; `Unavailable` where too many sign in at once.
    """

    def authenticate(self, request: Any, username: str | None = None, password: str | None = None, **kwargs: Any) -> Any:
        tries = _charged(request, username, password)
        if not tries:
            return None
        try:
            return passwords.wait(self._checked, tries, request, username, password)
        except passwords.Busy:
            limits.give_back(tries)
            raise

    async def aauthenticate(self, request: Any, username: str | None = None, password: str | None = None, **kwargs: Any) -> Any:
        tries = await off_loop(_charged, request, username, password)
        if not tries:
            return None
        try:
            return await passwords.waited(self._checked, tries, request, username, password)
        except passwords.Busy:
            await off_loop(limits.give_back, tries)
            raise

    def _checked(self, tries: list[limits.Take], request: Any, username: str, password: str) -> Any:
        player = super().authenticate(request, username=username, password=password)
        if player is not None:
            limits.give_back(tries)
        return player


def _charged(request: Any, username: str | None, password: str | None) -> list[limits.Take]:
    """The tries that this sign-in costs; none where it cannot be anybody's. Raises: `PermissionDenied`."""
    if not username or not password or len(password) > LONGEST_PASSWORD or "\x00" in username + password:
        return []
    address = caller(request)
    by_name = limits.Take("sign-in", f"{username.lower()}|{address}", settings.SIGN_IN_FAILURE_LIMIT, SIGN_IN_WINDOW_SECONDS)
    # After it: who hammers at one closed name does not close the others to their whole household.
    by_address = limits.Take(
        "sign-in-address", address, settings.SIGN_IN_ADDRESS_LIMIT, SIGN_IN_WINDOW_SECONDS, after_previous=True
    )
    tries = [by_name, by_address]
    waits = limits.take(tries)
    if wait := max(waits):
        if not waits[0]:
            limits.give_back([by_name])
        log.warning("sign_in_limited", wait_seconds=round(wait), by="address" if waits[1] else "name")
        if request is not None:
            request.sign_in_wait = wait
        raise PermissionDenied
    return tries


# Django's own sentence, which its Arabic lacks; because it is named here, our catalogues have it.
_SAID_BY_DJANGO = ngettext_lazy(
    "This password is too short. It must contain at least %d character.",
    "This password is too short. It must contain at least %d characters.",
    "n",
)


class LongestPassword:
    """The gate refuses longer passwords unseen, so nobody may choose one."""

    def validate(self, password: str, user: Any = None) -> None:
        if len(password) > LONGEST_PASSWORD:
            raise ValidationError(self.get_help_text(), code="password_too_long")

    def get_help_text(self) -> str:
        return _("Your password can’t have more than %(most)d characters.") % {"most": LONGEST_PASSWORD}


def too_many_tries(wait: float) -> ValidationError:
    """What a form says when the gate is closed for so many seconds."""
    minutes = max(1, round(wait / 60))
    text = ngettext(
        "Too many failed tries. Try again in %(minutes)d minute.",
        "Too many failed tries. Try again in %(minutes)d minutes.",
        minutes,
    )
    return ValidationError(text % {"minutes": minutes}, code="limited")


def caller(request: Any) -> str:
    """The address that limits count by."""
    scope = getattr(request, "scope", None)
    return network(client_address(scope, settings.TRUSTED_PROXY_HOPS)) if scope else "local"


class SignInForm(AuthenticationForm):
    """Django's own, which also says when too many tries have failed."""

    request: HttpRequest

    def clean(self) -> dict[str, Any]:
        try:
            return super().clean()
        except Unavailable:
            raise ValidationError(_("Too many people are signing in. Try again in a few seconds."), code="busy") from None
        except ValidationError:
            wait = getattr(self.request, "sign_in_wait", None)
            if wait is None:
                raise
            raise too_many_tries(wait) from None


class StaffSignInForm(SignInForm, AdminAuthenticationForm):
    """The admin's, which lets in staff only."""


async def session_player(session_key: str) -> Caller | None:
    """The player behind a session cookie, None where nobody is signed in."""
    return await off_loop(_session_player, session_key)


def _session_player(session_key: str) -> Caller | None:
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    if session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    player = get_user_model().objects.filter(pk=session[SESSION_KEY], is_active=True).first()
    if player is None or not constant_time_compare(session.get(HASH_SESSION_KEY, ""), player.get_session_auth_hash()):
        return None
    return Caller(player.pk, session.get_expiry_date().timestamp(), player.access_epoch)

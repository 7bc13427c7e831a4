"""Settings that are allowed, and unwise in production: `manage.py check --deploy`.

What production must not even start with is refused by `env.refuse_unsafe`.
"""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register

LIMITS = ("ACTION_RATE_LIMIT", "SCORE_RATE_LIMIT", "SIGN_IN_FAILURE_LIMIT", "SIGN_IN_ADDRESS_LIMIT", "UNREDEEMED_TOKEN_LIMIT")
CAPS = ("SOCKETS_PER_PLAYER", "SOCKETS_PER_ADDRESS", "SOCKETS_PER_PROCESS")
LOCAL = {"localhost", "127.0.0.1", "[::1]"}


@register(deploy=True)
def unwise_settings(**_kwargs: Any) -> list[CheckMessage]:
    """One warning for each."""
    found: list[CheckMessage] = [
        Warning(f"{name} is 0, which switches it off.", hint="That is for load tests.", id="scoreboard.W001")
        for name in (*LIMITS, *CAPS)
        if not getattr(settings, name)
    ]
    if settings.HTTPS and not settings.TRUSTED_PROXY_HOPS:
        hint = "Count your proxies in TRUSTED_PROXY_HOPS: limits would count the nearest one as the only caller."
        found.append(Warning("HTTPS is on, which takes a proxy, and TRUSTED_PROXY_HOPS is 0.", hint=hint, id="scoreboard.W002"))
    if set(settings.ALLOWED_HOSTS) <= LOCAL:
        found.append(Warning("ALLOWED_HOSTS names no public host.", hint="Nobody else can come.", id="scoreboard.W003"))
    if settings.HTTPS and any(origin.startswith("http:") for origin in settings.CSRF_TRUSTED_ORIGINS):
        hint = "Who can change that page on its way can post forms here."
        found.append(Warning("CSRF_TRUSTED_ORIGINS trusts an http: origin.", hint=hint, id="scoreboard.W004"))
    if settings.SAMPLE_DATA:
        hint = "Leave SAMPLE_DATA to `serve`, and serve with --no-demo."
        found.append(Warning("SAMPLE_DATA is on: the page says that its players are made up.", hint=hint, id="scoreboard.W005"))
    return found

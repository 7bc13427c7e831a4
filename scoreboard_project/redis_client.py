"""The one way to Redis: short waits, at most one retry, scripts loaded by themselves.

The library's own defaults (5 s timeouts, ten retries) made one redemption against a frozen server take 59 s.
"""

from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

Down = redis.RedisError  # what every call here may raise: unreachable, frozen, read-only, out of memory


@cache
def client() -> redis.Redis:
    """Shared by all threads; bytes in, bytes out."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=0.25,
        socket_connect_timeout=0.25,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=0,
    )


@cache
def script(lua: str) -> Script:
    """A Lua script, called as `script(LUA)(keys=[…], args=[…])`; survives SCRIPT FLUSH and restarts."""
    return client().register_script(lua)

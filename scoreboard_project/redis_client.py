"""The one way to Redis: short waits, at most one retry, a rest after a failure, scripts loaded by themselves.

The library's own defaults (5 s timeouts, ten retries) made one redemption against a frozen server take 59 s.
"""

import threading
import time
from functools import cache
from typing import Any

import redis
import structlog
from django.conf import settings
from redis.backoff import ConstantBackoff, NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

log = structlog.get_logger(__name__)

Down = redis.RedisError  # what every call here may raise: unreachable, frozen, read-only, out of memory


class Breaker:
    """After a failure nobody asks for a while; then one caller tries, and the others go on resting until that went well.

    Without it each request against a frozen Redis would wait out its own timeouts.
    """

    FIRST_REST, LONGEST_REST = 0.25, 2.0  # seconds; healing has to notice within 5 s that Redis is back

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest = 0.0
        self._closed_until = 0.0

    def enter(self) -> None:
        """Raises: `redis.ConnectionError` while resting."""
        if not self._rest:
            return
        with self._lock:
            now = time.monotonic()
            if now < self._closed_until:
                raise redis.ConnectionError("Redis did not answer a moment ago")
            self._closed_until = now + self.LONGEST_REST  # this caller tries; the others wait for what comes of it

    def failed(self) -> None:
        with self._lock:
            if not self._rest:
                log.warning("redis_away")
            self._rest = min(self._rest * 2 or self.FIRST_REST, self.LONGEST_REST)
            self._closed_until = time.monotonic() + self._rest

    def worked(self) -> None:
        if self._rest:
            with self._lock:
                self._rest = 0.0
            log.warning("redis_back")


breaker = Breaker()


class _Client(redis.Redis):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        breaker.enter()
        try:
            answer = super().execute_command(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError):
            breaker.failed()
            raise
        except redis.RedisError:
            breaker.worked()  # an answer, if not the one hoped for
            raise
        breaker.worked()
        return answer


@cache
def client() -> redis.Redis:
    """Shared by all threads; bytes in, bytes out."""
    return _Client.from_url(
        settings.REDIS_URL,
        socket_timeout=0.25,
        socket_connect_timeout=0.25,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=0,
    )


def warn_of_eviction() -> None:
    """A Redis that evicts keys when it is full would drop limits and boards. Raises: `Down`."""
    policy = client().info("memory").get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        log.warning("redis_may_evict", maxmemory_policy=policy, wanted="noeviction")


@cache
def unhurried() -> redis.Redis:
    """For bulk work that no request waits for, and that may be repeated: a busy Redis is waited for."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=5,
        socket_connect_timeout=1,
        retry=Retry(ConstantBackoff(0.2), 2),
        health_check_interval=0,
    )


@cache
def script(lua: str) -> Script:
    """A Lua script, called as `script(LUA)(keys=[…], args=[…])`; survives SCRIPT FLUSH and restarts."""
    return client().register_script(lua)

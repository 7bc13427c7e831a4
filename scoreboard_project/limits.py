"""Sliding-window limits, counted in Redis: exact across all server processes, on Redis's own clock.

All keys share one hash tag, so that one call can decide a whole batch, on Redis Cluster too.
"""

import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from scoreboard_project import metrics
from scoreboard_project.redis_client import Down, script

_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local waits = {}
for i, key in ipairs(KEYS) do
  local limit, window, id = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), ARGV[3 * i]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
  local wait = 0
  if redis.call('ZCARD', key) >= limit then
    wait = math.max(1, tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) + window - now)
  else
    redis.call('ZADD', key, now, id)
    redis.call('PEXPIRE', key, window)
  end
  waits[i] = wait
end
return waits
"""


@dataclass(frozen=True, slots=True)
class Take:
    """One wish to pass: `limit` a `window` for `subject` in `layer` (`actions`, `scores`, `sign-in`…)."""

    layer: str
    subject: str
    limit: int
    window_seconds: int = 60
    ticket: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def key(self) -> str:
        return f"{{limits}}:{self.layer}:{self.subject}"


def take(wishes: Sequence[Take]) -> list[float]:
    """Decide all wishes in one call, in their order.

    Returns: for each the seconds to wait, 0 where it passes. A limit of 0 is switched off.
    Without Redis each process allows the same numbers by itself (at most processes × limit in all).
    """
    counted = [wish for wish in wishes if wish.limit]
    if not counted:
        return [0.0] * len(wishes)
    args = [part for wish in counted for part in (wish.limit, wish.window_seconds * 1000, wish.ticket)]
    try:
        waits = iter(script(_TAKE)(keys=[wish.key for wish in counted], args=args))
        return [next(waits) / 1000 if wish.limit else 0.0 for wish in wishes]
    except Down:
        metrics.limits_without_redis.inc(len(counted))
        return [_emergency.wait(wish) if wish.limit else 0.0 for wish in wishes]


def give_back(wish: Take) -> None:
    """Undo one `take`: a sign-in that succeeded was no failure."""
    try:
        script("return redis.call('ZREM', KEYS[1], ARGV[1])")(keys=[wish.key], args=[wish.ticket])
    except Down:
        _emergency.give_back(wish)


class _Emergency:
    """The same windows in this process's memory, for as long as Redis is away."""

    def __init__(self) -> None:
        self.seen: dict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def wait(self, wish: Take) -> float:
        with self._lock:
            now, seen = time.monotonic(), self.seen[wish.key]
            while seen and seen[0] <= now - wish.window_seconds:
                seen.popleft()
            if len(seen) >= wish.limit:
                return seen[0] + wish.window_seconds - now
            seen.append(now)
            if len(self.seen) > 100_000:  # an outage under attack must not cost memory without bound
                self.seen.clear()
            return 0.0

    def give_back(self, wish: Take) -> None:
        with self._lock:
            if self.seen[wish.key]:
                self.seen[wish.key].pop()


_emergency = _Emergency()

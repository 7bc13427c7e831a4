"""Sliding-window limits, counted in Redis: exact across all server processes, on Redis's own clock.

All keys share one hash tag, so that one call can decide a whole batch, on Redis Cluster too.
"""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from scoreboard_project import metrics
from scoreboard_project.redis_client import Down, script

# Five arguments a wish: limit (0: passes), window, ticket, whether it is decided only where the wish before it passed, and the
# ticket that is given back to the wish's second key once it has passed.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local waits = {}
for i = 1, #KEYS / 2 do
  local key, given_back = KEYS[2 * i - 1], KEYS[2 * i]
  local limit, window, id, after = tonumber(ARGV[5 * i - 4]), tonumber(ARGV[5 * i - 3]), ARGV[5 * i - 2], ARGV[5 * i - 1]
  local wait = 0
  if limit > 0 and not (after == '1' and waits[i - 1] > 0) then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
    if redis.call('ZCARD', key) >= limit then
      wait = math.max(1, tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) + window - now)
    else
      redis.call('ZADD', key, now, id)
      redis.call('PEXPIRE', key, window)
    end
  end
  if wait == 0 and given_back ~= key then redis.call('ZREM', given_back, ARGV[5 * i]) end
  waits[i] = wait
end
return waits
"""

_GIVE_BACK = "for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i]) end"


@dataclass(frozen=True, slots=True)
class Take:
    """One wish to pass: `limit` a `window` for `subject` in `layer` (`actions`, `scores`, `sign-in`…).

    Attributes:
        ticket: what `give_back` knows this wish by.
        gives_back: (layer, ticket) of this subject that is given back once this wish has passed.
        after_previous: it is decided only where the wish before it in the call has passed.
    """

    layer: str
    subject: str
    limit: int
    window_seconds: int = 60
    ticket: str = field(default_factory=lambda: uuid.uuid4().hex)
    gives_back: tuple[str, str] | None = None
    after_previous: bool = False

    @property
    def key(self) -> str:
        return f"{{limits}}:{self.layer}:{self.subject}"

    @property
    def key_given_back(self) -> str:
        return f"{{limits}}:{self.gives_back[0] if self.gives_back else self.layer}:{self.subject}"

    @property
    def args(self) -> tuple[int | str, ...]:
        given_back = self.gives_back[1] if self.gives_back else ""
        return self.limit, self.window_seconds * 1000, self.ticket, int(self.after_previous), given_back


def take(wishes: Sequence[Take]) -> list[float]:
    """Decide all wishes in one call, in their order.

    Returns: for each the seconds to wait, 0 where it passes. A limit of 0 is switched off.
    Without Redis each process allows the same numbers by itself (at most processes × limit in all).
    """
    if not any(wish.limit or wish.gives_back for wish in wishes):
        return [0.0] * len(wishes)
    keys = [key for wish in wishes for key in (wish.key, wish.key_given_back)]
    args = [part for wish in wishes for part in wish.args]
    try:
        return [wait / 1000 for wait in script(_TAKE)(keys=keys, args=args)]
    except Down:
        metrics.limits_without_redis.inc(len(wishes))
        return _emergency.take(wishes)


def give_back(wishes: Sequence[Take]) -> None:
    """Undo what `take` let pass: a sign-in that succeeded was no failure."""
    if not wishes:
        return
    try:
        script(_GIVE_BACK)(keys=[wish.key for wish in wishes], args=[wish.ticket for wish in wishes])
    except Down:
        _emergency.give_back(wishes)


class _Emergency:
    """The same windows in this process's memory, for as long as Redis is away."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, float]] = defaultdict(dict)  # key -> ticket -> when, oldest first
        self._lock = threading.Lock()

    def take(self, wishes: Sequence[Take]) -> list[float]:
        waits: list[float] = []
        with self._lock:
            for wish in wishes:
                skipped = not wish.limit or (wish.after_previous and waits[-1] > 0)
                waits.append(0.0 if skipped else self._wait(wish))
                if wish.gives_back and not waits[-1]:
                    self.seen[wish.key_given_back].pop(wish.gives_back[1], None)
        return waits

    def give_back(self, wishes: Sequence[Take]) -> None:
        with self._lock:
            for wish in wishes:
                self.seen[wish.key].pop(wish.ticket, None)

    def _wait(self, wish: Take) -> float:
        now, seen = time.monotonic(), self.seen[wish.key]
        for ticket in [ticket for ticket, at in seen.items() if at <= now - wish.window_seconds]:
            del seen[ticket]
        if len(seen) >= wish.limit:
            return next(iter(seen.values())) + wish.window_seconds - now
        seen[wish.ticket] = now
        if len(self.seen) > 100_000:  # an outage under attack must not cost memory without bound
            del self.seen[next(iter(self.seen))]
        return 0.0


_emergency = _Emergency()

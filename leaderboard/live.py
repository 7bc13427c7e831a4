"""From a commit to every open scoreboard: one hub per server process, the channel-layer group's one member there.

The hub hears what changed, in whichever process, and stirs the boards that are watched here (`feeds`). A picture's one text is
started on every local socket that watches it, never waiting for one: a socket that is still busy gets the newest picture when it
is free, and none in between.
"""

import asyncio
import uuid
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings

from leaderboard import feeds
from leaderboard.feeds import ALL_TIME, Feed, event
from leaderboard.outbox import BAD_TOKEN, Outbox
from scoreboard_project import ended_access, metrics

log = structlog.get_logger(__name__)

EVERY_HUB = "scoreboard.live"  # the channel-layer group
PUBLISH_SECONDS = 2.0  # how long a publish may take, Redis being frozen
GAINS_KEPT = 10_000  # while it does; players learn of older gains from the API's own answer
STALLED_SECONDS = 5.0  # how long a socket may leave a write unread before it is closed


@dataclass(frozen=True, slots=True)
class Gain:
    """A player's score has moved. `points`: whole, below zero for a correction. `rank`: None where not on the board."""

    player_id: uuid.UUID
    score: int
    points: int
    rank: int | None


def announce(*, changed: bool, gains: Sequence[Gain]) -> None:
    """Tell every server process that the top 10 `changed`, and who gained what. From any thread; never raises."""
    rows = [[str(gain.player_id), gain.score, gain.points, gain.rank] for gain in gains]
    try:
        if _hub is not None and _hub.loop.is_running():
            _hub.loop.call_soon_threadsafe(_hub.tell, changed, rows)
        else:
            async_to_sync(_publish)(changed, rows)
    except Exception as exc:
        log.warning("news_not_sent", error=type(exc).__name__)


async def _publish(changed: bool, gains: list[list[Any]]) -> None:
    try:
        news = {"type": "news", "changed": changed, "gains": gains}
        await asyncio.wait_for(get_channel_layer().group_send(EVERY_HUB, news), PUBLISH_SECONDS)
    except Exception as exc:  # the hubs look for themselves each second: nothing is lost but time
        log.warning("news_not_sent", error=type(exc).__name__)


@dataclass
class Hub:
    """This process's sockets and what they watch. Lives on one event loop; everything but `announce` runs there."""

    loop: asyncio.AbstractEventLoop
    sockets: set[Outbox] = field(default_factory=set)
    of_player: dict[str, set[Outbox]] = field(default_factory=lambda: defaultdict(set))
    feeds: dict[str, Feed] = field(default_factory=feeds.every)
    _tasks: list[asyncio.Task] = field(default_factory=list)
    _untold: deque[list[Any]] = field(default_factory=lambda: deque(maxlen=GAINS_KEPT))
    _untold_change: bool = False
    _publisher: asyncio.Task | None = None

    def start(self) -> None:
        pacing = (feed.pace() for feed in self.feeds.values())
        work = (self._listen(), self._close_stalled(), self._close_ended(), *pacing)
        self._tasks = [asyncio.create_task(coroutine) for coroutine in work]

    async def stop(self) -> None:
        await end(self._tasks)

    def tell(self, changed: bool, gains: list[list[Any]]) -> None:
        """Publish, one message at a time: what is said while one is under way shares the next."""
        self._untold.extend(gains)
        self._untold_change |= changed
        if self._publisher is None or self._publisher.done():
            self._publisher = asyncio.create_task(self._publish_all())

    async def _publish_all(self) -> None:
        while self._untold or self._untold_change:
            changed, gains = self._untold_change, list(self._untold)
            self._untold_change = False
            self._untold.clear()
            await _publish(changed, gains)

    def join(self, outbox: Outbox, kind: str = ALL_TIME) -> None:
        self.sockets.add(outbox)
        self.watch(outbox, kind)
        metrics.sockets.set(len(self.sockets))

    def watch(self, outbox: Outbox, kind: str) -> None:
        """From now on this socket gets the pictures of that board, and no other's any more."""
        self._look_away(outbox)
        self.feeds[kind].sockets.add(outbox)

    def _look_away(self, outbox: Outbox) -> None:
        for feed in self.feeds.values():
            feed.sockets.discard(outbox)
        outbox.drop_picture()

    def leave(self, outbox: Outbox) -> None:
        self.sockets.discard(outbox)
        self._look_away(outbox)
        self.forget_player(outbox)
        metrics.sockets.set(len(self.sockets))

    def know_player(self, outbox: Outbox, player_id: str, epoch: int = 0) -> None:
        self.forget_player(outbox)
        outbox.player_id, outbox.epoch = player_id, epoch
        self.of_player[player_id].add(outbox)

    def has_room(self, player_id: str, outbox: Outbox | None = None) -> bool:
        """Whether the player may have one more socket here; `outbox` where it is open already."""
        theirs = self.of_player.get(player_id, ())
        return not settings.SOCKETS_PER_PLAYER or outbox in theirs or len(theirs) < settings.SOCKETS_PER_PLAYER

    def forget_player(self, outbox: Outbox) -> None:
        if outbox.player_id and (mine := self.of_player.get(outbox.player_id)) is not None:
            mine.discard(outbox)
            if not mine:
                del self.of_player[outbox.player_id]
        outbox.player_id = None

    async def _listen(self) -> None:
        """Hear of every change, in whichever process it was made."""
        layer = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(EVERY_HUB, channel)
                while True:
                    self._hear(await layer.receive(channel))
            except Exception as exc:
                log.warning("live_layer_away", error=type(exc).__name__)
                await asyncio.sleep(0.5)

    def _hear(self, news: dict[str, Any]) -> None:
        for kind, feed in self.feeds.items():
            # Whether a running period's top 10 changed, nobody has asked: its feed looks, if it is watched.
            if news["changed"] or kind != ALL_TIME:
                feed.stir()
        for player_id, score, points, rank in news["gains"]:
            for outbox in self.of_player.get(player_id, ()):
                personal = {"previousScore": score - points, "newScore": score, "pointsAwarded": points, "rank": rank}
                outbox.say(event("score:personal", personal))

    async def _close_stalled(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = self.loop.time()
            for outbox in list(self.sockets):
                if outbox.stalled_since is not None and now - outbox.stalled_since > STALLED_SECONDS:
                    metrics.stalled_sockets.inc()
                    self.leave(outbox)
                    outbox.abandon()

    async def _close_ended(self) -> None:
        """Close the sockets of players whose access has been taken back since they signed in on them."""
        while True:
            await asyncio.sleep(ended_access.LOOK_SECONDS)
            for player_id, least in ended_access.players().items():
                for outbox in [outbox for outbox in self.of_player.get(str(player_id), ()) if outbox.epoch < least]:
                    self.leave(outbox)
                    outbox.abandon(BAD_TOKEN)


async def end(tasks: Sequence[asyncio.Task]) -> None:
    """Cancel until they have ended: redis-py loses a cancellation that meets it while connecting."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _done, pending = await asyncio.wait(pending, timeout=0.05)


_hub: Hub | None = None


def hub() -> Hub:
    """The hub of this process, started on the running loop at its first use."""
    global _hub
    loop = asyncio.get_running_loop()
    if _hub is None or _hub.loop is not loop:
        _hub = Hub(loop)
        _hub.start()
    return _hub


async def stop() -> None:
    """End the hub; the process is stopping."""
    global _hub
    if _hub is not None:
        stopping, _hub = _hub, None
        await stopping.stop()

"""What sockets watch: the board of all time, or of the day, the week or the month that runs, as pictures at a steady pace.

A feed is read only while somebody watches it (that of all time: always), at most once an interval; a picture is encoded once.
"""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import structlog
from django.conf import settings

from leaderboard import board, periods, reading
from leaderboard.outbox import Outbox
from leaderboard.periods import KINDS, Period
from scoreboard_project import metrics
from scoreboard_project.db import off_loop
from scoreboard_project.timestamps import timestamp

log = structlog.get_logger(__name__)

ALL_TIME = "all"
LOST_NEWS_SECONDS = 1.0  # how long a lost pub/sub message may go unnoticed


def event(name: str, data: dict[str, Any]) -> str:
    """A server event as the wire has it, encoded."""
    now = timestamp(datetime.now(UTC))
    return json.dumps({"event": name, "data": data, "timestamp": now}, ensure_ascii=False, separators=(",", ":"))


def changed_positions(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who entered, left, moved or scored between two top 10s; a null rank is a place outside them."""
    old = {row["userId"]: row for row in before}
    new = {row["userId"]: row for row in after}
    moved = []
    for user_id in {**new, **old}:
        was, now = old.get(user_id), new.get(user_id)
        if was and now and (was["rank"], was["score"]) == (now["rank"], now["score"]):
            continue
        known = now or was
        assert known is not None
        moved.append(
            {
                "userId": user_id,
                "previousRank": was and was["rank"],
                "newRank": now and now["rank"],
                "score": known["score"],
            }
        )
    return moved


class Feed:
    """One board's pictures, and the sockets that get them. Lives on one event loop.

    Args:
        kind: of the period, or `ALL_TIME`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.sockets: set[Outbox] = set()
        self.picture: board.Top | None = None
        self.period: Period | None = None
        self._newcomers = 0
        self._last = 0.0  # when the last picture was begun to be sent, or none was due; the loop's time
        self._stir = asyncio.Event()
        self._fresh = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether nobody would see a picture."""
        return self.kind != ALL_TIME and not self.sockets and not self._newcomers

    def stir(self) -> None:
        """The board may have changed."""
        if not self.idle:
            self._stir.set()

    async def initial(self) -> str:
        """`leaderboard:initial`: the picture as of now."""
        self._newcomers += 1
        try:
            if not self._fresh.is_set():
                self._stir.set()
                await self._fresh.wait()
        finally:
            self._newcomers -= 1
        assert self.picture is not None
        return event("leaderboard:initial", {"leaderboard": self.picture.rows, "seq": self.picture.seq, **self._of_period()})

    async def pace(self) -> None:
        """A fresh look at the board when something stirred, at most once an interval, and each second in any case."""
        loop = asyncio.get_running_loop()
        while True:
            if self.idle:
                self._fresh.clear()
                self._stir.clear()
                await self._stir.wait()
                self._stir.clear()
            try:
                await self._look()
            except Exception as exc:
                self._last = loop.time()
                log.warning("board_not_read", period=self.kind, error=type(exc).__name__)
            # From one sending's beginning to the next: looks differ, and handing a picture to 2000 sockets takes its time too.
            await asyncio.sleep(max(0, self._last + settings.LIVE_INTERVAL_MS / 1000 - loop.time()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stir.wait(), LOST_NEWS_SECONDS)
            self._stir.clear()

    async def _look(self) -> None:
        period = None if self.kind == ALL_TIME else periods.current(self.kind)
        new, old = await off_loop(reading.top, board.TOP, period), self.picture
        changed = old is not None and (new.rows, period) != (old.rows, self.period)
        if old is not None and new.seq <= old.seq:
            # Read from PostgreSQL, or from a Redis whose clock is behind: on a socket `seq` only grows all the same.
            new = board.Top(old.seq + changed, new.changed_at, new.rows)
        self.picture, self.period = new, period
        self._last = asyncio.get_running_loop().time()
        self._fresh.set()
        if old is None or not changed:
            return
        moved = changed_positions(old.rows, new.rows)
        data = {"leaderboard": new.rows, "changedPositions": moved, "seq": new.seq, **self._of_period()}
        text = event("leaderboard:update", data)
        for outbox in self.sockets:
            outbox.show(text)
        metrics.pictures.inc()

    def _of_period(self) -> dict[str, Any]:
        if self.period is None:
            return {}
        return {"period": self.kind, "start": timestamp(self.period.start), "end": timestamp(self.period.end)}


def every() -> dict[str, Feed]:
    """A feed for each board that can be watched."""
    return {kind: Feed(kind) for kind in (ALL_TIME, *KINDS)}

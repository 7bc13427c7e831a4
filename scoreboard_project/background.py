"""What each process does besides answering: live hub, healing, closing of periods, watch and alerts, whose access has ended."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from actions import alerts, watch
from leaderboard import best_ranks, closing, healing, live
from scoreboard_project import ended_access
from scoreboard_project.db import in_thread

log = structlog.get_logger(__name__)

HEAL_SECONDS = 1.0
WATCH_SECONDS = 5.0
CLOSE_SECONDS = 5.0
ALERT_SECONDS = 2.0
RANK_SECONDS = 10.0  # how often it is asked whether a minute is over

_alert_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts")  # a receiver may be slow; requests are not to be
_tasks: list[asyncio.Task] = []


def ensure() -> None:
    """Start it all on the running loop, once. Not every server announces its start (daphne does not), so each request asks."""
    if _tasks and _tasks[0].get_loop() is asyncio.get_running_loop():
        return
    contextvars.Context().run(_start)  # not in the context of the request that happens to be the first: it has an id


def _start() -> None:
    alerts.stopping.clear()
    live.hub()
    _tasks[:] = [
        asyncio.create_task(_every(ended_access.LOOK_SECONDS, ended_access.look)),
        asyncio.create_task(_every(HEAL_SECONDS, healing.heal)),
        asyncio.create_task(_every(WATCH_SECONDS, watch.sweep)),
        asyncio.create_task(_every(CLOSE_SECONDS, closing.close_past)),
        asyncio.create_task(_every(ALERT_SECONDS, alerts.deliver, _alert_thread)),
        asyncio.create_task(_every(RANK_SECONDS, best_ranks.look)),
    ]


async def stop() -> None:
    alerts.stopping.set()
    await live.end(_tasks)
    _tasks.clear()
    await live.stop()


async def _every(seconds: float, work: Callable[[], object], threads: ThreadPoolExecutor | None = None) -> None:
    while True:
        try:
            await in_thread(work, threads=threads)
        except Exception as exc:  # PostgreSQL or Redis is away: the next round may find them back
            log.warning("background_work_failed", work=work.__name__, error=type(exc).__name__)
        await asyncio.sleep(seconds)

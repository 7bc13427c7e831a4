"""Where passwords are hashed: a quarter of a second of CPU each, in one thread of its own, behind a short line.

Hashing in the threads that requests share would let ten sign-ins a second stop the board, the probes and the actions.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import close_old_connections

from scoreboard_project import metrics
from scoreboard_project.errors import Unavailable

T = TypeVar("T")

MOST = 8  # being hashed or waiting for it: two seconds' work
PATIENCE = 5.0  # seconds

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
_places = threading.BoundedSemaphore(MOST)


class Busy(Unavailable):
    """The password was not looked at."""

    message = "Too many people are signing in. Try again in a few seconds."

    def __init__(self) -> None:
        super().__init__(retry_after=3)


def wait(work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Do it there, blocking this thread. Raises: what the work raises; `Busy`; `Unavailable` where it takes too long."""
    waiting = _line_up(work, *args, **kwargs)
    try:
        return waiting.result(PATIENCE)
    except TimeoutError:
        waiting.cancel()
        raise Unavailable from None


async def waited(work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`wait`, without blocking."""
    waiting = asyncio.wrap_future(_line_up(work, *args, **kwargs))
    try:
        return await asyncio.wait_for(waiting, PATIENCE)
    except TimeoutError:
        raise Unavailable from None


def _line_up(work: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    if not _places.acquire(blocking=False):
        metrics.overload.inc()
        raise Busy

    def run() -> T:
        try:
            return work(*args, **kwargs)
        finally:
            close_old_connections()

    waiting = _thread.submit(contextvars.copy_context().run, run)
    waiting.add_done_callback(lambda _: _places.release())  # cancelled ones too
    return waiting

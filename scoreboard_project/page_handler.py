"""What stands before Django's own handler: a bound on bodies, and on how many pages are made at once.

Each page takes a thread while it is made. Beyond some dozens, more threads only make everybody slower, the API with them.
"""

import asyncio
from collections.abc import Callable

from django.conf import settings

from scoreboard_project import api, metrics
from scoreboard_project.api_handler import Gone, TooLarge, read_body

UNDER_WAY = 32  # pages and static files being made in this process
WAITING = 256  # for a moment, for one of these to be done
WAIT_SECONDS = 2.0

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><h1>{title}</h1><p>{advice}</p></html>
"""
_FULL = _PAGE.format(
    title="Too many visitors at once", advice="Nothing was spent and no points were lost. Try again in a few seconds."
)
_TOO_LARGE = _PAGE.format(title="Too large", advice="What was sent is larger than any form here.")


class Pages:
    """The ASGI application for pages. `django`: makes them."""

    def __init__(self, django: Callable) -> None:
        self.django = django
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(UNDER_WAY)
        self._waiting = 0

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        try:
            body = await read_body(scope, receive, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        except TooLarge:
            await _say(send, 413, _TOO_LARGE, (b"connection", b"close"))  # the rest of the body is not read
            return
        except Gone:
            return
        if not await self._admitted():
            metrics.overload.inc()
            await _say(send, 503, _FULL, (b"retry-after", b"3"))
            return
        places = self._places
        try:
            await self.django(scope, _again(body, receive), send)
        finally:
            places.release()

    async def _admitted(self) -> bool:
        """Whether a place is free, or becomes free in a moment."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._places, self._waiting = loop, asyncio.Semaphore(UNDER_WAY), 0
        if not self._places.locked():
            return await self._places.acquire()
        if self._waiting >= WAITING:
            return False
        self._waiting += 1
        try:
            return await asyncio.wait_for(self._places.acquire(), WAIT_SECONDS)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1


def _again(body: bytes, receive: Callable) -> Callable:
    """`receive`, beginning with the whole body."""
    unread = True

    async def replayed() -> dict:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


async def _say(send: Callable, status: int, page: str, *headers: tuple[bytes, bytes]) -> None:
    body = page.encode()
    fixed = [(name.lower().encode(), value.encode()) for name, value in api.HEADERS.items()]
    fixed += [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fixed})
    await send({"type": "http.response.body", "body": body})

"""Who answers what: the API and the probes, the live socket, and Django's own handler for the pages."""

import contextlib
import os
from collections.abc import Callable

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scoreboard_project.settings")

from django.core.asgi import get_asgi_application

_django = get_asgi_application()

from channels.generic.websocket import AsyncWebsocketConsumer

from scoreboard_project import background, ended_access, redis_client
from scoreboard_project.api_handler import PROBES, api_handler
from scoreboard_project.db import off_loop
from scoreboard_project.page_handler import Pages
from scoreboard_project.request_id import RequestId
from scoreboard_project.urls import sockets

_pages = Pages(_django)
_API = "/api/v1/"
# These two are pages with scripts and styles, so they take the pages' way, with its headers.
_API_PAGES = ("/api/v1/docs", "/api/v1/schema")


async def _http(scope: dict, receive: Callable, send: Callable) -> None:
    background.ensure()
    path = scope["path"]
    if (path.startswith(_API) and path not in _API_PAGES) or path in PROBES:
        await api_handler(scope, receive, send)
    else:
        await _pages({**scope, "root_path": "", "server": None}, receive, send)


class _Nowhere(AsyncWebsocketConsumer):
    """Refuses, and stays until the connection is gone: uvicorn logs an error where an application leaves earlier."""

    channel_layer_alias = "none"

    async def connect(self) -> None:
        await self.close()


_nowhere = _Nowhere.as_asgi()


async def _websocket(scope: dict, receive: Callable, send: Callable) -> None:
    background.ensure()
    await sockets.get(scope["path"], _nowhere)(scope, receive, send)


async def _lifespan(_scope: dict, receive: Callable, send: Callable) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            with contextlib.suppress(Exception):  # PostgreSQL is away: /readyz says so, and asks again
                await off_loop(ended_access.look_first)
            with contextlib.suppress(Exception):
                await off_loop(redis_client.warn_of_eviction)
            background.ensure()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await background.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _route(scope: dict, receive: Callable, send: Callable) -> None:
    handlers = {"http": _http, "websocket": _websocket, "lifespan": _lifespan}
    await handlers[scope["type"]](scope, receive, send)


application = RequestId(_route)

"""Django's request and URLconf for the API, without the hops between threads that its ASGI handler makes for each request.

Right only because no API view touches the ORM on the event loop (they go through `off_loop` and group commits) and none
needs a session, CSRF or messages: who asks is in the access token.
"""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.urls import Resolver404, ResolverMatch, get_resolver

from scoreboard_project import api, errors, metrics

MOST_UNDER_WAY = 1_000  # calls in this process; refusing the rest quickly serves everybody better than letting them queue

_under_way = 0
_HEADERS = [(name.encode(), value.encode()) for name, value in api.HEADERS.items()]

# Load balancers ask these by address, with no host of ours.
PROBES = ("/healthz", "/readyz", "/metrics")


class TooLarge(Exception):
    pass


class Gone(Exception):
    """The client has left."""


async def api_handler(scope: dict, receive: Callable, send: Callable) -> None:
    """The ASGI application for `/api/v1/…` and the probes."""
    try:
        body = await read_body(scope, receive, settings.MAX_BODY_BYTES)
        scope["server"] = None  # Django would take its address for the host of who names none
        response = await _admitted(ASGIRequest(scope, BytesIO(body)))
    except TooLarge:
        limit = settings.MAX_BODY_BYTES // 1024
        response = api.failure(413, "PAYLOAD_TOO_LARGE", f"A body is at most {limit} KiB.")
        response.headers["Connection"] = "close"  # the rest of the body is not read
    except Gone:
        return
    content = response.content
    headers = [(name.encode(), value.encode()) for name, value in response.items()]
    headers += [*_HEADERS, (b"Content-Length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": content if scope["method"] != "HEAD" else b""})


async def read_body(scope: dict, receive: Callable, most: int) -> bytes:
    """The whole body. Raises: `TooLarge`, as soon as that can be told; `Gone`."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if not length.isdigit() or int(length) > most:
        raise TooLarge
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > most:
            raise TooLarge
        if not message.get("more_body"):
            return body


async def _admitted(request: ASGIRequest) -> HttpResponse:
    global _under_way
    if _under_way >= MOST_UNDER_WAY and request.path not in PROBES:
        metrics.overload.inc()
        return api.refused(errors.Unavailable("Too many calls at once. Nothing was changed: try again."))
    _under_way += 1
    try:
        return await _respond(request)
    finally:
        _under_way -= 1


@lru_cache(maxsize=256)
def _resolve(path: str) -> ResolverMatch:
    return get_resolver().resolve(path)


async def _respond(request: ASGIRequest) -> HttpResponse:
    try:
        if request.path not in PROBES:
            request.get_host()
        match = _resolve(request.path_info)
        request.resolver_match = match
        return await match.func(request, *match.args, **match.kwargs)
    except DisallowedHost:
        return api.failure(400, "INVALID_HOST", "This host name is not served here.")
    except Resolver404:
        return api.failure(404, "NOT_FOUND", "There is nothing here.")
    except Exception as exc:
        return api.answer_to(exc, "INVALID_REQUEST")

"""One id follows a request from the gateway through every log line into PostgreSQL, and back in the answer."""

import ipaddress
import re
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import structlog
from django.db.backends.signals import connection_created
from django.dispatch import receiver

HEADER = b"x-request-id"
_ACCEPTED = re.compile(rb"[A-Za-z0-9._:-]{1,128}")  # no quote, no space, no `*/`: safe in a log line and an SQL comment

current: ContextVar[str] = ContextVar("request_id", default="")


def _from(scope: dict) -> bytes:
    given = [value for name, value in scope["headers"] if name == HEADER]
    if len(given) == 1 and _ACCEPTED.fullmatch(given[0]):
        return given[0]
    return uuid.uuid4().hex.encode()


class RequestId:
    """ASGI middleware, outermost: HTTP answers, pages, errors and WebSocket handshakes all carry the id."""

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        request_id = _from(scope)
        text = request_id.decode()
        scope["request_id"] = text
        current.set(text)
        structlog.contextvars.bind_contextvars(request_id=text)

        shaking_hands = scope["type"] == "websocket"

        async def answer(message: dict) -> None:
            nonlocal shaking_hands
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, request_id)]}
            elif (
                shaking_hands
                and message["type"] == "websocket.close"
                and "websocket.http.response" in scope.get("extensions", ())
            ):
                # A plain close before accept becomes a bare 403; said as an HTTP answer, it carries the id.
                refusal = {"type": "websocket.http.response.start", "status": 403, "headers": [(HEADER, request_id)]}
                await send(refusal)
                message = {"type": "websocket.http.response.body", "body": b""}
            shaking_hands = False
            await send(message)

        # A live socket sends thousands of frames: past the handshake the wrapper would cost each of them a call.
        await self.app(scope, receive, answer)


def _commented(execute: Callable, sql: str, params: object, many: bool, context: dict) -> object:
    request_id = current.get()
    return execute(f"/* request_id={request_id} */ {sql}" if request_id else sql, params, many, context)


@receiver(connection_created)
def _comment_every_query(connection: Any, **_kwargs: Any) -> None:
    if _commented not in connection.execute_wrappers:
        connection.execute_wrappers.append(_commented)


def client_address(scope_or_meta: dict, hops: int) -> str:
    """The caller's address as the nearest trusted proxy saw it.

    Args:
        scope_or_meta: an ASGI scope (`headers`, `client`).
        hops: how many proxies of ours stand in front; 0 means that `X-Forwarded-For` is anybody's invention.
    """
    peer = (scope_or_meta.get("client") or ("",))[0] or "unknown"
    if not hops:
        return peer
    chain = b",".join(value for name, value in scope_or_meta["headers"] if name == b"x-forwarded-for")
    seen = [part.strip() for part in chain.decode("latin-1").split(",") if part.strip()]
    return seen[-hops][:64] if len(seen) >= hops else peer


def network(address: str) -> str:
    """What one caller has for certain: an IPv4 address, or an IPv6 /64, whose addresses anybody there can change at will."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))

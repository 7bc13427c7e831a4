"""The live socket: knows the wire, and who is at the other end; what is shown comes from the hub."""

import asyncio
import json
from collections import deque
from typing import Any
from urllib.parse import parse_qs, urlsplit

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.http.cookie import parse_cookie
from django.http.request import split_domain_port, validate_host

from leaderboard import live, socket_caps
from leaderboard.feeds import ALL_TIME, event
from leaderboard.outbox import BAD_TOKEN, Outbox
from scoreboard_project import metrics, sign_in
from scoreboard_project.db import PATIENCE
from scoreboard_project.errors import Unauthorized
from scoreboard_project.request_id import client_address, network

MAX_MESSAGE_BYTES = 4 * 1024
MESSAGES_A_SECOND = 20
TOO_MANY = 4429


def origin_allowed(headers: list[tuple[bytes, bytes]], secure: bool) -> bool:
    """Whether a browser's page may open this socket: same host, port and scheme, or a trusted origin. No Origin: no browser."""
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    if not origins:
        return True
    if len(origins) > 1:
        return False
    origin = origins[0].lower()
    if origin in {trusted.lower() for trusted in settings.CSRF_TRUSTED_ORIGINS}:
        return True
    host = next((value.decode("latin-1").lower() for name, value in headers if name == b"host"), "")
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    scheme = "https" if secure or settings.HTTPS else "http"
    domain, _port = split_domain_port(host)
    same = parts.scheme == scheme and _with_port(parts.netloc, scheme) == _with_port(host, scheme)
    return same and not parts.path and bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


def _with_port(netloc: str, scheme: str) -> str:
    domain, port = split_domain_port(netloc)
    return f"{domain}:{port or ('443' if scheme == 'https' else '80')}"


class LiveConsumer(AsyncWebsocketConsumer):
    """One viewer. Its process's hub is the channel-layer group's member, so the consumer itself joins no group."""

    channel_layer_alias = "none: the hub listens for the whole process"

    hub: live.Hub | None = None
    outbox: Outbox | None = None
    ended = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        address = network(client_address(scope, settings.TRUSTED_PROXY_HOPS))
        with socket_caps.place() as self.fits_here, socket_caps.place_of(address) as self.fits_its_address:
            try:
                await super().__call__(scope, receive, send)
            finally:  # however it ended: to close a connection that is gone raises, and no `disconnect` follows
                if self.hub is not None and self.outbox is not None:
                    self.hub.leave(self.outbox)
                    self.outbox.close()

    async def dispatch(self, message: dict[str, Any]) -> None:
        # Channels' own version hops through a thread for each message, to close database connections we never open here.
        await getattr(self, message["type"].replace(".", "_"))(message)

    async def connect(self) -> None:
        if not origin_allowed(self.scope["headers"], self.scope.get("scheme") == "wss"):
            await self.close()
            return
        if not self.fits_here:
            await self._turn_away()
            return
        try:
            caller = await self._who()
        except Unauthorized:
            await self.close()
            return
        await self.accept()
        # Said after accepting, because a browser is told a close code and never an HTTP status.
        if not self.fits_its_address:
            await self._too_many("address")
            return
        if caller and not live.hub().has_room(str(caller.player_id)):
            await self._too_many("player")
            return
        self.hub = live.hub()
        extensions = self.scope.get("extensions", {})
        self.outbox = Outbox(self.base_send, extensions.get("scoreboard.abort"), extensions.get("scoreboard.write"))
        self._seen: deque[float] = deque(maxlen=MESSAGES_A_SECOND)
        if caller:
            self.hub.know_player(self.outbox, str(caller.player_id), caller.epoch)
        wanted = self._query("period") or ALL_TIME
        kind = wanted if wanted in self.hub.feeds else ALL_TIME
        self.outbox.say(await self.hub.feeds[kind].initial())
        self.hub.join(self.outbox, kind)
        if kind != wanted:
            self._unknown_period()

    async def disconnect(self, code: int) -> None:
        raise StopConsumer

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.ended:  # frames that had come before they could hear of the end
            return
        now = asyncio.get_running_loop().time()
        if len(self._seen) == MESSAGES_A_SECOND and now - self._seen[0] < 1:
            await self._end(TOO_MANY)
            return
        self._seen.append(now)
        handlers = {"subscribe": self._subscribe, "ping": self._ping, "authenticate": self._authenticate}
        message = self._parsed(text_data)
        handler = handlers.get(str(message.get("action"))) if message is not None else None
        if handler:
            assert message is not None
            await handler(message)
        elif message is not None:
            self._error("UNKNOWN_ACTION", "Known actions: subscribe, ping, authenticate.")

    def _parsed(self, text: str | None) -> dict[str, Any] | None:
        if text is not None and len(text.encode()) > MAX_MESSAGE_BYTES:
            self._error("PAYLOAD_TOO_LARGE", "A message is at most 4 KiB.")
            return None
        try:
            message = json.loads(text or "")
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._error("INVALID_MESSAGE", 'Send a JSON object with an "action".')
            return None
        return message

    async def _subscribe(self, message: dict[str, Any]) -> None:
        assert self.outbox is not None and self.hub is not None
        if message.get("channel", "leaderboard") != "leaderboard":
            self._error("UNKNOWN_CHANNEL", 'The one channel is "leaderboard".')
            return
        kind = message.get("period", ALL_TIME)
        if not isinstance(kind, str) or kind not in self.hub.feeds:
            self._unknown_period()
            return
        try:
            text = await asyncio.wait_for(self.hub.feeds[kind].initial(), PATIENCE)
        except TimeoutError:
            self._error("UNAVAILABLE", "That board cannot be read at the moment. Try again.")
            return
        self.hub.watch(self.outbox, kind)
        self.outbox.say(text)

    async def _ping(self, _message: dict[str, Any]) -> None:
        assert self.outbox is not None
        self.outbox.say(event("pong", {}))

    async def _authenticate(self, message: dict[str, Any]) -> None:
        assert self.outbox is not None and self.hub is not None
        try:
            caller = sign_in.check_access(str(message.get("token", "")))
        except Unauthorized:
            await self._end(BAD_TOKEN)
            return
        if not self.hub.has_room(str(caller.player_id), self.outbox):
            await self._too_many("player")
            return
        self.hub.know_player(self.outbox, str(caller.player_id), caller.epoch)

    async def _turn_away(self) -> None:
        """503 instead of a handshake: this process is full, and no close code is worth a socket to it."""
        metrics.sockets_refused.labels("process").inc()
        if "websocket.http.response" not in self.scope.get("extensions", ()):
            await self.close()
            return
        headers = [(b"retry-after", b"10"), (b"content-length", b"0")]
        await self.base_send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
        await self.base_send({"type": "websocket.http.response.body", "body": b""})

    async def _too_many(self, whose: str) -> None:
        metrics.sockets_refused.labels(whose).inc()
        await self._end(TOO_MANY)

    async def _end(self, code: int) -> None:
        self.ended = True
        await self.close(code)

    def _error(self, code: str, text: str) -> None:
        assert self.outbox is not None
        self.outbox.say(event("error", {"code": code, "message": text}))

    def _unknown_period(self) -> None:
        assert self.hub is not None
        self._error("UNKNOWN_PERIOD", f"Known periods: {', '.join(self.hub.feeds)}.")

    def _query(self, name: str) -> str | None:
        found = parse_qs(self.scope["query_string"].decode("latin-1")).get(name)
        return found[0] if found else None

    async def _who(self) -> sign_in.Caller | None:
        """The player by the header, the query or the session cookie; None for a visitor. Raises: `Unauthorized`."""
        headers = dict(self.scope["headers"])
        bearer = headers.get(b"authorization", b"").decode("latin-1")
        if bearer:
            return sign_in.check_header(bearer)
        if token := self._query("token"):
            return sign_in.check_access(token)
        session_key = parse_cookie(headers.get(b"cookie", b"").decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
        return await sign_in.session_player(session_key) if session_key else None

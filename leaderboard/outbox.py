"""What waits to be written to one socket: at most one picture, always the newest, and a few short messages."""

import asyncio
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

TOO_SLOW, BAD_TOKEN = 4408, 4401  # close codes
MESSAGES_KEPT = 16  # personal messages that a stalled socket may be owed; the oldest go first


class Outbox:
    """Starts a write and never waits for it. While one is under way, pictures replace each other.

    Args:
        send: the ASGI `send` of an accepted WebSocket.
        abort: closes the connection with a code although its buffers are full; not every server offers that.
        write: sends a text at once, if nothing has to wait (else it returns False); not every server offers that either.

    Attributes:
        player_id: who watches, once that is known.
        epoch: the player's `access_epoch` when they signed in here.
        stalled_since: event-loop time at which the write under way began to wait; None while nothing waits.
    """

    __slots__ = ("_abort", "_messages", "_picture", "_send", "_task", "_write", "epoch", "player_id", "stalled_since")

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Coroutine[Any, Any, None]],
        abort: Callable[[int], None] | None = None,
        write: Callable[[str], bool] | None = None,
    ) -> None:
        self._send = send
        self._abort = abort
        self._write = write
        self._picture: str | None = None
        self._messages: deque[str] = deque(maxlen=MESSAGES_KEPT)
        self._task: asyncio.Task | None = None
        self.player_id: str | None = None
        self.epoch = 0
        self.stalled_since: float | None = None

    def show(self, text: str) -> None:
        """Send a picture, or put it in place of the one that waits."""
        if self._task is None:
            self._start(text)
        else:
            self._picture = text

    def drop_picture(self) -> None:
        """Forget the picture that waits: it is of a board that is not watched any more."""
        self._picture = None

    def say(self, text: str) -> None:
        """Send a message that no other replaces."""
        if self._task is None:
            self._start(text)
        else:
            self._messages.append(text)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def abandon(self, code: int = TOO_SLOW) -> None:
        """End the connection, whether or not its other end reads."""
        self.close()
        if self._abort is not None:
            self._abort(code)

    def _start(self, text: str) -> None:
        if self._write is not None and self._write(text):
            return
        # Nearly every write ends without waiting: it is run here to its first wait, and only then costs a task.
        write = self._send({"type": "websocket.send", "text": text})
        try:
            waits_for = write.send(None)
        except StopIteration:
            return
        except Exception:  # closed under our hands; the consumer hears of it
            return
        self.stalled_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._drain(write, waits_for))

    async def _drain(self, write: Coroutine[Any, Any, None], waits_for: Any) -> None:
        try:
            await _rest_of(write, waits_for)
            while self._messages or self._picture is not None:
                if self._messages:
                    text = self._messages.popleft()
                else:
                    assert self._picture is not None
                    text, self._picture = self._picture, None
                self.stalled_since = asyncio.get_running_loop().time()  # slow is not stalled: each write has its own time
                await self._send({"type": "websocket.send", "text": text})
        except Exception:  # closed under our hands; the consumer hears of it
            self._messages.clear()
            self._picture = None
        finally:
            self.stalled_since = None
            self._task = None


@types.coroutine
def _rest_of(started: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Await a coroutine that has been run to its first wait."""
    while True:
        try:
            value = yield waits_for
        except BaseException as exc:
            step = partial(started.throw, exc)
        else:
            step = partial(started.send, value)
        try:
            waits_for = step()
        except StopIteration:
            return

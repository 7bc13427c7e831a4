"""Group commit: requests in flight at the same moment share one transaction, each getting its own result.

There is no timer: the first item starts a batch at once, and what arrives while it runs is the next batch. Alone, a
request waits for nobody; under load, one COMMIT pays for all that came meanwhile. And nobody waits without end: when
PostgreSQL stalls, callers get `Unavailable` after `patience`, and no more than `longest` wait.

Batches of several kinds may take turns in one lane: in threads of their own they took the interpreter from each other, and
completing and redeeming cost a tenth more CPU.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from scoreboard_project.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


LOOK_SECONDS = 0.1  # between looks at who has waited too long


class Again:
    """A result that is none: somebody else holds a row this item needs, so it belongs into a later batch."""


AGAIN = Again()


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    item: Item
    answer: asyncio.Future
    give_up_at: float

    def end_patience(self, now: float) -> None:
        if now >= self.give_up_at and not self.answer.done():
            self.answer.set_exception(Unavailable())


@dataclass(slots=True)
class _Batch(Generic[Item, Result]):
    group: "GroupCommit[Item, Result]"
    waiting: list[_Waiting[Item]]


class Lane:
    """A thread that runs one batch at a time; groups that have something waiting take turns."""

    def __init__(self, name: str):
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._line: deque[GroupCommit] = deque()
        self._running: _Batch | None = None
        self._watched = False

    def close(self) -> None:
        """End the thread (tests; a server process lives as long as its threads)."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def in_thread(self, work: Callable[[], object]) -> None:
        """Do something in the thread, e.g. let go of its database connection."""
        if self._thread is not None:
            self._thread.submit(work).result()

    def join(self, group: "GroupCommit") -> None:
        """It has something waiting, and is not in the line."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._line, self._running, self._watched = loop, deque(), None, False
        self._line.append(group)
        if self._running is None:
            self._next()

    def _next(self) -> None:
        assert self._loop is not None
        self._running = None
        while self._line and self._running is None:
            group = self._line.popleft()
            if waiting := group.batch():
                self._running = _Batch(group, waiting)
        if self._running is None:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.name)
        batch = self._running
        ran = self._loop.run_in_executor(self._thread, batch.group.results, [waiting.item for waiting in batch.waiting])
        ran.add_done_callback(lambda done: self._settle(batch, done.result()))
        if not self._watched:
            self._watched = True
            self._loop.call_later(LOOK_SECONDS, self._watch)

    def _settle(self, batch: _Batch, results: Sequence) -> None:
        assert self._loop is not None
        moved = batch.group.settle(batch.waiting, results)
        if moved:
            self._line.append(batch.group)
        else:  # somebody holds those rows for longer than a batch: ask again soon, not at once
            self._loop.call_later(0.01, self.join, batch.group)
        self._next()

    def _watch(self) -> None:
        """While a batch is under way: send home who has waited long enough, in it or for it."""
        assert self._loop is not None
        self._watched = self._running is not None
        if self._running is not None:
            now = self._loop.time()
            for waiting in self._running.waiting:
                waiting.end_patience(now)
            for group in (self._running.group, *self._line):
                group.end_patience(now)
            self._loop.call_later(LOOK_SECONDS, self._watch)


class GroupCommit(Generic[Item, Result]):
    """Runs `run(items)` in its lane, a batch at a time.

    Args:
        lane: a name, for a lane of its own; or one that it shares.
        run: takes up to `most` items; returns, in their order, a result each: a value, an exception to raise to that
            item's caller, or `AGAIN`. If it raises `Unavailable`, so does every caller of the batch. If it raises
            anything else, the batch is retried item by item, so that a poisoned item fails alone.
        patience: seconds after which a caller gets `Unavailable`: the item waits still (then it is dropped), or it is
            being tried `AGAIN`, or its batch is under way (then what comes of it is unknown until asked again).
        longest: how many items may wait; one more gets `Unavailable` at once.
    """

    def __init__(
        self,
        lane: str | Lane,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception | Again]],
        *,
        most: int = 256,
        patience: float = 2.0,
        longest: int = 2_000,
    ):
        self.lane = lane if isinstance(lane, Lane) else Lane(lane)
        self.run, self.most, self.patience, self.longest = run, most, patience, longest
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Waiting[Item]] = deque()
        self._idle = True  # neither in the line nor under way

    async def submit(self, item: Item) -> Result:
        """The result of `item`, once its batch has run. A caller that is cancelled does not undo its item."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._waiting, self._idle = loop, deque(), True
        if len(self._waiting) >= self.longest:
            raise Unavailable
        answer: asyncio.Future = loop.create_future()
        self._waiting.append(_Waiting(item, answer, loop.time() + self.patience))
        if self._idle:
            self._idle = False
            self.lane.join(self)
        return await answer

    def batch(self) -> list[_Waiting[Item]]:
        """For the lane: what is to run next; nothing, where nobody waits."""
        self._idle = not self._waiting
        return [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]

    def results(self, items: list[Item]) -> Sequence[Result | Exception | Again]:
        """For the lane, in its thread."""
        try:
            return self.run(items)
        except Unavailable as exc:
            return [exc] * len(items)
        except Exception as exc:
            if len(items) == 1:
                return [exc]
            return [self.results([item])[0] for item in items]

    def settle(self, batch: list[_Waiting[Item]], results: Sequence[Result | Exception | Again]) -> bool:
        """For the lane: answer those who asked. Returns: whether anything moved."""
        assert self._loop is not None
        now = self._loop.time()
        again = []
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():  # its caller has gone
                continue
            if result is not AGAIN:
                if isinstance(result, Exception):
                    waiting.answer.set_exception(result)
                else:
                    waiting.answer.set_result(result)
            elif now < waiting.give_up_at:
                again.append(waiting)
            else:
                waiting.answer.set_exception(Unavailable())
        self._waiting.extendleft(reversed(again))
        return len(again) < len(batch)

    def end_patience(self, now: float) -> None:
        """For the lane: who has waited too long is dropped."""
        for waiting in self._waiting:
            waiting.end_patience(now)
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.answer.done())

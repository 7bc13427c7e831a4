"""Group commit: requests in flight at the same moment share one transaction, each getting its own result.

There is no timer: the first item starts a batch at once, and what arrives while it runs is the next batch. Alone, a
request waits for nobody; under load, one COMMIT pays for all that came meanwhile. And nobody waits without end: when
PostgreSQL stalls, callers get `Unavailable` after `patience`, and the line is never longer than `longest`.
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


class GroupCommit(Generic[Item, Result]):
    """Runs `run(items)` in one thread of its own, a batch at a time.

    Args:
        run: takes up to `most` items; returns, in their order, a result each: a value, an exception to raise to that
            item's caller, or `AGAIN`. If it raises `Unavailable`, so does every caller of the batch. If it raises
            anything else, the batch is retried item by item, so that a poisoned item fails alone.
        patience: seconds after which a caller gets `Unavailable`: the item waits still (then it is dropped), or it is
            being tried `AGAIN`, or its batch is under way (then what comes of it is unknown until asked again).
        longest: how many items may wait; one more gets `Unavailable` at once.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception | Again]],
        *,
        most: int = 256,
        patience: float = 2.0,
        longest: int = 2_000,
    ):
        self.name, self.run, self.most, self.patience, self.longest = name, run, most, patience, longest
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Waiting[Item]] = deque()
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def submit(self, item: Item) -> Result:
        """The result of `item`, once its batch has run. A caller that is cancelled does not undo its item."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._waiting, self._busy = loop, deque(), False
        if len(self._waiting) >= self.longest:
            raise Unavailable
        answer: asyncio.Future = loop.create_future()
        self._waiting.append(_Waiting(item, answer, loop.time() + self.patience))
        if not self._busy:
            self._start()
        return await answer

    def close(self) -> None:
        """End the thread (tests; a server process lives as long as its threads)."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def in_thread(self, work: Callable[[], object]) -> None:
        """Do something in the batch thread, e.g. let go of its database connection."""
        if self._thread is not None:
            self._thread.submit(work).result()

    def _start(self) -> None:
        assert self._loop is not None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.name)
        self._busy = True
        batch = [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]
        ran = self._loop.run_in_executor(self._thread, self._results, [waiting.item for waiting in batch])
        self._watch = self._loop.call_later(LOOK_SECONDS, self._stalled, batch)
        ran.add_done_callback(lambda done: self._settle(batch, done.result()))

    def _stalled(self, batch: list[_Waiting[Item]]) -> None:
        """The batch under way takes its time: send home who has waited long enough, in it or behind it."""
        assert self._loop is not None
        now = self._loop.time()
        for waiting in (*batch, *self._waiting):
            if now >= waiting.give_up_at and not waiting.answer.done():
                waiting.answer.set_exception(Unavailable())
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.answer.done())
        self._watch = self._loop.call_later(LOOK_SECONDS, self._stalled, batch)

    def _results(self, items: list[Item]) -> Sequence[Result | Exception | Again]:
        try:
            return self.run(items)
        except Unavailable as exc:
            return [exc] * len(items)
        except Exception as exc:
            if len(items) == 1:
                return [exc]
            return [self._results([item])[0] for item in items]

    def _settle(self, batch: list[_Waiting[Item]], results: Sequence[Result | Exception | Again]) -> None:
        assert self._loop is not None and self._watch is not None
        self._watch.cancel()
        self._busy = False
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
        if len(again) == len(batch):
            # Nothing moved: somebody holds those rows for longer than a batch. Ask again soon, not at once.
            self._busy = True
            self._loop.call_later(0.01, self._start)
        elif self._waiting:
            self._start()

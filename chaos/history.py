"""What happened, as the clients and the nemesis saw it: calls, attempts, faults, pictures on screens."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OK, FAIL, INFO = "ok", "fail", "info"  # the points are in; the server said no; the outcome is unknown


@dataclass(slots=True)
class Call:
    """One request and what became of it.

    Attributes:
        what: `complete`, `redeem`, `again` (a token that was settled before), or `board` (GET the leaderboard).
        server: 0 or 1.
        status: 0 where no answer came; `code` then says how that showed.
        code: the error's code in the answer; empty where there is none.
        receipt: what a redemption awarded, from a 200, a 409 or a late 403.
    """

    what: str
    server: int
    began: float
    ended: float
    outcome: str
    status: int = 0
    code: str = ""
    retry_after: str | None = None
    action: str = ""
    player: str = ""
    receipt: dict[str, Any] | None = None


@dataclass(slots=True)
class Attempt:
    """One score token and the wish to redeem it. `outcome` is empty until an answer is definite."""

    player: str
    action: str
    points: int
    began: float
    unknown_since: float | None = None
    settled: float | None = None
    outcome: str = ""


@dataclass
class Window:
    """A stretch of time; open while `ended` is None. `graceful`: what had begun before it is still to be finished."""

    began: float
    ended: float | None = None
    graceful: bool = False

    def touches(self, began: float, ended: float, grace: float = 0.0) -> bool:
        """Whether it overlaps `began` … `ended`, being taken for `grace` seconds longer than it was."""
        return self.began <= ended and (self.ended is None or began <= self.ended + grace)


@dataclass
class Fault(Window):
    """What the nemesis did. The window ends when all that it broke runs again, which is where recovery starts to count.

    Attributes:
        served: seconds until both servers had answered 200 to a call that began after the end; None: not seen.
        board: seconds until the Redis board held every score of the moment at which the fault ended.
        points: of the top 10 together at that moment, by PostgreSQL; what a screen that has recovered shows at least.
        disturbed: how many later faults began before these were measured (their windows are not counted).
    """

    kind: str = ""
    detail: str = ""
    served: float | None = None
    board: float | None = None
    points: int | None = None
    disturbed: int = 0


@dataclass(slots=True)
class Picture:
    """One top 10 on one screen. `points`: of all rows together, which only grows; `rows`: a hash of players and scores."""

    at: float
    seq: int
    points: int
    rows: int
    initial: bool


@dataclass
class Connection:
    """One socket of one watcher, from its handshake to its end. `rows`: of the last picture, as (player, score)."""

    watcher: str
    server: int
    opened: float
    closed: float | None = None
    close_code: int | None = None
    pictures: list[Picture] = field(default_factory=list)
    rows: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Sample:
    """What the stage held at one moment. `threads`, `descriptors`, `mebibytes`: of each server by its name."""

    at: float
    threads: dict[str, int]
    descriptors: dict[str, int]
    mebibytes: dict[str, float]
    backends: int


class History:
    """Everything that was recorded, by one clock."""

    def __init__(self) -> None:
        self.zero = time.monotonic()
        self.calls: list[Call] = []
        self.attempts: list[Attempt] = []
        self.faults: list[Fault] = []
        self.connections: list[Connection] = []
        self.samples: list[Sample] = []
        self.lags: list[tuple[float, float]] = []  # (when, seconds): this process itself was late
        self.troubles: dict[int, list[Window]] = {0: [], 1: []}  # by server: killed, frozen, or on its way up
        self.surprises: list[str] = []  # what nobody had asked for: a server that died by itself, say

    def start(self) -> None:
        """Now is zero; what was recorded while the stage was being set is forgotten."""
        self.zero = time.monotonic()
        for windows in self.troubles.values():
            windows.clear()

    def now(self) -> float:
        return time.monotonic() - self.zero

    def fault_in(self, began: float, ended: float, grace: float = 0.0) -> Fault | None:
        """The latest fault during these times, or up to `grace` seconds before them."""
        return next((fault for fault in reversed(self.faults) if fault.touches(began, ended, grace)), None)

    def calm_since(self, began: float, ended: float) -> float:
        """Seconds of `began` … `ended` that lie in no fault's window."""
        calm, at = 0.0, began
        for fault in sorted(self.faults, key=lambda fault: fault.began):
            if fault.began > at:
                calm += max(0.0, min(fault.began, ended) - at)
            at = max(at, ended if fault.ended is None else fault.ended)
        return calm + max(0.0, ended - at)

    async def watch_own_lag(self) -> None:
        """For ever: notes when this process was too busy to measure well."""
        while True:
            began = self.now()
            await asyncio.sleep(0.05)
            late = self.now() - began - 0.05
            if late > 0.1:
                self.lags.append((self.now(), late))

    def lag_in(self, began: float, ended: float) -> float:
        """Seconds by which a measurement between these times may be too long through our own fault."""
        return sum(late for at, late in self.lags if began <= at <= ended + late)


async def until(condition: Callable[[], bool], seconds: float, *, every: float = 0.02) -> bool:
    """Whether `condition` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every)
    return True

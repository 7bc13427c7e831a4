"""When what is broken: a seeded deck of all kinds of faults, one card every few seconds, shuffled anew when it is empty."""

import asyncio
import random
from collections.abc import Callable, Sequence

from chaos import recovery
from chaos.faults import KINDS
from chaos.history import Fault, History
from chaos.stage import Stage

GAP = (3.0, 6.0)  # s from one fault's beginning to the next one's, where the first does not take longer
BREATH = 1.0  # s at least between a fault's end and the next one's beginning
CALM_AFTER, CALM = 10, 12.0  # after so many faults, so many seconds of peace, in which no call may fail
FAULT_WITHIN = 90.0  # s; a fault that takes longer is a failure of its own


class Nemesis:
    def __init__(self, stage: Stage, history: History, seed: int, kinds: Sequence[str], say: Callable[[str], None]) -> None:
        self.stage, self.history, self.say = stage, history, say
        self.dice = random.Random(f"{seed} nemesis")  # noqa: S311 (repeatable on purpose)
        self.kinds, self.deck = list(kinds), list[str]()
        self.measuring: list[asyncio.Task[None]] = []

    async def rage(self, seconds: float) -> None:
        """Begins faults for `seconds`; returns when the last one has ended."""
        stop = self.history.now() + seconds
        while self.history.now() < stop:
            next_one = self.history.now() + self.dice.uniform(*GAP)
            await self._break(self._draw())
            calm = len(self.history.faults) % CALM_AFTER == 0
            rest = CALM if calm else max(BREATH, next_one - self.history.now())
            await asyncio.sleep(max(0.0, min(rest, stop - self.history.now())))

    async def measured(self) -> None:
        """Returns when each fault's recovery is known, or given up."""
        await asyncio.gather(*self.measuring)

    def _draw(self) -> str:
        if not self.deck:
            self.deck = list(self.kinds)
            self.dice.shuffle(self.deck)
        return self.deck.pop()

    async def _break(self, kind: str) -> None:
        fault = Fault(self.history.now(), kind=kind)
        self.history.faults.append(fault)

        def tell(detail: str) -> None:
            if not fault.detail:
                self.say(f"{fault.began:6.1f} s  {detail}")
            fault.detail = detail

        async with asyncio.timeout(FAULT_WITHIN):
            # Dice of its own: how often a fault throws them must not change which faults follow.
            await KINDS[kind](self.stage, random.Random(self.dice.random()), tell)  # noqa: S311
        fault.ended = self.history.now()
        self.measuring.append(asyncio.create_task(recovery.measure(self.stage, self.history, fault)))

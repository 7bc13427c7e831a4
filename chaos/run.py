"""One run: set the stage, let players play and viewers watch, break things, wait for recovery, look at everything."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaos import checks_board, checks_manners, checks_points, facts
from chaos.evidence import Evidence, Verdict
from chaos.history import OK, History
from chaos.load import Load
from chaos.nemesis import Nemesis
from chaos.stage import Stage
from chaos.watchers import SLOW_EVERY, Watchers

WARM_UP = 4.0  # s of load before the first fault
RECOVERY = 5.0  # s of load after the last one
SETTLE = 15.0  # s in which attempts under way must become definite
TELL_EVERY = 5.0
CHECKS = [
    checks_points.c1_set,
    checks_points.c2_once,
    checks_points.c3_books,
    checks_board.c4_board,
    checks_board.c5_stream,
    checks_manners.c6_recovery,
    checks_points.c7_truth,
    checks_manners.c8_manners,
    checks_manners.c9_bounds,
]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """`seconds`: in which faults begin; `kinds`: of faults; `quick`: watchers who read at once."""

    seconds: float
    seed: int
    kinds: Sequence[str]
    workers: int
    quick: int


def judge(evidence: Evidence) -> list[Verdict]:
    return [check(evidence) for check in CHECKS]


async def perform(stage: Stage, history: History, plan: Plan, say: Say) -> Evidence:
    """The run itself, on a stage that is set."""
    history.start()
    helpers = [history.watch_own_lag(), stage.keep_minting(len(stage.players))]
    background = [asyncio.create_task(helper) for helper in helpers]
    watchers = Watchers(stage.servers, history, plan.quick, plan.seed)
    load = Load(stage, history, plan.workers, plan.seed)
    try:
        await asyncio.sleep(WARM_UP)
        baseline = await stage.sample(history.now())
        nemesis = Nemesis(stage, history, plan.seed, plan.kinds, say)
        raging = asyncio.create_task(nemesis.rage(plan.seconds))
        background.append(raging)
        while not raging.done():
            await asyncio.wait([raging], timeout=TELL_EVERY)
            load.check()
            watchers.check()
            say(progress(history))
        raging.result()
        await asyncio.sleep(RECOVERY)
        await nemesis.measured()
        await load.finish(SETTLE)
        await asyncio.sleep(SLOW_EVERY + 0.5)  # until the slow viewers have looked again
        evidence = await facts.gather(stage, history, watchers, baseline)
        watchers.check()
        return evidence
    finally:
        for task in [*background, *load.tasks]:
            task.cancel()
        await asyncio.wait([*background, *load.tasks])
        with contextlib.suppress(asyncio.CancelledError):
            await watchers.stop()


def progress(history: History) -> str:
    acknowledged = sum(attempt.outcome == OK for attempt in history.attempts)
    unsettled = sum(attempt.settled is None for attempt in history.attempts)
    refused = sum(call.status == 503 for call in history.calls)
    silent = sum(not call.status for call in history.calls)
    return (
        f"{history.now():6.1f} s  {len(history.attempts):,} attempted, {acknowledged:,} acknowledged, {unsettled} open; "
        f"503 {refused:,}, no answer {silent:,}; {len(history.faults)} faults"
    )

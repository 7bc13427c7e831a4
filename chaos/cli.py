"""python3 run.py chaos [--seconds 60] [--seed N] [--json FILE]: exit status 1 where a promise was broken."""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import uvloop

from chaos import report
from chaos.engine_children import StageError
from chaos.faults import KINDS, mend
from chaos.history import History
from chaos.run import Plan, judge, perform
from chaos.stage import Stage, set_stage
from scoreboard_project.engine_processes import EngineRefusal

OVERTIME = 240.0  # s besides --seconds, after which a run is given up


def main() -> None:
    options = parser().parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    kinds = options.faults or list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser().error(f"no such fault: {', '.join(unknown)}. There are: {', '.join(KINDS)}.")
    plan = Plan(options.seconds, seed, kinds, options.workers, options.watchers)
    try:
        passed = uvloop.run(bounded(plan, options.players, options.json))
    except (StageError, EngineRefusal) as problem:
        print(f"The stage could not be set: {problem}", file=sys.stderr)
        sys.exit(2)
    except TimeoutError:
        sys.exit(f"Given up {OVERTIME:.0f} s after the faults should have ended.")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    sys.exit(0 if passed else 1)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python3 run.py chaos", description=__doc__)
    made.add_argument("--seconds", type=float, default=60, help="in which faults begin (default 60)")
    made.add_argument("--seed", type=int, help="the same seed breaks the same things in the same order (default: a new one)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    made.add_argument("--faults", type=lambda text: text.split(","), help="only these kinds, separated by commas")
    made.add_argument("--workers", type=int, default=12, help="who complete and redeem (default 12)")
    made.add_argument(
        "--watchers", type=int, default=18, help="who read at once; 2 slow ones and a deaf one besides (default 18)"
    )
    made.add_argument("--players", type=int, default=60, help="who earn the points (default 60)")
    return made


async def bounded(plan: Plan, players: int, json_file: Path | None) -> bool:
    """The run, ended by SIGTERM as by Ctrl-C, and by its own clock at the latest."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(plan.seconds + OVERTIME):
        return await run(plan, players, json_file)


async def run(plan: Plan, players: int, json_file: Path | None) -> bool:
    """Returns: whether every promise held."""
    say(f"Seed {plan.seed}, {plan.seconds:.0f} s of faults. Setting the stage …")
    history, began = History(), time.monotonic()
    async with set_stage(history, players) as stage:
        say(f"Set after {time.monotonic() - began:.1f} s in {stage.folder}")
        try:
            evidence = await perform(stage, history, plan, say)
        except BaseException:
            leave_traces(stage, history)
            raise
        finally:
            mend(stage)
    verdicts = judge(evidence)
    say(report.tables(history, verdicts))
    report.write_json(report.as_json(history, verdicts, plan.seed, plan.seconds), json_file)
    if all(verdict.passed for verdict in verdicts):
        shutil.rmtree(stage.folder, ignore_errors=True)
        say(f"\nEvery promise held. Seed {plan.seed}.")
        return True
    say(f"\nA promise was broken. Seed {plan.seed}.")
    leave_traces(stage, history)
    return False


def leave_traces(stage: Stage, history: History) -> None:
    report.write_history(history, stage.folder / "history.jsonl")
    say(f"Logs and history: {stage.folder}")


def say(line: str) -> None:
    print(line, flush=True)

"""python3 run.py bench [--only NAME] [--quick] [--json FILE] [--markdown FILE]: exit status 1 where a call failed."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import report, scenarios_http, scenarios_live, scenarios_size
from benchmarks.figures import Row
from benchmarks.plan import Plan
from benchmarks.stage import BenchmarkError, Stage, set_stage
from scoreboard_project.engine_processes import EngineRefusal

# In this order: `growth` fills the database.
SCENARIOS: dict[str, Callable[[Stage, Plan], Iterator[Row]]] = {
    "start-up": scenarios_size.start_up,
    "flows": scenarios_http.flows,
    "redeem": scenarios_http.redemptions,
    "read": scenarios_http.reads,
    "processes": scenarios_http.two_processes,
    "fan-out": scenarios_live.fan_out,
    "storm": scenarios_live.storm,
    "growth": scenarios_size.growth,
}
DEFAULT_JSON = Path(".data/benchmark.json")


def main() -> None:
    options = parser().parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmark reads CPU seconds from /proc, which only Linux has.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # the way out takes everything along that was started
    began, load = time.monotonic(), [os.getloadavg()[0]]
    rows: list[Row] = []
    problems: list[str] = []
    try:
        for row in measured(options.only or list(SCENARIOS), Plan(options.quick), began, problems):
            rows.append(row)
    except (BenchmarkError, EngineRefusal) as problem:
        sys.exit(not_measured([str(problem)]))
    except KeyboardInterrupt:
        sys.exit(130)
    seconds = time.monotonic() - began
    load.append(os.getloadavg()[0])
    held = "A quick look: its figures mean nothing." if options.quick else report.verdicts(rows)
    print(f"\n{report.tables(rows)}\n\n{held}\n")
    print(f"{seconds:.0f} s; medians of {Plan(options.quick).runs}; load average {load[0]:.1f} before, {load[1]:.1f} after.")
    write(options.json, report.as_json(rows, seconds, load))
    if options.markdown is not None:
        known = options.markdown.read_text() if options.markdown.exists() else ""
        write(options.markdown, report.spliced(known, report.as_page(rows, seconds, load)))
    if problems:
        sys.exit(not_measured(problems))
    sys.exit(1 if any(row.figures()["errors"] for row in rows) else 0)


def not_measured(problems: list[str]) -> int:
    """Says so. Returns: the exit status."""
    for problem in problems:
        print(f"Not measured: {problem}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python3 run.py bench", description=__doc__)
    made.add_argument(
        "--only", action="append", choices=list(SCENARIOS), metavar="NAME", help=f"of: {', '.join(SCENARIOS)}; repeatable"
    )
    made.add_argument("--quick", action="store_true", help="a hundredth of everything, once: does it work at all?")
    made.add_argument(
        "--json", type=Path, default=DEFAULT_JSON, metavar="FILE", help=f"every run's figures (default {DEFAULT_JSON})"
    )
    made.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, put between the marks of docs/performance.md")
    return made


def measured(names: list[str], plan: Plan, began: float, problems: list[str]) -> Iterator[Row]:
    """Each row as soon as it is known. Progress goes to stderr, what could not be measured to `problems`; the rest goes on."""

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    say("setting the stage")
    with set_stage(say) as stage:
        for name, scenario in SCENARIOS.items():
            if name in names:
                say(f"— {name}")
                try:
                    for row in scenario(stage, plan):
                        say(report.one_line(row))
                        yield row
                except BenchmarkError as problem:
                    say(f"not measured: {problem}")
                    problems.append(f"{name}: {problem}")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"Written: {path}", file=sys.stderr)

"""The result: a table of faults by kind, a table of checkers, and all of it as JSON."""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from chaos.checks_manners import screens_after
from chaos.evidence import Verdict
from chaos.history import Fault, History


def by_kind(history: History) -> dict[str, dict[str, float | None]]:
    """Kind → how many, the longest one, and the worst seconds from its end until all had recovered; None: not seen."""
    groups: defaultdict[str, list[Fault]] = defaultdict(list)
    for fault in history.faults:
        groups[fault.kind].append(fault)
    return {
        kind: {
            "times": len(faults),
            "lasted": max((fault.ended or fault.began) - fault.began for fault in faults),
            "served": _worst([fault.served for fault in faults]),
            "board": _worst([fault.board for fault in faults]),
            "screens": _worst([screens_after(history, fault) for fault in faults]),
        }
        for kind, faults in sorted(groups.items())
    }


def tables(history: History, verdicts: list[Verdict]) -> str:
    kinds = by_kind(history)
    lines = ["", f"{'':34}{'longest':>17}   worst seconds from its end until", f"{'fault':<34}"]
    lines[-1] += "".join(f"{name:>9}" for name in ("times", "s", "served", "board", "screens"))
    for kind, worst in kinds.items():
        columns = [_seconds(worst[name]) for name in ("lasted", "served", "board", "screens")]
        lines.append(f"{kind:<34}{worst['times']:>9}" + "".join(f"{column:>9}" for column in columns))
    lines += ["", f"{'check':<14}{'':6}figures"]
    for verdict in verdicts:
        lines.append(f"{verdict.name:<14}{'PASS' if verdict.passed else 'FAIL':<6}{verdict.figures}")
        lines += [f"{'':20}! {sentence}" for sentence in verdict.violations]
    return "\n".join(lines)


def as_json(history: History, verdicts: list[Verdict], seed: int, seconds: float) -> dict[str, Any]:
    checks = {
        verdict.name: {
            "passed": verdict.passed,
            "promise": verdict.promise,
            "figures": verdict.numbers,
            "violations": verdict.violations,
        }
        for verdict in verdicts
    }
    return {
        "seed": seed,
        "seconds": seconds,
        "passed": all(verdict.passed for verdict in verdicts),
        "checks": checks,
        "kinds": by_kind(history),
        "faults": [dataclasses.asdict(fault) for fault in history.faults],
        "samples": [dataclasses.asdict(sample) for sample in history.samples],
    }


def write_json(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=1))


def write_history(history: History, path: Path) -> None:
    """JSON lines: every call, every attempt, every socket without its pictures."""
    with path.open("w") as file:
        for call in history.calls:
            file.write(json.dumps({"call": dataclasses.asdict(call)}) + "\n")
        for attempt in history.attempts:
            file.write(json.dumps({"attempt": dataclasses.asdict(attempt)}) + "\n")
        for connection in history.connections:
            file.write(json.dumps({"socket": dataclasses.asdict(connection)}) + "\n")


def _worst(seconds: list[float | None]) -> float | None:
    return None if None in seconds else max(value for value in seconds if value is not None)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"

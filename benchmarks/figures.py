"""The benchmark's arithmetic: percentiles, a run's figures per operation, medians of runs, and the bars they are held against."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

PARTS = ("server", "postgres", "redis")  # what `total` adds up


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `share` (0–1) of all are not above. NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float], prefix: str = "") -> dict[str, float]:
    """p50, p95, p99 and the largest."""
    ordered = sorted(values)
    found = {f"{prefix}p{share:g}": percentile(ordered, share / 100) for share in (50, 95, 99)}
    return found | {f"{prefix}max": ordered[-1] if ordered else math.nan}


@dataclass(frozen=True)
class Run:
    """One measured run.

    Attributes:
        operations: how many went well; errors: how many did not.
        seconds: it took.
        cpu: CPU seconds by part: `server`, `postgres`, `redis`, and `client`, which is not in the total.
        latencies: milliseconds, in any order.
        more: further figures, by name.
        per: operations that the CPU figures are for.
    """

    operations: int
    seconds: float
    errors: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    latencies: Sequence[float] = ()
    more: dict[str, float] = field(default_factory=dict)
    per: int = 10_000

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {"operations": self.operations, "seconds": self.seconds, "errors": self.errors}
        if self.seconds:
            found["rate"] = self.operations / self.seconds
        if self.latencies:
            found |= spread(self.latencies)
        if self.cpu and self.operations:
            found |= {part: seconds / self.operations * self.per for part, seconds in self.cpu.items()}
            found["total"] = sum(found[part] for part in PARTS)
        return found | self.more


@dataclass
class Row:
    """A scenario's line in the table: several runs of the same."""

    scenario: str
    name: str
    runs: list[Run] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """The median of each figure over the runs; errors are added up."""
        each = [run.figures() for run in self.runs]
        middle = {key: statistics.median(found[key] for found in each if key in found) for found in each for key in found}
        return middle | {"errors": sum(run.errors for run in self.runs), "runs": len(self.runs)}


@dataclass(frozen=True)
class Bar:
    """What a figure of a row must not go above (or, with `least`, below)."""

    row: str
    figure: str
    limit: float
    why: str
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


def ratio(rows: Sequence[Row], big: str, small: str, figure: str) -> float | None:
    """How often the figure of row `small` goes into that of row `big`; None where one of them was not run."""
    found = {row.name: row.figures() for row in rows}
    if figure not in found.get(big, {}) or not found.get(small, {}).get(figure):
        return None
    return found[big][figure] / found[small][figure]

"""The result: a table for the terminal, Markdown for docs/performance.md, JSON, and what became of the bars."""

import json
import math
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.bars import judged
from benchmarks.figures import Row

# Heading → figure and format. A column is shown for a scenario where one of its rows has the figure.
COLUMNS = {
    "a second": ("rate", ",.0f"),
    "p50 ms": ("p50", ".1f"),
    "p95 ms": ("p95", ".1f"),
    "p99 ms": ("p99", ".1f"),
    "errors": ("errors", ".0f"),
    "server": ("server", ".2f"),
    "PostgreSQL": ("postgres", ".2f"),
    "Redis": ("redis", ".2f"),
    "CPU in all": ("total", ".2f"),
    "pictures/s": ("pictures_a_second", ".1f"),
    "delivered": ("delivered", ".2%"),
    "frame p50": ("frame_p50", ".1f"),
    "frame p99": ("frame_p99", ".1f"),
    "seen p50": ("seen_p50", ".1f"),
    "seen p95": ("seen_p95", ".1f"),
    "KiB/socket": ("kib_a_socket", ".0f"),
    "rebuild s": ("rebuild_seconds", ".1f"),
    "start s": ("start_seconds", ".2f"),
    "all MiB": ("all_mib", ",.0f"),
    "server MiB": ("server_mib", ",.0f"),
    "PostgreSQL MiB": ("postgres_mib", ",.0f"),
    "Redis MiB": ("redis_mib", ",.0f"),
    "on disk MiB": ("database_mib", ",.0f"),
}
UNITS = {
    "fan-out": "CPU seconds per 100,000 frames, redemptions included; `a second`: frames; p50–p99: a redemption's answer; "
    "`frame`: ms from the picture's making to a viewer; `seen`: ms from a redemption's 200 to the frame that shows it",
    "storm": "CPU seconds per 10,000 connections; p50–p99: until the first picture",
    "rebuild": "p50–p99: a redemption's answer meanwhile",
}
MARKS = ("<!-- results -->", "<!-- end of results -->")
PER_10_000 = "CPU seconds per 10,000"


def tables(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """One a scenario, in the order in which they ran."""
    parts = []
    for scenario in dict.fromkeys(row.scenario for row in rows):
        mine = [row for row in rows if row.scenario == scenario]
        figures = [row.figures() for row in mine]
        columns = {title: column for title, column in COLUMNS.items() if any(column[0] in found for found in figures)}
        cells = [["", *columns]]
        for row, found in zip(mine, figures, strict=True):
            cells.append([row.name, *(cell(found.get(figure), form) for figure, form in columns.values())])
        unit = UNITS.get(scenario, PER_10_000 if "CPU in all" in columns else "")
        title = f"{scenario} ({unit})" if unit else scenario
        parts.append(f"**{title}**\n\n{as_markdown(cells)}" if markdown else f"{title}\n{as_text(cells)}")
    return "\n\n".join(parts)


def verdicts(rows: Sequence[Row], *, markdown: bool = False) -> str:
    cells = [["bar", "limit", "measured", ""]]
    for verdict in judged(rows):
        sign = "≥" if verdict.bar.least else "≤"
        measured = "" if verdict.value is None else f"{verdict.value:.4g}"
        cells.append([verdict.bar.why, f"{sign} {verdict.bar.limit:g}", measured, verdict.word])
    return as_markdown(cells) if markdown else as_text(cells)


def as_page(rows: Sequence[Row], seconds: float, load: list[float]) -> str:
    """The results as docs/performance.md has them."""
    told = machine()
    about = (
        f"{date.today():%B %Y}, {told['cpus']} × {told['cpu']}, Linux {told['kernel']}, Python {told['python']}; load average "
        f"{load[0]:.1f} before and {load[1]:.1f} after; {seconds:.0f} s. Medians of {max(len(row.runs) for row in rows)} runs."
    )
    return f"{about}\n\n{verdicts(rows, markdown=True)}\n\n{tables(rows, markdown=True)}"


def spliced(page: str, results: str) -> str:
    """The page with `results` between its marks; the results alone where it has none."""
    before, began, rest = page.partition(MARKS[0])
    _old, ended, after = rest.partition(MARKS[1])
    return f"{before}{began}\n\n{results}\n\n{ended}{after}" if began and ended else f"{results}\n"


def cell(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)


def as_text(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if at else text.ljust(width) for at, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def as_markdown(cells: list[list[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], f"|{'---|' * len(cells[0])}", *lines[1:]])


def machine() -> dict[str, Any]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    cpus = len(os.sched_getaffinity(0))
    return {"cpus": cpus, "cpu": model.partition(": ")[2], "python": platform.python_version(), "kernel": platform.release()}


def as_json(rows: Sequence[Row], seconds: float, load: list[float]) -> str:
    """`load`: the machine's load average when it began and ended. A run's latencies are left out."""
    return json.dumps(
        {
            "machine": machine(),
            "seconds": round(seconds, 1),
            "load_average": load,
            "rows": [
                {"scenario": row.scenario, "name": row.name, "median": row.figures(), "runs": [run.figures() for run in row.runs]}
                for row in rows
            ],
            "bars": [
                {"bar": one.bar.why, "limit": one.bar.limit, "measured": one.value, "verdict": one.word} for one in judged(rows)
            ],
        },
        indent=1,
    )


def one_line(row: Row) -> str:
    """For progress."""
    found = row.figures()
    shown = [f"{title} {cell(found.get(figure), form)}" for title, (figure, form) in COLUMNS.items() if figure in found]
    return f"{row.name}: {', '.join(shown)}"

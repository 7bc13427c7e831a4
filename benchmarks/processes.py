"""CPU seconds and memory of process trees, from Linux's /proc."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """Of one process. `ticks`: of CPU, user and system, its own and those of children that have ended and been waited for."""

    parent: int
    ticks: int


def parse(stat: str) -> Stat:
    """A line of /proc/<pid>/stat. The name may hold spaces and parentheses, so fields are counted from its last one on."""
    fields = stat.rpartition(")")[2].split()
    return Stat(int(fields[1]), sum(int(number) for number in fields[11:15]))


def snapshot(proc: Path = PROC) -> dict[int, Stat]:
    """Every process there is."""
    found = {}
    for folder in proc.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it has just ended
                found[int(folder.name)] = parse((folder / "stat").read_text())
    return found


def tree(root: int, among: dict[int, Stat]) -> list[int]:
    """`root`, if it is there, and all below it."""
    children: dict[int, list[int]] = {}
    for pid, stat in among.items():
        children.setdefault(stat.parent, []).append(pid)
    members, todo = [], [root] if root in among else []
    while todo:
        pid = todo.pop()
        members.append(pid)
        todo += children.get(pid, [])
    return members


def cpu_seconds(root: int, among: dict[int, Stat]) -> float:
    """User and system time of `root` and all below it, ended ones included."""
    return sum(among[pid].ticks for pid in tree(root, among)) / TICKS


def memory(root: int) -> float:
    """MiB of `root` and all below it; what several of them share counts once (PSS)."""
    kibibytes = 0
    for pid in tree(root, snapshot()):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kibibytes += int(line.split()[1])
    return kibibytes / 1024

"""What the figures are held against, and where that comes from."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Bar, Row, ratio

_NAKAMA = "Nakama 3.40 (Go), measured on such a machine: 4.9–5.1"
BARS = [
    *(
        Bar(f"redeem, {connections} at once", "total", 4.9, f"CPU s per 10,000 redemptions, {connections} at once ({_NAKAMA})")
        for connections in (32, 64, 128)
    ),
    *(
        Bar(
            f"complete + redeem, {connections}",
            "total",
            9.0,
            f"CPU s per 10,000 complete + redeem, {connections}",
        )
        for connections in ("64 at once", "128 at once", "64 at once, limits counted")
    ),
    Bar("read the leaderboard, anonymous", "total", 2.5, "CPU s per 10,000 anonymous reads (Nakama: 4.9–5.3)"),
    Bar("fan-out to 1000, 10 redemptions/s", "delivered", 1.0, "every update delivered, 1000 sockets", least=True),
    Bar("fan-out to 1000, 10 redemptions/s", "frame_p99", 25.0, "ms from publish to frame, p99, 1000 sockets"),
    Bar("fan-out to 1000, 10 redemptions/s", "total", 2.0, "CPU s per 100,000 messages, 1000 sockets"),
    Bar(
        "fan-out to 1000, 500 redemptions/s",
        "seen_p95",
        105.0,
        "ms from a redemption's 200 to the frame, p95, 1000 sockets, 500/s",
    ),
    Bar(
        "fan-out to 2000, 500 redemptions/s",
        "seen_p95",
        105.0,
        "ms from a redemption's 200 to the frame, p95, 2000 sockets, 500/s",
    ),
    Bar("rebuild of 1 million, 100 redemptions/s meanwhile", "rebuild_seconds", 30.0, "s to rebuild 1 million while serving"),
]
GROWTH = 1.3
GROWING = {"redeem among": "redemption", "read, signed in, among": "read"}


@dataclass(frozen=True)
class Verdict:
    """`value`: what was measured; None where its rows were not run."""

    bar: Bar
    value: float | None

    @property
    def word(self) -> str:
        if self.value is None:
            return "not run"
        return "met" if self.bar.met(self.value) else "MISSED"


def judged(rows: Sequence[Row]) -> list[Verdict]:
    """One for each bar."""
    figures = {row.name: row.figures() for row in rows}
    found = [Verdict(bar, figures.get(bar.row, {}).get(bar.figure)) for bar in BARS]
    for name, what in GROWING.items():
        bar = Bar(name, "total", GROWTH, f"times the CPU of a {what} with 1 thousand players, with 1 million")
        found.append(Verdict(bar, ratio(rows, f"{name} 1 million", f"{name} 1 thousand", "total")))
    return found

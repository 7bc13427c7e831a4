"""All that a checker may look at, and what it says."""

from dataclasses import dataclass, field

from chaos.history import History, Sample

Rows = list[tuple[str, int]]  # (player id, score), best first
MOST_SENTENCES = 20


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the ledger. `at`: as the wire writes it, UTC in ms with `Z`."""

    id: int
    player: str
    points: int
    score_after: int
    action: str
    at: str


@dataclass
class Evidence:
    """What the clients recorded, and what PostgreSQL, Redis, the servers and the sockets say once all is quiet.

    Attributes:
        ledger: every line, in the order of its making.
        actions: what each completion on record is worth, and to whom: action → (player, points).
        totals: player → score, as PostgreSQL keeps it.
        order: the whole board by PostgreSQL.
        shown: the top 10 of each place that shows one: `REST A`, `new socket B`, `quick 3`…
        disagreements: of `manage.py verify_ledger`; empty where every score and every rank is right.
        doubled: actions and tokens that PostgreSQL counts more than once.
        deaf_longest: seconds for which a server held a socket that never reads.
    """

    history: History
    ledger: list[LedgerLine]
    actions: dict[str, tuple[str, int]]
    totals: dict[str, int]
    order: Rows
    shown: dict[str, Rows]
    disagreements: list[str]
    doubled: list[str]
    deaf_longest: float
    baseline: Sample | None
    final: Sample | None


@dataclass
class Verdict:
    """What one checker found. `numbers`: for a program; `figures`: the same in a line for a person, or `text` instead."""

    name: str
    promise: str
    violations: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    text: str = ""

    @property
    def passed(self) -> bool:
        return not self.violations

    @property
    def figures(self) -> str:
        return self.text or ", ".join(f"{name} {value:,.1f}".removesuffix(".0") for name, value in self.numbers.items())

    def count(self, name: str, sentences: list[str]) -> None:
        """A number, each unit of which is a violation."""
        self.numbers[name] = len(sentences)
        self.violations += sentences[:MOST_SENTENCES]
        if len(sentences) > MOST_SENTENCES:
            self.violations.append(f"… and {len(sentences) - MOST_SENTENCES:,} more: {name}")

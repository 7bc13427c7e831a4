"""How much of everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """`quick`: a look at whether everything works, in seconds; its figures mean nothing."""

    quick: bool = False

    @property
    def runs(self) -> int:
        """Of each row; its figures are their medians."""
        return 1 if self.quick else 3

    def some(self, of: Sequence[T]) -> Sequence[T]:
        return of[:1] if self.quick else of

    def operations(self, number: int) -> int:
        return max(20, number // 100) if self.quick else number

    def sockets(self, number: int) -> int:
        return number // 100 if self.quick else number

    def seconds(self, number: float) -> float:
        return 1.0 if self.quick else number

"""What may follow the `?` of a board's address: checked, and refused with what would have been right."""

from datetime import date
from typing import NamedTuple

from django.http import QueryDict

from leaderboard import periods
from leaderboard.periods import KINDS, Period
from scoreboard_project.errors import Invalid

ALL_TIME = "all"


class InvalidQuery(Invalid):
    code = "INVALID_QUERY"


class Asked(NamedTuple):
    """Which board. `kind`: as asked, None where no period was, and the answer speaks of none. `period`: None for all time."""

    kind: str | None
    period: Period | None


def number(query: QueryDict, name: str, *, most: int, default: int) -> int:
    """A whole number from 1 to `most`. Raises: `InvalidQuery`."""
    text = _one(query, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= most):
        raise InvalidQuery(f"{name} is a whole number from 1 to {most}.")
    return int(text)


def board(query: QueryDict) -> Asked:
    """The board that `period` and `at` name. Raises: `InvalidQuery`."""
    kind, at = _one(query, "period"), _one(query, "at")
    if kind not in (None, ALL_TIME, *KINDS):
        raise InvalidQuery(f"period is one of {', '.join(KINDS)} and {ALL_TIME}.")
    if kind is None or kind == ALL_TIME:
        if at is not None:
            raise InvalidQuery(f"at goes with a period: {', '.join(KINDS)}.")
        return Asked(kind, None)
    period = periods.current(kind) if at is None else periods.of_date(kind, _date(at))
    if period.start > periods.now():
        raise InvalidQuery("at is a day that has not come yet.")
    return Asked(kind, period)


def only(query: QueryDict, *names: str) -> None:
    """Refuse any other parameter. Raises: `InvalidQuery`."""
    if not query.keys() <= set(names):
        raise InvalidQuery(f"The parameters are {', '.join(names)}.")


def _one(query: QueryDict, name: str) -> str | None:
    given = query.getlist(name)
    if len(given) > 1:
        raise InvalidQuery(f"{name} may be given once.")
    return given[0] if given else None


def _date(text: str) -> date:
    # fromisoformat takes more than YYYY-MM-DD, such as 20260601 and 2026-W23-1.
    if len(text) == 10 and text[4] == text[7] == "-" and text.isascii():
        try:
            found = date.fromisoformat(text)
            if periods.EARLIEST <= found <= periods.LATEST:
                return found
        except ValueError:
            pass
    raise InvalidQuery(f"at is a date, YYYY-MM-DD, not before {periods.EARLIEST}.")

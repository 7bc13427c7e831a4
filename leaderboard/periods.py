"""Days, weeks and months: where they begin and end, in UTC, by PostgreSQL's clock. Knows no board and no score."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from django.conf import settings

KINDS = ("day", "week", "month")
EARLIEST, LATEST = date(2000, 1, 1), date(9998, 12, 31)  # of what may be asked for; no week of these leaves the calendar

_ahead = timedelta(0)  # how far PostgreSQL's clock is ahead of this process's


@dataclass(frozen=True, slots=True)
class Period:
    """A day, a week or a month. `start` is its first moment, `end` the first one after it."""

    kind: str
    start: datetime
    end: datetime

    @property
    def over(self) -> bool:
        return self.end <= now()


def keep_time(by_postgresql: datetime) -> None:
    """Take over PostgreSQL's clock, which stamps the ledger: it says which period is the current one."""
    global _ahead
    _ahead = by_postgresql - datetime.now(UTC)


def now() -> datetime:
    """The time by PostgreSQL's clock, as last heard."""
    return datetime.now(UTC) + _ahead


def current(kind: str) -> Period:
    return containing(kind, now())


def containing(kind: str, moment: datetime) -> Period:
    """The period of that kind in which the moment lies."""
    return of_date(kind, moment.astimezone(UTC).date())


@lru_cache(maxsize=1_024)
def of_date(kind: str, day: date) -> Period:
    """The period of that kind to which the date belongs."""
    if kind == "day":
        first, after = day, day + timedelta(days=1)
    elif kind == "week":
        first = day - timedelta(days=(day.weekday() - settings.WEEK_STARTS_ON) % 7)
        after = first + timedelta(days=7)
    elif kind == "month":
        first = day.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        raise ValueError(kind)
    return Period(kind, _midnight(first), _midnight(after))


def all_of(moment: datetime) -> list[Period]:
    """The day, the week and the month in which the moment lies."""
    return [containing(kind, moment) for kind in KINDS]


def following(periods: Iterable[Period]) -> list[Period]:
    """The period after each."""
    return [containing(period.kind, period.end) for period in periods]


def start_in_sql(kind: str, moment: str) -> str:
    """The SQL that says the same as `containing(kind, moment).start`. `moment`: an SQL expression, timestamptz."""
    # PostgreSQL's weeks begin on Monday. Hours, not days: how long a day is depends on the session's time zone.
    shift = f"interval '{24 * (-settings.WEEK_STARTS_ON % 7)} hours'"
    if kind == "week":
        return f"(date_trunc('week', {moment} + {shift}, 'UTC') - {shift})"
    return f"date_trunc('{kind}', {moment}, 'UTC')"


def timestamp(moment: datetime | None) -> str | None:
    """As the wire has it: ISO 8601, UTC, with `Z`."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

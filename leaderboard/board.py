"""The Redis copy of the boards: order, ranks, profiles and `seq`. It can be thrown away and made again from the ledger.

All keys are under one hash tag, so that every script also runs on Redis Cluster:

    {board}:2:order    sorted set: score = −points (exact to 2^53−1), member = <reached_at, µs, 16 hex><player id, 32 hex>
    {board}:2:players  hash: player id → "<revision> <reached_at> <earned_at> <points> <day> <week> <month> <profile JSON>"
    {board}:2:meta     hash: seq, changed_at (ms), watermark (PostgreSQL time, µs, up to which all changes are in)
    {board}:2:day:2026-06-01, {board}:2:week:…, {board}:2:month:…
                       sorted sets as `order`, of what was earned in that period, with earned_at in place of reached_at;
                       gone an hour after the period, which SQL answers for by then

2 is the format: a release that changes it takes another number, and both copies stand side by side while servers are replaced.

Ascending order is the board's order: points descending, then who reached them first, then player id. It is the order of
the SQL index, byte for byte. Where `watermark` is missing the copy is *cold*: nothing reads or writes it until `board_rebuild`.

A player's points of the latest day, week and month come as absolute numbers under the one revision, never as increments: placing
twice, or late, or in the wrong order changes nothing. `earned_at` says which day, week and month that is, and never goes back.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, NamedTuple, cast

import structlog

from leaderboard import board_scripts as lua
from leaderboard.periods import KINDS, Period, of_date
from scoreboard_project.redis_client import client, script

log = structlog.get_logger(__name__)

ORDER, PLAYERS, META = KEYS = ("{board}:2:order", "{board}:2:players", "{board}:2:meta")
TOP = 10
KEPT_SECONDS = 3600  # how long a period's sorted set outlives the period


class Cold(Exception):
    """The copy is not there (first start, flush, empty restart), or is damaged: read PostgreSQL until it has been rebuilt."""


class Standing(NamedTuple):
    """A player's place-to-be, as PostgreSQL committed it. (A tuple: a million are made for a rebuild.)

    Attributes:
        points: whole, 0 … 2^53−1.
        listed: whether public boards may show the player; those without points they do not show anyway.
        earned_at: the latest line that was not a reversal; None before the first.
        earned: whole points, of the day, the week and the month in which `earned_at` lies; below zero after corrections.
    """

    player_id: uuid.UUID
    revision: int
    points: int
    reached_at: datetime
    listed: bool
    username: str
    avatar_url: str | None
    earned_at: datetime | None = None
    earned: tuple[int, int, int] = (0, 0, 0)

    def packed(self) -> tuple[Any, ...]:
        """id, revision, reached_at, earned_at, points, of the day, week and month, profile, listed: as the scripts take them."""
        reached = f"{microseconds(self.reached_at):016x}"
        earned = f"{microseconds(self.earned_at) if self.earned_at else 0:016x}"
        avatar = "null" if self.avatar_url is None else encode_basestring(self.avatar_url)
        profile = f"[{encode_basestring(self.username)},{avatar}]"
        return self.player_id.hex, self.revision, reached, earned, self.points, *self.earned, profile, int(self.listed)


@dataclass(frozen=True, slots=True)
class Placed:
    """What a `place` did. `ranks`: one per standing, None where the public board does not show that player."""

    seq: int
    changed: bool
    ranks: list[int | None]


@dataclass(frozen=True, slots=True)
class Top:
    """The head of a board. `rows`: as the wire has them.

    `seq` and `changed_at` (ms since 1970) are of the last change to the top 10; on the board of a period, of this reading.
    `final`: the period is over and settled.
    """

    seq: int
    changed_at: int
    rows: list[dict[str, Any]]
    final: bool = False


@dataclass(frozen=True, slots=True)
class Around:
    """A player's surroundings on a board. `rows`: as the wire has them, theirs among them; none where `rank` is None.

    `points`: None before the first. `players`: how many are ranked. `read_at`: ms since 1970. `final`: as of a `Top`.
    """

    rank: int | None
    points: int | None
    players: int
    rows: list[dict[str, Any]]
    read_at: int
    final: bool = False

    @property
    def points_to_next(self) -> int | None:
        """The fewest points that lead past the player above; None at the top, and where there is no rank."""
        if self.rank is None or self.rank == 1 or self.points is None:
            return None
        above = next((row["score"] for row in self.rows if row["rank"] == self.rank - 1), self.points)
        return max(above - self.points, 0) + 1

    @property
    def percentile(self) -> float | None:
        """How many percent of the other ranked players stand below, rounded down to a tenth."""
        if self.rank is None:
            return None
        others = self.players - 1
        return (self.players - self.rank) * 1000 // others / 10 if others else 100.0


def microseconds(moment: datetime) -> int:
    """Exact µs since 1970: `timestamp()` is a float and would round."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def key_of(period: Period) -> str:
    """The sorted set of that period."""
    return f"{{board}}:2:{period.kind}:{period.start:%Y-%m-%d}"


@lru_cache(maxsize=64)
def sets_on(day: date) -> tuple[list[str], list[int]]:
    """The sorted sets of a day, its week and its month; and when each may go, in seconds since 1970."""
    periods = [of_date(kind, day) for kind in KINDS]
    return [key_of(period) for period in periods], [gone_at(period) for period in periods]


def gone_at(period: Period) -> int:
    """When its sorted set may go, in seconds since 1970."""
    return int(period.end.timestamp()) + KEPT_SECONDS


def place(standings: Sequence[Standing]) -> Placed:
    """Show these standings, ignoring any that is not newer than what the boards hold. One round trip.

    Raises: `Cold`; `redis_client.Down`.
    """
    keys: list[str] = list(KEYS)
    gone: list[int] = []
    begins: dict[date | None, int] = {None: 0}
    args: list[Any] = []
    for standing in standings:
        day = standing.earned_at.astimezone(UTC).date() if standing.earned_at else None
        if day not in begins:
            begins[day] = len(keys) + 1
            sets, may_go = sets_on(day)
            keys += sets
            gone += may_go
        args.extend(standing.packed())
        args.append(begins[day])
    answer = script(lua.PLACE)(keys=keys, args=[TOP, *gone, *args])
    if not answer:
        raise Cold
    ranks = [rank + 1 if rank >= 0 else None for rank in answer[2:]]
    return Placed(seq=int(answer[0]), changed=bool(answer[1]), ranks=ranks)


def row(rank: int, player_id: uuid.UUID, username: str, points: int, avatar_url: str | None) -> dict[str, Any]:
    """One row of a leaderboard, as the wire has it."""
    return {"rank": rank, "userId": str(player_id), "username": username, "score": points, "avatarUrl": avatar_url}


def top(limit: int = TOP, period: Period | None = None) -> Top:
    """The first `limit` rows. One round trip. Raises: `Cold`; `redis_client.Down`."""
    answer = script(lua.TOP)(keys=_keys(period), args=[limit])
    if not answer:
        raise Cold
    seq, changed_at, now = (int(value) for value in answer[:3])
    rows = _rows(answer[3:], first=1)
    return Top(seq, changed_at, rows) if period is None else Top(now, now // 1_000, rows)


def standings(player_ids: Sequence[uuid.UUID], period: Period | None = None) -> list[tuple[int | None, int | None]]:
    """(rank, points) of each player; (None, None) before their first points. Raises: `Cold`; `redis_client.Down`."""
    answer = script(lua.STANDINGS)(keys=_keys(period), args=[_stamp(period), *(player_id.hex for player_id in player_ids)])
    if not answer:
        raise Cold
    pairs: list[tuple[bytes, int]] = list(zip(answer[1::2], answer[2::2], strict=True))
    return [(rank + 1 if rank >= 0 else None, _points(held, period)) for held, rank in pairs]


def around(player_id: uuid.UUID, span: int, period: Period | None = None) -> Around:
    """A player with up to `span` rows on either side. One round trip. Raises: `Cold`; `redis_client.Down`."""
    answer = script(lua.AROUND)(keys=_keys(period), args=[_stamp(period), player_id.hex, span])
    if not answer:
        raise Cold
    now, players, held, rank, first = answer[:5]
    rows = _rows(answer[5:], first=first + 1)
    return Around(rank + 1 if rank >= 0 else None, _points(held, period), players, rows, int(now) // 1_000)


def _keys(period: Period | None) -> tuple[str, str, str]:
    return KEYS if period is None else (key_of(period), PLAYERS, META)


def _stamp(period: Period | None) -> str:
    """The Lua pattern of what begins a member: reached_at, or earned_at on the board of a period."""
    return "^%d+ (%x+)" if period is None else "^%d+ %x+ (%x+)"


def _points(held: bytes, period: Period | None) -> int | None:
    """A player's points by what is held of them; None before the first. Raises: `Cold`."""
    if not held:
        return None
    try:
        _revision, _reached, earned_at, points, *earned, _profile = held.decode().split(" ", 7)
        if period is None:
            return int(points)
        counts = microseconds(period.start) <= int(earned_at, 16) < microseconds(period.end)
        return int(earned[KINDS.index(period.kind)]) if counts else None
    except _ODD:
        raise _damaged() from None


def _rows(answer: list[Any], *, first: int) -> list[dict[str, Any]]:
    """Wire rows of a script's (id, score, held) one after another. `first`: the rank of the first. Raises: `Cold`."""
    rows = []
    try:
        for rank, (member, score, held) in enumerate(zip(answer[::3], answer[1::3], answer[2::3], strict=True), start=first):
            username, avatar_url = json.loads(held.decode().split(" ", 7)[7])
            rows.append(row(rank, uuid.UUID(member.decode()), username, -int(score), avatar_url))
    except _ODD:
        raise _damaged() from None
    return rows


# What reading raises where nothing is held of a player, or nothing that we wrote.
_ODD = (ValueError, TypeError, AttributeError, IndexError)


def _damaged() -> Cold:
    """Somebody else was in Redis: without its watermark the copy is cold for everybody, and healing makes it anew."""
    log.warning("board_unreadable")
    client().hdel(META, "watermark")
    return Cold()


def revisions(player_ids: Sequence[uuid.UUID]) -> list[int]:
    """The revision the board holds of each player, −1 where it holds none."""
    held = client().hmget(PLAYERS, [player_id.hex for player_id in player_ids])
    return [_revision(value) for value in cast(list[bytes | None], held)]


def _revision(held: bytes | None) -> int:
    first = held.partition(b" ")[0] if held else b""
    return int(first) if first.isdigit() else -1


def size() -> int:
    """How many are on the all-time board."""
    return client().zcard(ORDER)


def watermark() -> int | None:
    """PostgreSQL time in µs up to which every committed change is on the board; None where it is cold."""
    held = client().hget(META, "watermark")
    return int(held) if held else None


def advance(mark: int) -> None:
    """Move the watermark on; never back, and never onto a cold board."""
    script(lua.ADVANCE)(keys=KEYS, args=[mark])


def everyone(period: Period | None = None) -> Iterator[tuple[int, uuid.UUID, int]]:
    """The whole board in its order: (rank, player, points). For checks; nothing must write meanwhile."""
    size, rank, key = 10_000, 0, _keys(period)[0]
    while members := cast(list[tuple[bytes, float]], client().zrange(key, rank, rank + size - 1, withscores=True)):
        for member, score in members:
            rank += 1
            yield rank, uuid.UUID(member[16:].decode()), -int(score)

"""The Redis copy of the board: order, ranks, profiles and `seq`. It can be thrown away and made again from the ledger.

Three keys under one hash tag, so that every script also runs on Redis Cluster:

    {board}:order    sorted set: score = −points (exact to 2^53−1), member = <reached_at, µs, 16 hex><player id, 32 hex>
    {board}:players  hash: player id → "<revision> <reached_at> <points> <profile JSON>"
    {board}:meta     hash: seq, changed_at (ms), watermark (PostgreSQL time, µs, up to which all changes are in)

Ascending order is the board's order: points descending, then who reached them first, then player id. It is the order of
the SQL index, byte for byte. Where `watermark` is missing the copy is *cold*: nothing reads or writes it until `rebuild`.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from scoreboard_project.redis_client import client, script

ORDER, PLAYERS, META = KEYS = ("{board}:order", "{board}:players", "{board}:meta")
TOP = 10

# Picks a `seq` that only grows, even after a flush: Redis's clock in µs, or one more than the last. (In ms, a burst of
# changes could run ahead of the clock, and a flush then take it back.)
_NEXT_SEQ = """
local function next_seq(meta)
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2]
  local seq = math.max(now, tonumber(redis.call('HGET', meta, 'seq') or '0') + 1)
  redis.call('HSET', meta, 'seq', string.format('%d', seq), 'changed_at', string.format('%d', math.floor(now / 1000)))
  return string.format('%d', seq)
end
"""

_PLACE = (
    _NEXT_SEQ
    + """
local order, players, meta = KEYS[1], KEYS[2], KEYS[3]
if redis.call('HEXISTS', meta, 'watermark') == 0 then return {} end
local top = tonumber(ARGV[1]) - 1
local before = table.concat(redis.call('ZRANGE', order, 0, top, 'WITHSCORES'), ' ')
local redrawn, members = {}, {}
for i = 2, #ARGV, 6 do
  local id, revision, reached, points, listed, profile = unpack(ARGV, i, i + 5)
  local held = redis.call('HGET', players, id)
  local old_revision, old_reached, old_profile
  if held then old_revision, old_reached, old_profile = string.match(held, '^(%d+) (%x+) %d+ (.*)$') end
  if not held or tonumber(old_revision) < tonumber(revision) then
    if held and (old_reached ~= reached or listed == '0') then redis.call('ZREM', order, old_reached .. id) end
    if listed == '1' then redis.call('ZADD', order, '-' .. points, reached .. id) end
    redis.call('HSET', players, id, revision .. ' ' .. reached .. ' ' .. points .. ' ' .. profile)
    if held and old_profile ~= profile then redrawn[reached .. id] = true end
    members[#members + 1] = reached .. id
  else
    members[#members + 1] = old_reached .. id
  end
end
local after = redis.call('ZRANGE', order, 0, top, 'WITHSCORES')
local changed = table.concat(after, ' ') ~= before
for _, member in ipairs(after) do changed = changed or redrawn[member] ~= nil end
local answer = {changed and next_seq(meta) or redis.call('HGET', meta, 'seq') or '0', changed and 1 or 0}
for i, member in ipairs(members) do answer[i + 2] = redis.call('ZRANK', order, member) or -1 end
return answer
"""
)

_TOP = """
if redis.call('HEXISTS', KEYS[3], 'watermark') == 0 then return {} end
local answer = {redis.call('HGET', KEYS[3], 'seq') or '0', redis.call('HGET', KEYS[3], 'changed_at') or '0'}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local id = string.sub(member, 17)
  answer[#answer + 1] = id
  answer[#answer + 1] = redis.call('HGET', KEYS[2], id)
end
return answer
"""

_STANDINGS = """
if redis.call('HEXISTS', KEYS[3], 'watermark') == 0 then return {} end
local answer = {1}
for _, id in ipairs(ARGV) do
  local held = redis.call('HGET', KEYS[2], id)
  local rank = held and redis.call('ZRANK', KEYS[1], string.match(held, '^%d+ (%x+)') .. id)
  answer[#answer + 1] = held or ''
  answer[#answer + 1] = rank or -1
end
return answer
"""

_SWAP = (
    _NEXT_SEQ
    + """
redis.call('UNLINK', KEYS[1], KEYS[2])
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[1]) end
if redis.call('EXISTS', KEYS[5]) == 1 then redis.call('RENAME', KEYS[5], KEYS[2]) end
redis.call('HSET', KEYS[3], 'watermark', ARGV[1])
return next_seq(KEYS[3])
"""
)

_ADVANCE = """
local held = redis.call('HGET', KEYS[3], 'watermark')
if held and tonumber(held) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[3], 'watermark', ARGV[1]) end
"""


class Cold(Exception):
    """The copy is not there (first start, flush, empty restart): read PostgreSQL until it has been rebuilt."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A player's place-to-be, as PostgreSQL committed it. `points`: whole, 0 … 2^53−1."""

    player_id: uuid.UUID
    revision: int
    points: int
    reached_at: datetime
    listed: bool
    username: str
    avatar_url: str | None

    def packed(self) -> tuple[str, int, str, int, int, str]:
        """id, revision, reached_at, points, listed, profile: as the scripts take them."""
        profile = json.dumps([self.username, self.avatar_url], ensure_ascii=False, separators=(",", ":"))
        return (
            self.player_id.hex,
            self.revision,
            f"{microseconds(self.reached_at):016x}",
            self.points,
            int(self.listed),
            profile,
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """What a `place` did. `ranks`: one per standing, None where the public board does not show that player."""

    seq: int
    changed: bool
    ranks: list[int | None]


@dataclass(frozen=True, slots=True)
class Top:
    """The head of the board. `rows`: as the wire has them. `changed_at`: ms since 1970 of the last change to the top 10."""

    seq: int
    changed_at: int
    rows: list[dict[str, Any]]


def microseconds(moment: datetime) -> int:
    """Exact µs since 1970: `timestamp()` is a float and would round."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def place(standings: Sequence[Standing]) -> Placed:
    """Show these standings, ignoring any that is not newer than what the board holds. One round trip.

    Raises: `Cold`; `redis_client.Down`.
    """
    args: list[Any] = [TOP]
    for standing in standings:
        args.extend(standing.packed())
    answer = script(_PLACE)(keys=KEYS, args=args)
    if not answer:
        raise Cold
    ranks = [rank + 1 if rank >= 0 else None for rank in answer[2:]]
    return Placed(seq=int(answer[0]), changed=bool(answer[1]), ranks=ranks)


def row(rank: int, player_id: uuid.UUID, username: str, points: int, avatar_url: str | None) -> dict[str, Any]:
    """One row of a leaderboard, as the wire has it."""
    return {"rank": rank, "userId": str(player_id), "username": username, "score": points, "avatarUrl": avatar_url}


def top(limit: int = TOP) -> Top:
    """The first `limit` rows. One round trip. Raises: `Cold`; `redis_client.Down`."""
    answer = script(_TOP)(keys=KEYS, args=[limit])
    if not answer:
        raise Cold
    rows = []
    for place_, (member, held) in enumerate(zip(answer[2::2], answer[3::2], strict=True), start=1):
        _revision, _reached, points, profile = held.decode().split(" ", 3)
        username, avatar_url = json.loads(profile)
        rows.append(row(place_, uuid.UUID(member.decode()), username, int(points), avatar_url))
    return Top(seq=int(answer[0]), changed_at=int(answer[1]), rows=rows)


def standings(player_ids: Sequence[uuid.UUID]) -> list[tuple[int | None, int | None]]:
    """(rank, points) of each player; (None, None) before their first points. Raises: `Cold`; `redis_client.Down`."""
    answer = script(_STANDINGS)(keys=KEYS, args=[player_id.hex for player_id in player_ids])
    if not answer:
        raise Cold
    found: list[tuple[int | None, int | None]] = []
    pairs: list[tuple[bytes, int]] = list(zip(answer[1::2], answer[2::2], strict=True))
    for held, rank in pairs:
        points = int(held.decode().split(" ", 3)[2]) if held else None
        found.append((rank + 1 if rank >= 0 else None, points))
    return found


def revisions(player_ids: Sequence[uuid.UUID]) -> list[int]:
    """The revision the board holds of each player, −1 where it holds none."""
    held = client().hmget(PLAYERS, [player_id.hex for player_id in player_ids])
    return [int(value.split(b" ", 1)[0]) if value else -1 for value in cast(list[bytes | None], held)]


def watermark() -> int | None:
    """PostgreSQL time in µs up to which every committed change is on the board; None where it is cold."""
    held = client().hget(META, "watermark")
    return int(held) if held else None


def advance(mark: int) -> None:
    """Move the watermark on; never back, and never onto a cold board."""
    script(_ADVANCE)(keys=KEYS, args=[mark])


def rebuild(everyone: Iterable[Sequence[Standing]], mark: int) -> int:
    """Build the board aside from chunks of standings, then swap it in while readers read on.

    Args:
        mark: the watermark of the new board; changes committed after it are the reconciler's to add.

    Returns: the new `seq`.
    """
    aside = uuid.uuid4().hex
    order, players = f"{ORDER}:{aside}", f"{PLAYERS}:{aside}"
    try:
        for chunk in everyone:
            packed = [standing.packed() for standing in chunk]
            listed = {f"{reached}{id_}": -points for id_, _, reached, points, shown, _ in packed if shown}
            held: dict[Any, Any] = {
                id_: f"{revision} {reached} {points} {profile}" for id_, revision, reached, points, _, profile in packed
            }
            with client().pipeline(transaction=False) as pipe:
                if listed:
                    pipe.zadd(order, listed)
                pipe.hset(players, mapping=held)
                for key in (order, players):  # an abandoned attempt must not stay for ever
                    pipe.expire(key, 600)
                pipe.execute()
        for key in (order, players):
            client().persist(key)
        return int(script(_SWAP)(keys=[*KEYS, order, players], args=[mark]))
    finally:
        client().delete(order, players)


def everyone() -> Iterator[tuple[int, uuid.UUID, int]]:
    """The whole board in its order: (rank, player, points). For checks; nothing must write meanwhile."""
    size, rank = 10_000, 0
    while members := cast(list[tuple[bytes, float]], client().zrange(ORDER, rank, rank + size - 1, withscores=True)):
        for member, score in members:
            rank += 1
            yield rank, uuid.UUID(member[16:].decode()), -int(score)

"""How long it takes until all is well again after a fault: calls are answered, the Redis board has every score."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import cast

import psycopg
import redis

from chaos.history import OK, Fault, History
from chaos.stage import Stage

GIVE_UP = 30.0  # s
PLAYERS_KEY, META_KEY = "{board}:2:players", "{board}:2:meta"


@dataclass(frozen=True)
class Truth:
    """PostgreSQL at one moment. `revisions`: by player id in hex; `points`: of the top 10 together."""

    revisions: dict[str, int]
    points: int


async def truth(url: str) -> Truth:
    """Raises psycopg.Error."""
    async with await psycopg.AsyncConnection.connect(url, connect_timeout=2) as connection:
        cursor = await connection.execute("SELECT player_id, revision, total_score FROM leaderboard_score WHERE revision > 0")
        rows = await cursor.fetchall()
    best = sorted((total for _, _, total in rows), reverse=True)[:10]
    return Truth({player.hex: revision for player, revision, _ in rows}, sum(best))


async def measure(stage: Stage, history: History, fault: Fault) -> None:
    """Fills in `served`, `board`, `points` and `disturbed`; gives up quietly after 30 s."""
    assert fault.ended is not None
    deadline = history.now() + GIVE_UP
    wanted: Truth | None = None
    start = len(history.calls)
    servers: set[int] = set()
    while history.now() < deadline and (fault.served is None or fault.board is None):
        if wanted is None:
            with contextlib.suppress(psycopg.Error):
                wanted = await truth(stage.postgres.url)
                fault.points = wanted.points
        for call in history.calls[start:]:
            if call.outcome == OK and call.status == 200 and call.what != "board" and call.began >= fault.ended:
                servers.add(call.server)
        start = len(history.calls)
        if fault.served is None and len(servers) == len(stage.servers):
            fault.served = calm_seconds(history, fault)
        if fault.board is None and wanted is not None and await _holds(stage, wanted):
            fault.board = calm_seconds(history, fault)
        await asyncio.sleep(0.05)
    fault.disturbed = sum(later.began > fault.began for later in history.faults)


def calm_seconds(history: History, fault: Fault) -> float:
    """From the end of this fault, or of a later one that has ended since, until now; without the time of one under way."""
    ends = [later.ended for later in history.faults if later.began >= fault.began and later.ended is not None]
    return history.calm_since(max(ends), history.now())


async def _holds(stage: Stage, wanted: Truth) -> bool:
    """Whether the Redis board is there and as new as `wanted`, or newer, about every player."""
    try:
        async with stage.valkey.client() as client:
            if not await client.hexists(META_KEY, "watermark"):
                return False
            held = cast(dict[bytes, bytes], await client.hgetall(PLAYERS_KEY))
    except (redis.RedisError, OSError):
        return False
    revisions = {player.decode(): int(value.split(b" ", 1)[0]) for player, value in held.items()}
    return all(revisions.get(player, -1) >= revision for player, revision in wanted.revisions.items())

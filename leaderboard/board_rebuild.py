"""Making the Redis boards anew: aside, in bulk, and swapped in at once."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from redis.client import Pipeline

from leaderboard import board, periods
from leaderboard import board_scripts as lua
from leaderboard.board import ORDER, PLAYERS
from scoreboard_project.redis_client import client, script, unhurried


def rebuild(everyone: Iterable[Sequence[board.Standing]], mark: datetime) -> int:
    """Build the boards aside from chunks of standings, then swap them in while readers read on. Raises: `redis_client.Down`.

    Args:
        mark: the watermark of the new boards; changes committed after it are the reconciler's to add.

    Returns: the new `seq`.
    """
    running = periods.all_of(mark)
    gone = {board.key_of(period): board.gone_at(period) for period in [*running, *periods.following(running)]}
    aside = {key: f"{key}:{uuid.uuid4().hex}" for key in (ORDER, PLAYERS, *gone)}
    try:
        # One chunk is written while the next is prepared: Redis takes as long for one as Python does.
        with ThreadPoolExecutor(max_workers=1) as writer:
            writing: Future | None = None
            for chunk in everyone:
                prepared = _prepared(chunk, aside)
                if writing is not None:
                    writing.result()
                writing = writer.submit(_write, prepared)
            if writing is not None:
                writing.result()
        for key in (ORDER, PLAYERS):
            client().persist(aside[key])
        pairs = [name for key in gone for name in (key, aside[key])]
        args = [board.microseconds(mark), *gone.values()]
        return int(script(lua.SWAP)(keys=[*board.KEYS, aside[ORDER], aside[PLAYERS], *pairs], args=args))
    finally:
        client().unlink(*aside.values())


def _prepared(chunk: Sequence[board.Standing], aside: dict[str, str]) -> Pipeline:
    """What writes a chunk into what stands aside: `order`, `players`, and the running periods' sorted sets."""
    sets: defaultdict[str, list[Any]] = defaultdict(list)  # score, member, score, member…
    held: list[Any] = []
    for standing in chunk:
        id_, revision, reached, earned_at, points, day, week, month, profile, listed = standing.packed()
        held += id_, f"{revision} {reached} {earned_at} {points} {day} {week} {month} {profile}"
        if not listed:
            continue
        if points > 0:
            sets[ORDER] += -points, reached + id_
        if standing.earned_at:
            member = earned_at + id_
            for key, gained in zip(board.sets_on(standing.earned_at.astimezone(UTC).date())[0], (day, week, month), strict=True):
                if gained > 0 and key in aside:
                    sets[key] += -gained, member
    pipe = unhurried().pipeline(transaction=False)
    for key, members in sets.items():
        pipe.execute_command("ZADD", aside[key], *members)  # `zadd` would take all of it apart and together again
    pipe.hset(aside[PLAYERS], items=held)
    for key in (*sets, PLAYERS):  # an abandoned attempt must not stay for ever
        pipe.expire(aside[key], 600)
    return pipe


def _write(prepared: Pipeline) -> None:
    with prepared:
        prepared.execute()

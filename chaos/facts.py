"""What PostgreSQL, Redis, the servers and fresh sockets say once all is quiet."""

import asyncio
import json
from datetime import UTC, datetime

import psycopg
from websockets.asyncio.client import connect

from chaos.evidence import Evidence, LedgerLine, Rows
from chaos.history import Connection, History, Sample
from chaos.http_line import HttpLine
from chaos.load import API
from chaos.servers import Server
from chaos.stage import Stage
from chaos.watchers import LIVE, Watchers

# Straight from the tables: an index that had lost a line must not hide it.
_NO_INDEXES = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"
_LEDGER = "SELECT id, player_id::text, points, score_after, source::text, created_at FROM leaderboard_scoreentry ORDER BY id"
_ACTIONS = "SELECT action_id::text, player_id::text, points FROM actions_actionlog"
_TOTALS = "SELECT player_id::text, total_score FROM leaderboard_score"
_ORDER = (
    "SELECT player_id::text, total_score FROM leaderboard_score "
    "WHERE total_score > 0 AND NOT (suspended OR hidden OR opted_out) ORDER BY total_score DESC, reached_at, player_id"
)
_DOUBLED = {
    "ledger lines of action": "SELECT source::text, count(*) FROM leaderboard_scoreentry GROUP BY 1 HAVING count(*) > 1",
    "completions with token": "SELECT token_id::text, count(*) FROM actions_actionlog GROUP BY 1 HAVING count(*) > 1",
    "ledger lines of token": "SELECT l.token_id::text, count(*) FROM leaderboard_scoreentry e "
    "JOIN actions_actionlog l ON l.action_id = e.source GROUP BY 1 HAVING count(*) > 1",
}


async def gather(stage: Stage, history: History, watchers: Watchers, baseline: Sample | None) -> Evidence:
    """Everything for the checkers. Nothing may be writing any more."""
    async with await psycopg.AsyncConnection.connect(stage.postgres.url, autocommit=True) as database:
        await database.execute(_NO_INDEXES)

        async def rows(query: str) -> list[tuple]:
            return await (await database.execute(query)).fetchall()

        ledger = [
            LedgerLine(id_, player, points, after, action, timestamp(at))
            for id_, player, points, after, action, at in await rows(_LEDGER)
        ]
        actions = {action: (player, points) for action, player, points in await rows(_ACTIONS)}
        totals = dict(await rows(_TOTALS))
        order = list(await rows(_ORDER))
        doubled = [f"{n} {what} {id_}" for what, query in _DOUBLED.items() for id_, n in await rows(query)]
    return Evidence(
        history=history,
        ledger=ledger,
        actions=actions,
        totals=totals,
        order=order,
        shown=await shown(stage, history),
        disagreements=await disagreements(stage),
        doubled=doubled,
        deaf_longest=watchers.deaf_longest,
        baseline=baseline,
        final=await stage.sample(history.now()),
    )


async def shown(stage: Stage, history: History) -> dict[str, Rows]:
    """The top 10 of REST and of a new socket at each server, and of each open socket."""
    last: dict[str, Connection] = {connection.watcher: connection for connection in history.connections}
    boards = {watcher: connection.rows for watcher, connection in last.items()}
    for server in stage.servers:
        boards[f"REST {server.name}"] = await _by_rest(server)
        boards[f"new socket {server.name}"] = await _by_socket(server)
    return boards


async def disagreements(stage: Stage) -> list[str]:
    """What `manage.py verify_ledger` finds: every score against its ledger, every rank in Redis against PostgreSQL's."""
    status, text = await stage.manage("verify_ledger")
    return [line for line in text.splitlines() if line.strip()][:100] if status else []


def timestamp(moment: datetime) -> str:
    """As the wire writes it: UTC, ms, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _by_rest(server: Server) -> Rows:
    line = HttpLine(server.port)
    answer = await line.call("GET", f"{API}/scores/leaderboard?limit=10", {})
    line.close()
    return _rows(answer.data["leaderboard"])


async def _by_socket(server: Server) -> Rows:
    async with asyncio.timeout(10), connect(f"ws://127.0.0.1:{server.port}{LIVE}", proxy=None) as viewer:
        return _rows(json.loads(await viewer.recv())["data"]["leaderboard"])


def _rows(leaderboard: list[dict]) -> Rows:
    return [(row["userId"], row["score"]) for row in leaderboard]

"""The load: `python -m benchmarks.http_client`, one command a line in, one JSON answer a line out.

Written to cost little beside what it measures: requests are put together from prepared bytes, answers are read by hand,
and no task waits for anything. Commands:

    {"do": "players", "players": [{"id", "token"}…]}          who plays, with access tokens
    {"do": "run", "flow", "port", "total", "connections",     answers {"ready": true} once connected, then waits for a line,
     "rate"?}                                                 then answers what `Load.result` says

Flows: `complete` (keeps the score tokens for later), `redeem` (spends kept ones), `both` (one after the other), `read` and
`read_me` (the leaderboard, signed in or not). With a `rate`, operations begin at their time whether or not earlier ones have
been answered, and are timed from when they should have begun; else each connection has one operation under way.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

HOST = b"Host: 127.0.0.1\r\n"
COMPLETE = b'{"actionType":"task_finish","actionData":{}}'
END_OF_HEAD = b"\r\n\r\n"
ANSWER_WITHIN = 30.0  # s without any answer after which a run is given up


@dataclass(slots=True)
class Player:
    id: str
    complete: bytes
    redeem: bytes  # lacks token, length and body
    read: bytes

    @classmethod
    def known(cls, id_: str, token: str) -> "Player":
        who = b"Authorization: Bearer %b\r\n" % token.encode()
        post = HOST + who + b"Content-Type: application/json\r\n"
        complete = b"POST /api/v1/actions/complete HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (post, len(COMPLETE))
        redeem = b"POST /api/v1/scores/update HTTP/1.1\r\n" + post
        read = b"GET /api/v1/scores/leaderboard HTTP/1.1\r\n" + HOST + who + b"\r\n"
        return cls(id_, complete + COMPLETE, redeem, read)


READ = b"GET /api/v1/scores/leaderboard HTTP/1.1\r\n" + HOST + b"\r\n"


@dataclass(slots=True)
class Issued:
    player: Player
    request: bytes  # that redeems it


class Line(asyncio.Protocol):
    """A keep-alive connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.began = 0.0
        self.player: Player | None = None
        self.redeeming = False
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.got:
            data = self.got + data
        head_end = data.find(END_OF_HEAD)
        at = data.find(b"ength: ", 0, head_end)
        if head_end < 0 or at < 0:
            self.got = data
            return
        length = int(data[at + 7 : data.index(b"\r", at)])
        if len(data) < head_end + 4 + length:
            self.got = data
            return
        self.got = b""
        self.load.answered(self, data[9:12], data[head_end + 4 :])

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost(self)


@dataclass
class Load:
    """One run over its connections."""

    flow: str
    total: int
    players: list[Player]
    issued: deque[Issued]
    loop: asyncio.AbstractEventLoop
    rate: float | None = None
    started: int = 0
    ended: int = 0
    answers: int = 0
    lines: list[Line] = field(default_factory=list)
    idle: deque[Line] = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)  # ms
    errors: Counter[str] = field(default_factory=Counter)
    paid: list[tuple[float, str, int]] = field(default_factory=list)  # when it was known, who, new score

    async def connect(self, port: int, count: int) -> None:
        for _ in range(count):
            _transport, line = await self.loop.create_connection(lambda: Line(self), "127.0.0.1", port)
            self.lines.append(line)

    async def run(self) -> dict[str, Any]:
        self.done = self.loop.create_future()
        began, cpu = time.perf_counter(), time.process_time()
        if self.rate is None:
            for line in self.lines:
                self.next(line, time.perf_counter())
        else:
            self.idle.extend(self.lines)
            self.first = began
            self.tick()
        watch = self.loop.create_task(self.watch())
        await self.done
        watch.cancel()
        seconds = time.perf_counter() - began
        for line in self.lines:
            line.transport.abort()
        return self.result(seconds, time.process_time() - cpu)

    def result(self, seconds: float, cpu: float) -> dict[str, Any]:
        """How it went: `paid` only where a `rate` was asked for."""
        return {
            "operations": self.ended - sum(self.errors.values()),
            "seconds": seconds,
            "errors": dict(self.errors),
            "latencies": [round(latency, 3) for latency in self.latencies],
            "paid": self.paid,
            "cpu": cpu,
        }

    async def watch(self) -> None:
        seen = -1
        while self.answers != seen:
            seen = self.answers
            await asyncio.sleep(ANSWER_WITHIN)
        self.errors["no answer"] += self.total - self.ended
        self.ended = self.total
        self.finish()

    def tick(self) -> None:
        assert self.rate is not None
        now = time.perf_counter()
        while self.started + len(self.due) < self.total:
            at = self.first + (self.started + len(self.due)) / self.rate
            if at > now:
                self.loop.call_later(at - now, self.tick)
                break
            self.due.append(at)
        while self.due and self.idle:
            self.next(self.idle.popleft(), self.due.popleft())

    def next(self, line: Line, began: float) -> None:
        if self.started >= self.total:
            return
        line.began = began
        turn = self.started
        self.started += 1
        if self.flow == "redeem":
            issued = self.issued.popleft()
            line.player, line.redeeming = issued.player, True
            line.transport.write(issued.request)
        elif self.flow == "read":
            line.transport.write(READ)
        else:
            line.player, line.redeeming = self.players[turn % len(self.players)], False
            line.transport.write(line.player.read if self.flow == "read_me" else line.player.complete)

    def answered(self, line: Line, status: bytes, body: bytes) -> None:
        self.answers += 1
        if status != b"200":
            self.errors[status.decode()] += 1
        elif self.flow in ("complete", "both") and not line.redeeming:
            assert line.player is not None
            data = json.loads(body)["data"]
            action = b'{"actionId":"%b"}' % data["actionId"].encode()
            head = b"%bX-Score-Token: %b\r\nContent-Length: %d\r\n\r\n"
            request = head % (line.player.redeem, data["scoreToken"].encode(), len(action)) + action
            if self.flow == "both":
                line.redeeming = True
                line.transport.write(request)
                return
            self.issued.append(Issued(line.player, request))
        elif self.rate is not None and line.redeeming:
            data = json.loads(body)["data"]
            self.paid.append((time.monotonic(), data["userId"], data["newScore"]))
        now = time.perf_counter()
        if status == b"200":
            self.latencies.append((now - line.began) * 1000)
        self.ended += 1
        if self.ended >= self.total:
            self.finish()
        elif self.rate is None:
            self.next(line, now)
        elif self.due:
            self.next(line, self.due.popleft())
        else:
            self.idle.append(line)

    def lost(self, line: Line) -> None:
        if not self.done.done():
            self.errors["connection lost"] += 1
            self.ended += 1
            if self.ended >= self.total:
                self.finish()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    players: list[Player] = []
    issued: deque[Issued] = deque()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        if command["do"] == "players":
            players = [Player.known(player["id"], player["token"]) for player in command["players"]]
            issued.clear()
            say({"players": len(players)})
            continue
        if command["flow"] == "redeem" and len(issued) < command["total"]:
            say({"problem": f"only {len(issued)} score tokens are left of {command['total']}"})
            continue
        load = Load(command["flow"], command["total"], players, issued, loop, command.get("rate"))
        load.done = loop.create_future()
        await load.connect(command["port"], command["connections"])
        say({"ready": True})
        await loop.run_in_executor(None, sys.stdin.readline)
        say(await load.run())


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve())

"""The players: each worker completes an action, redeems its token until the answer is definite, and begins again."""

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

from chaos.history import FAIL, INFO, OK, Attempt, Call, History
from chaos.http_line import Answer, HttpLine, NoAnswer
from chaos.stage import Player, Stage

API = "/api/v1"
THINK = 0.1  # s, on average between two attempts of a worker: two cores carry the servers, PostgreSQL and us
TRY_AGAIN = (0.2, 0.8)  # s between two tries to learn an unknown outcome
AGAIN_ODDS = 0.05  # how often an old, settled token is redeemed once more
# A player's next points would mend what the Redis board lacks of them. So most are quiet: healing must do it.
SHIFTS, SHIFT_SECONDS = 4, 5.0
LOOK_EVERY = 0.25  # s between two looks at the board, for each reader
READERS = 2
ACTION_TYPES = ("task_finish",)


@dataclass(frozen=True, slots=True)
class Issued:
    """A score token in a player's hands."""

    player: Player
    attempt: Attempt
    token: str


class Hand:
    """One client with its connections and its dice. Every call that it makes goes into the history."""

    def __init__(self, stage: Stage, history: History, name: str) -> None:
        self.stage, self.history = stage, history
        self.dice = random.Random(name)  # noqa: S311 (repeatable on purpose)
        self.lines = [HttpLine(server.port) for server in stage.servers]

    async def complete(self) -> Issued | None:
        """A completed action; None where it was not answered with a token."""
        shift = int(self.history.now() / SHIFT_SECONDS) % SHIFTS
        player = self.dice.choice(self.stage.players[shift::SHIFTS] or self.stage.players)
        call = self._new_call("complete", player)
        body = {"actionType": self.dice.choice(ACTION_TYPES), "actionData": {"chaos": True}}
        answer = await self._ask(call, "POST", "/actions/complete", _bearer(player), body)
        if answer is None or answer.status != 200:
            return None
        call.action = answer.data["actionId"]
        attempt = Attempt(player.id, call.action, answer.data["pointsEarned"], call.ended)
        self.history.attempts.append(attempt)
        return Issued(player, attempt, answer.data["scoreToken"])

    async def settle(self, issued: Issued) -> None:
        """Ask with the same token until the answer is definite."""
        attempt = issued.attempt
        while (call := await self.redeem(issued, "redeem")).outcome == INFO:
            if attempt.unknown_since is None:
                attempt.unknown_since = call.ended
            await asyncio.sleep(self.dice.uniform(*TRY_AGAIN))
        attempt.outcome, attempt.settled = call.outcome, call.ended

    async def redeem(self, issued: Issued, what: str) -> Call:
        call = self._new_call(what, issued.player)
        call.action = issued.attempt.action
        headers = {**_bearer(issued.player), "X-Score-Token": issued.token}
        answer = await self._ask(call, "POST", "/scores/update", headers, {"actionId": call.action})
        if answer is not None:
            call.receipt = answer.data if answer.status == 200 else (answer.error.get("details") or {}).get("redemption")
            call.outcome = outcome(call)
        return call

    async def look(self) -> None:
        await self._ask(self._new_call("board"), "GET", "/scores/leaderboard", {}, None)

    def close(self) -> None:
        for line in self.lines:
            line.close()

    def _new_call(self, what: str, player: Player | None = None) -> Call:
        return Call(what, self.dice.randrange(len(self.lines)), self.history.now(), 0.0, INFO, player=player.id if player else "")

    async def _ask(self, call: Call, method: str, path: str, headers: dict[str, str], body: Any) -> Answer | None:
        """One request to the call's server; None where no answer came."""
        answer: Answer | None = None
        try:
            answer = await self.lines[call.server].call(method, API + path, headers, body)
            call.status, call.code = answer.status, answer.error.get("code", "")
            call.retry_after = answer.headers.get("retry-after")
            call.outcome = OK if answer.status == 200 else INFO if answer.status >= 500 else FAIL
        except NoAnswer as problem:
            call.code = type(problem).__name__
        call.ended = self.history.now()
        self.history.calls.append(call)
        return answer


class Load:
    """`workers` hands that earn points, and two that read the board. Ends by `finish`."""

    def __init__(self, stage: Stage, history: History, workers: int, seed: int) -> None:
        self.stopping = False
        self.settled: deque[Issued] = deque(maxlen=400)  # by whichever worker
        hands = [self._work(Hand(stage, history, f"{seed} worker {number}")) for number in range(workers)]
        hands += [self._read(Hand(stage, history, f"{seed} reader {number}")) for number in range(READERS)]
        self.tasks = [asyncio.create_task(hand) for hand in hands]

    async def finish(self, seconds: float) -> None:
        """No new attempts; those under way may take `seconds` to become definite."""
        self.stopping = True
        _done, late = await asyncio.wait(self.tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self.check()

    def check(self) -> None:
        """Raises what ended a worker before its time: a fault of ours must not pass for a quiet run."""
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _work(self, hand: Hand) -> None:
        while not self.stopping:
            if self.settled and hand.dice.random() < AGAIN_ODDS:
                await hand.redeem(hand.dice.choice(self.settled), "again")
            elif issued := await hand.complete():
                await hand.settle(issued)
                if issued.attempt.outcome == OK:
                    self.settled.append(issued)
            await asyncio.sleep(hand.dice.uniform(0, 2 * THINK))
        hand.close()

    async def _read(self, hand: Hand) -> None:
        while not self.stopping:
            await hand.look()
            await asyncio.sleep(hand.dice.uniform(0, 2 * LOOK_EVERY))
        hand.close()


def outcome(call: Call) -> str:
    """What an answered redemption means: `ok` where it says that the points are in, now or from an earlier try."""
    if call.status == 200 or (call.status in (403, 409) and call.receipt):
        return OK
    return INFO if call.status >= 500 or call.status == 429 else FAIL


def _bearer(player: Player) -> dict[str, str]:
    return {"Authorization": f"Bearer {player.token}"}

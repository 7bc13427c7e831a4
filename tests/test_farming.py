"""A farming bot: signed in, parallel, patient, and it even knows the right answers. What is the most it can get?"""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import F
from django.utils import timezone

from actions.models import ActionLog, ActionTally, ActionType, QuizAttempt
from leaderboard.models import Player, Score, ScoreEntry
from scoreboard_project.redis_client import client as redis_client
from tests.conftest import Api, make_player

ROUNDS, ROUND_SECONDS = 30, 20  # 10 minutes
MINUTE_LIMIT = 10

_AGE_WINDOWS = """
for _, key in ipairs(KEYS) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
end
"""


def pass_time(seconds: int) -> None:
    """The clocks are PostgreSQL's and Redis's: what is on record there grows older."""
    ago = timedelta(seconds=seconds)
    ActionTally.objects.update(last_at=F("last_at") - ago)
    ActionLog.objects.update(created_at=F("created_at") - ago, expires_at=F("expires_at") - ago)
    QuizAttempt.objects.update(started_at=F("started_at") - ago, expires_at=F("expires_at") - ago)
    if keys := list(redis_client().scan_iter("{limits}:*")):
        redis_client().eval(_AGE_WINDOWS, len(keys), *keys, seconds * 1000)


class Bot:
    """One account. `greed`: how many times it sends each call, in parallel."""

    def __init__(self, api: Api, player: Player, greed: int):
        self.api, self.player, self.greed = api, player, greed
        self.done: list[tuple[int, str]] = []  # (simulated second, action type) of each completion that was accepted
        self.paid: list[int] = []
        self.tokens: list[dict[str, Any]] = []
        self.limited = 0

    async def begin(self) -> None:
        asked = {"json": {"actionType": "quiz_complete"}}
        await asyncio.gather(*(self.api.call("POST", "/actions/start", who=self.player, **asked) for _ in range(self.greed)))

    async def farm(self, now: int) -> None:
        attempt = await QuizAttempt.objects.filter(player=self.player, answered_at=None).afirst()
        answers = {str(q["id"]): q["right"] for q in attempt.questions} if attempt else {}
        evidence = {"attemptId": str(attempt.pk) if attempt else None, "answers": answers, "points": 10_000}
        wishes = [("quiz_complete", evidence), ("daily_login", {}), ("task_finish", {"amount": 10_000})]
        tries = [
            (kind, self.api.complete(self.player, kind, actionData=data)) for kind, data in wishes for _ in range(self.greed)
        ]
        answered = await asyncio.gather(*(asking for _, asking in tries))
        for (kind, _), answer in zip(tries, answered, strict=True):
            assert answer.status_code in (200, 400, 403, 429), answer.text
            self.limited += answer.status_code == 429
            if answer.status_code == 200:
                self.done.append((now, kind))
                self.tokens.append(answer.json()["data"])

    async def redeem_all(self, now: int) -> None:
        """Its latest tokens, each as often as greed wants."""
        tries = [self.api.redeem(self.player, token) for token in self.tokens[-4:] for _ in range(self.greed)]
        self.paid += [now for answer in await asyncio.gather(*tries) if answer.status_code == 200]


def most_in_a_minute(seconds: list[int]) -> int:
    return max(sum(at <= other < at + 60 for other in seconds) for at in seconds)


async def test_ten_minutes_of_farming_stay_within_the_documented_caps(api, world):
    bots = [Bot(api, await sync_to_async(make_player)(f"bot{place}"), greed) for place, greed in enumerate((1, 1, 2, 3, 5))]
    types = {kind.slug: kind async for kind in ActionType.objects.exclude(slug="level_up")}
    days = {timezone.now().date()}
    busy, left = bots[1], 4  # has been at it all morning
    spent = {"day": timezone.now().date(), "last_at": timezone.now() - timedelta(hours=1)}
    spent["count"] = types["task_finish"].daily_cap - left
    await ActionTally.objects.acreate(player=busy.player, action_type=types["task_finish"], **spent)
    for now in range(0, ROUNDS * ROUND_SECONDS, ROUND_SECONDS):
        await asyncio.gather(*(bot.begin() for bot in bots))
        await sync_to_async(pass_time)(ROUND_SECONDS)
        await asyncio.gather(*(bot.farm(now) for bot in bots))
        await asyncio.gather(*(bot.redeem_all(now) for bot in bots))
    days.add(timezone.now().date())

    for bot in bots:
        counts = Counter(kind for _, kind in bot.done)
        assert counts["daily_login"] == len(days)
        assert 0 < counts["quiz_complete"] <= types["quiz_complete"].daily_cap * len(days)
        assert 0 < counts["task_finish"] <= types["task_finish"].daily_cap * len(days)
        moments = Counter(now for now, kind in bot.done if kind == "task_finish")
        assert max(moments.values()) == 1  # one volley lasts less than the cooldown
        assert most_in_a_minute([now for now, _ in bot.done]) <= MINUTE_LIMIT
        worth = [types[kind].points for _, kind in bot.done]
        lines = [line.points async for line in ScoreEntry.objects.filter(player=bot.player)]
        assert len(lines) == len(bot.paid) <= len(worth)
        assert (await Score.objects.aget(player=bot.player)).total_score == sum(lines) <= sum(worth)
    # So caps and limits were met, and not only never reached.
    patient, greedy = bots[0], bots[-1]
    assert Counter(kind for _, kind in patient.done)["quiz_complete"] == types["quiz_complete"].daily_cap
    assert greedy.limited > 100
    assert len(days) > 1 or Counter(kind for _, kind in busy.done)["task_finish"] == left


async def test_a_bot_that_keeps_just_clear_of_the_cooldown_meets_the_limit_of_a_minute(api, alice):
    accepted = []
    for now in range(0, 180, 3):
        if (answer := await api.complete(alice, "task_finish")).status_code == 200:
            accepted.append(now)
            assert (await api.redeem(alice, answer.json()["data"])).status_code == 200
        await sync_to_async(pass_time)(3)
    assert most_in_a_minute(accepted) == MINUTE_LIMIT
    assert (await Score.objects.aget(player=alice)).total_score == 50 * len(accepted) == 50 * 3 * MINUTE_LIMIT

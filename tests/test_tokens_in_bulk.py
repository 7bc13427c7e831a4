"""Tokens in other hands, and tokens that a stolen key has signed, by the thousand: none is paid, and no owner loses anything.

TOKENS=10000 python3 run.py test tests/test_tokens_in_bulk.py    the full size; 600 is the default
"""

import asyncio
import os
import random
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from actions.models import ActionLog, Flag
from actions.score_tokens import Claim, sign
from leaderboard.models import Player, Score, ScoreEntry
from tests.conftest import Api, code, make_player

TOKENS = int(os.environ.get("TOKENS", "600"))
NEVER_ISSUED = max(60, TOKENS // 10)
PLAYERS, AT_ONCE = 20, 50

Held = tuple[Player, dict[str, Any]]


def signed(log: ActionLog) -> dict[str, Any]:
    claim = Claim(log.token_id, log.action_id, log.player_id, log.points)
    token = sign(claim, issued_at=timezone.now(), expires_at=log.expires_at)
    return {"scoreToken": token, "actionId": str(log.action_id)}


@pytest.fixture
def players(world) -> list[Player]:
    return [make_player(f"p{number:02}") for number in range(PLAYERS)]


@pytest.fixture
def issued(players) -> list[Held]:
    """(owner, token) of tokens that are on record as issued, and good for an hour."""
    common = {
        "action_type_id": "level_up",
        "points": 100,
        "request_id": "bulk",
        "expires_at": timezone.now() + timedelta(hours=1),
    }
    logs = [ActionLog(token_id=uuid.uuid4(), player=players[at % PLAYERS], **common) for at in range(TOKENS)]
    ActionLog.objects.bulk_create(logs, batch_size=1_000)
    return [(players[at % PLAYERS], signed(log)) for at, log in enumerate(logs)]


async def redeemed(api: Api, tries: list[Held]) -> Counter[tuple[int, str]]:
    """How often which answer came; a 503 of a machine that is too busy is no answer, and asked again."""
    answers: Counter[tuple[int, str]] = Counter()
    while tries:
        now, tries = tries[:AT_ONCE], tries[AT_ONCE:]
        for held, answer in zip(now, await asyncio.gather(*(api.redeem(*held) for held in now)), strict=True):
            if answer.status_code == 503:
                tries.append(held)
            else:
                answers[(200, "") if answer.status_code == 200 else code(answer)] += 1
    return answers


@pytest.mark.timeout(60 + TOKENS // 10)
async def test_nobody_is_paid_for_another_s_tokens_and_every_owner_is(api, players, issued, no_limits):
    thieves = [
        (players[(players.index(owner) + 1 + at % (PLAYERS - 1)) % PLAYERS], token) for at, (owner, token) in enumerate(issued)
    ]
    assert all(thief != owner for (thief, _), (owner, _) in zip(thieves, issued, strict=True))
    assert await redeemed(api, thieves) == {(403, "TOKEN_USER_MISMATCH"): TOKENS}
    assert not await ScoreEntry.objects.aexists()
    sample = random.Random(1).sample(issued, min(TOKENS, 500))
    assert await redeemed(api, sample) == {(200, ""): len(sample)}
    assert sum([score.total_score async for score in Score.objects.all()]) == 100 * len(sample)


@pytest.mark.timeout(60 + TOKENS // 10)
async def test_what_a_stolen_key_signs_is_not_paid_and_raises_a_flag(api, players, issued, no_limits):
    def made_up(at: int) -> Held:
        """Nothing of it on record; or a completion on record with another token, another owner, or more points."""
        thief = players[(at + 1) % PLAYERS]  # whose the completion at this place is not
        invented = ActionLog(token_id=uuid.uuid4(), player=thief, points=100, expires_at=timezone.now() + timedelta(minutes=1))
        if known := at % 4:
            real = ActionLog.objects.get(pk=issued[at % TOKENS][1]["actionId"])
            invented.action_id = real.action_id
            if known == 1:
                thief = invented.player = real.player
            else:
                invented.token_id = real.token_id
            if known == 3:
                thief = invented.player = real.player
                invented.points = 10_000
        return thief, signed(invented)

    tries = await sync_to_async(lambda: [made_up(at) for at in range(NEVER_ISSUED)])()
    assert await redeemed(api, tries) == {(400, "INVALID_TOKEN"): NEVER_ISSUED}
    assert not await ScoreEntry.objects.aexists()
    flagged = {flag.subject async for flag in Flag.objects.filter(kind=Flag.Kind.NEVER_ISSUED)}
    assert flagged == {str(thief.pk) for thief, _ in tries}
    assert await redeemed(api, issued[:40]) == {(200, ""): 40}

"""`POST /actions/complete`: what the server recognises, and what it does not."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from django.utils import timezone

from actions import completion
from actions.models import ActionLog, ActionTally, ActionType
from leaderboard import moderation
from leaderboard.models import ScoreEntry
from tests.conftest import code


@pytest.mark.parametrize(("action_type", "points"), [("level_up", 100), ("task_finish", 50), ("daily_login", 10)])
async def test_the_catalogue_decides_the_points(api, alice, action_type, points):
    issued = await api.issued(alice, action_type)
    assert issued["pointsEarned"] == points
    assert set(issued) == {"scoreToken", "pointsEarned", "tokenExpiresAt", "actionId"}
    left = datetime.fromisoformat(issued["tokenExpiresAt"]) - datetime.now(UTC)
    assert timedelta(seconds=55) < left <= timedelta(seconds=60)
    assert not await ScoreEntry.objects.aexists()  # completing pays nothing yet


async def test_a_completion_is_on_record_before_its_token_is_out(api, alice):
    before = timezone.now()
    answer = await api.complete(alice, actionData={"level": 3}, clientTimestamp="2001-01-10T10:30:00.000Z")
    log = await ActionLog.objects.aget(action_id=answer.json()["data"]["actionId"])
    assert (log.player_id, log.action_type_id, log.points, log.data) == (alice.pk, "level_up", 100, {"level": 3})
    assert log.client_timestamp == datetime(2001, 1, 10, 10, 30, tzinfo=UTC)
    assert log.created_at >= before - timedelta(seconds=1)  # the server's clock, not the client's
    assert log.request_id == answer.headers["X-Request-ID"]
    token = jwt.decode(answer.json()["data"]["scoreToken"], options={"verify_signature": False})
    assert token["jti"] == log.token_id.hex


@pytest.mark.parametrize("extra", ["points", "score", "userId", "is_staff", "__proto__"])
async def test_nothing_in_the_body_can_raise_the_points(api, alice, extra):
    assert code(await api.complete(alice, **{extra: 999_999})) == (400, "INVALID_ACTION_DATA")
    assert not await ActionLog.objects.aexists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"actionType": None},
        {"actionType": 5},
        {"actionType": ["level_up"]},
        {"actionType": {"a": 1}},
        {"actionType": "x" * 10_000},
        {"actionType": "quiz complete"},
        {"actionType": "quiz_complete\n"},
        {"actionType": "level_up", "actionData": "text"},
        {"actionType": "level_up", "actionData": [1]},
        {"actionType": "level_up", "clientTimestamp": "yesterday"},
        [],
        "text",
        None,
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused(api, alice, body):
    answer = await api.call(
        "POST", "/actions/complete", who=alice, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert code(answer) == (400, "INVALID_ACTION_DATA")


async def test_an_unknown_or_switched_off_action_is_not_allowed(api, alice):
    assert code(await api.complete(alice, "no_such_thing")) == (403, "ACTION_NOT_ALLOWED")
    assert code(await api.complete(alice, "QUIZ_COMPLETE")) == (403, "ACTION_NOT_ALLOWED")
    await ActionType.objects.filter(slug="task_finish").aupdate(enabled=False)
    assert code(await api.complete(alice, "task_finish")) == (403, "ACTION_NOT_ALLOWED")


async def test_a_suspended_player_completes_nothing(api, alice, moderator):
    from asgiref.sync import sync_to_async

    await sync_to_async(moderation.suspend)(player_id=alice.pk, moderator=moderator, reason="cheating")
    answer = await api.complete(alice)
    assert code(answer) == (403, "ACTION_NOT_ALLOWED")
    assert answer.json()["error"]["details"] == {"reason": "suspended"}


async def test_nobody_completes_anything_without_an_account_in_force(api, alice):
    assert code(await api.call("POST", "/actions/complete", json={"actionType": "level_up"})) == (401, "UNAUTHORIZED")
    alice.is_active = False
    await alice.asave()
    assert code(await api.complete(alice)) == (401, "UNAUTHORIZED")


@pytest.fixture
def high_limits(settings):
    """Not 0, which would switch pacing off."""
    settings.ACTION_RATE_LIMIT = settings.SCORE_RATE_LIMIT = 1_000


async def test_the_daily_cap_holds_against_any_number_of_parallel_calls(api, alice, high_limits):
    await ActionType.objects.filter(slug="task_finish").aupdate(cooldown_seconds=0, daily_cap=1)
    answers = await asyncio.gather(*(api.complete(alice, "task_finish") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 19
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert refused.json()["error"]["details"] == {"reason": "daily_cap"}
    assert await ActionLog.objects.acount() == 1


async def test_the_cap_counts_a_utc_day(api, alice, high_limits):
    await ActionType.objects.filter(slug="task_finish").aupdate(cooldown_seconds=0, daily_cap=1)
    await api.issued(alice, "task_finish")
    yesterday = (timezone.now() - timedelta(days=1)).date()
    await ActionTally.objects.aupdate(day=yesterday)
    await api.issued(alice, "task_finish")
    assert code(await api.complete(alice, "task_finish")) == (403, "ACTION_NOT_ALLOWED")
    # A clock that was set back does not open a new day.
    await ActionTally.objects.aupdate(day=(timezone.now() + timedelta(days=1)).date())
    assert code(await api.complete(alice, "task_finish")) == (403, "ACTION_NOT_ALLOWED")


async def test_a_cooldown_says_how_long_it_lasts(api, alice, bob, high_limits):
    await ActionType.objects.filter(slug="task_finish").aupdate(cooldown_seconds=30)
    await api.issued(alice, "task_finish")
    await api.issued(bob, "task_finish")
    answer = await api.complete(alice, "task_finish")
    assert code(answer) == (403, "ACTION_NOT_ALLOWED")
    details = answer.json()["error"]["details"]
    assert details["reason"] == "cooldown"
    assert 25 <= details["retryAfterSeconds"] <= 30
    await ActionTally.objects.aupdate(last_at=timezone.now() - timedelta(seconds=31))
    await api.issued(alice, "task_finish")


async def test_the_limit_on_completions_switched_off_switches_pacing_off(api, alice, no_limits):
    await ActionType.objects.filter(slug="task_finish").aupdate(cooldown_seconds=30, daily_cap=1)
    for _ in range(3):
        await api.issued(alice, "task_finish")
    await api.issued(alice, "daily_login")  # what counts once still does
    assert code(await api.complete(alice, "daily_login")) == (403, "ACTION_NOT_ALLOWED")


async def test_ten_completions_a_minute_and_the_eleventh_is_told_when(api, alice, bob):
    for _ in range(10):
        await api.issued(alice)
    answer = await api.complete(alice)
    assert code(answer) == (429, "RATE_LIMITED")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    await api.issued(bob)  # a limit is a player's own
    assert await ActionLog.objects.filter(player=alice).acount() == 10


async def test_a_batch_serves_each_of_its_callers_separately(api, alice, bob, mallory, high_limits):
    await ActionType.objects.filter(slug="task_finish").aupdate(cooldown_seconds=0, daily_cap=2)
    calls = [api.complete(who, kind) for who in (alice, bob, mallory) for kind in ["task_finish"] * 4 + ["nope", "level_up"]]
    answers = [answer.status_code for answer in await asyncio.gather(*calls)]
    for start in (0, 6, 12):
        assert sorted(answers[start : start + 4]) == [200, 200, 403, 403]
        assert answers[start + 4 : start + 6] == [403, 200]


async def test_a_completion_that_postgresql_chokes_on_costs_its_neighbours_no_second_charge(
    api, alice, bob, settings, monkeypatch
):
    settings.ACTION_RATE_LIMIT = 2
    recorded = completion._recorded

    def choking(items):
        if any(item.action_type == "task_finish" for item in items):
            raise ValueError("chokes")
        return recorded(items)

    monkeypatch.setattr(completion, "_recorded", choking)
    answers = await asyncio.gather(*(api.complete(who, kind) for who, kind in [(alice, "task_finish"), (bob, "level_up")] * 2))
    assert [answer.status_code for answer in answers] == [500, 200, 500, 200]

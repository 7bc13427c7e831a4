"""The alerts: each is a flag for staff, a WARNING line and a counter, once while it is open; nobody is blocked by one."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db.models.functions import Now
from django.utils import timezone
from prometheus_client import REGISTRY

from actions import watch
from actions.models import ActionLog, AlertDelivery, Flag
from leaderboard import closing, healing, moderation, sample_players
from leaderboard.models import Player, ScoreEntry
from scoreboard_project import background, limits
from scoreboard_project.errors import Unavailable
from scoreboard_project.redis_client import client
from tests.conftest import code, server_environment
from tests.test_redemption import forged


def gained(player: Player, points: int, seconds_ago: float = 0) -> None:
    """A line of the ledger, paid some time ago on PostgreSQL's clock."""
    moment = Now() - timedelta(seconds=seconds_ago)
    ScoreEntry.objects.create(player=player, points=points, score_after=points, source=uuid.uuid4(), created_at=moment)


def completed(player: Player, times: int, seconds_ago: float = 0) -> None:
    moment, later = Now() - timedelta(seconds=seconds_ago), Now() + timedelta(minutes=1)
    ActionLog.objects.bulk_create(
        ActionLog(
            token_id=uuid.uuid4(), player=player, action_type_id="daily_login", points=10, created_at=moment, expires_at=later
        )
        for _ in range(times)
    )


def counted(kind: str) -> float:
    return REGISTRY.get_sample_value("scoreboard_alerts_total", {"kind": kind}) or 0


@pytest.fixture
def news(caplog: Any) -> Callable[[], list[dict[str, Any]]]:
    """What the log has said at WARNING since the last call."""
    seen = 0

    def fresh() -> list[dict[str, Any]]:
        nonlocal seen
        lines = [record.msg for record in caplog.records if record.levelname == "WARNING" and isinstance(record.msg, dict)]
        seen, new = len(lines), lines[seen:]
        return [line for line in new if line["event"] == "alert"]

    return fresh


def flags() -> set[tuple[str, str]]:
    """The open ones. Of each kind and subject there is at most one: a constraint."""
    return set(Flag.objects.filter(closed_at=None).values_list("kind", "subject"))


# --- Over 1000 points within a minute ---------------------------------------------------------------------------------


def test_over_1000_points_within_a_minute_is_a_flag_a_warning_and_a_count(alice, bob, news):
    before = counted("fast_gain")
    gained(alice, 600, 50)
    gained(alice, 401, 1)
    gained(bob, 400, 1)
    watch.sweep()
    flag = Flag.objects.get()
    assert (flag.kind, flag.subject, flag.player, flag.closed_at) == ("fast_gain", str(alice.pk), alice, None)
    assert flag.evidence == {"pointsInAMinute": 1001, "threshold": 1000}
    assert timezone.now() - flag.raised_at < timedelta(seconds=5)
    [line] = news()
    assert (line["kind"], line["subject"], line["pointsInAMinute"]) == ("fast_gain", str(alice.pk), 1001)
    assert counted("fast_gain") == before + 1


def test_many_at_once_are_as_many_flags_in_as_few_statements_as_one(alice, news, django_assert_max_num_queries, settings):
    settings.ALERT_WEBHOOK_URL = "https://alerts.example.org/"
    crowd = sample_players.make(sample_players.names(40))
    for player in [alice, *crowd]:
        gained(player, 1001)
    with django_assert_max_num_queries(12):  # 5 of them savepoints and looks at the rest
        watch.sweep()
    assert flags() == {("fast_gain", str(player.pk)) for player in [alice, *crowd]}
    assert {line["subject"] for line in news()} == {subject for _, subject in flags()}
    assert AlertDelivery.objects.count() == 41


def test_1000_points_within_a_minute_are_none(alice, news):
    gained(alice, 600, 50)
    gained(alice, 400, 1)
    watch.sweep()
    assert not flags()
    assert not news()


def test_the_minute_is_a_sliding_one(alice, bob):
    gained(alice, 600, 62)  # 57 seconds apart, and the first is over a minute ago by now
    gained(alice, 600, 5)
    gained(bob, 600, 68)  # 63 seconds apart
    gained(bob, 600, 5)
    watch.sweep()
    assert flags() == {("fast_gain", str(alice.pk))}


def test_a_burst_is_seen_by_a_sweep_that_comes_late(alice):
    gained(alice, 600, 40)
    gained(alice, 600, 12)
    gained(alice, 10, 0)
    watch.sweep()
    assert Flag.objects.get().evidence["pointsInAMinute"] == 1210


def test_points_of_several_players_are_not_added_up(alice, bob):
    gained(alice, 900)
    gained(bob, 900)
    watch.sweep()
    assert not flags()


def test_what_staff_adjusts_is_no_gain(alice, moderator):
    moderation.adjust(player_id=alice.pk, points=10_000, moderator=moderator, reason="a contest")
    gained(alice, 1000)
    watch.sweep()
    assert not flags()


# --- Over 100 actions within an hour ----------------------------------------------------------------------------------


def test_over_100_completed_actions_within_an_hour_are_a_flag_a_warning_and_a_count(alice, bob, news):
    before = counted("many_actions")
    completed(alice, 100, 3_500)
    completed(alice, 1)
    completed(bob, 100)
    watch.sweep()
    flag = Flag.objects.get()
    assert (flag.kind, flag.player) == ("many_actions", alice)
    assert flag.evidence == {"actionsInAnHour": 101, "threshold": 100}
    [line] = news()
    assert (line["kind"], line["subject"], line["actionsInAnHour"]) == ("many_actions", str(alice.pk), 101)
    assert counted("many_actions") == before + 1


def test_100_actions_within_an_hour_and_any_number_before_are_none(alice):
    completed(alice, 200, 3_650)
    completed(alice, 99, 1_800)
    completed(alice, 1)
    watch.sweep()
    assert not flags()


# --- Over 20 failed redemptions within 5 minutes ----------------------------------------------------------------------


async def fail(api: Any, who: Player, times: int = 1, **headers: str) -> None:
    sent = {"X-Score-Token": "rubbish", **{name.replace("_", "-"): value for name, value in headers.items()}}
    for _ in range(times):
        answer = await api.call("POST", "/scores/update", who=who, headers=sent, json={"actionId": str(uuid.uuid4())})
        assert code(answer) == (400, "INVALID_TOKEN")


aflags = sync_to_async(flags)


async def test_over_20_failed_redemptions_are_a_flag_for_the_player_and_one_for_the_address(api, alice, news):
    before = counted("failed_redemptions")
    await fail(api, alice, 20)
    assert await aflags() == set()
    assert not news()
    await fail(api, alice, 1, X_Request_ID="the-21st")
    assert await aflags() == {("failed_redemptions", "127.0.0.1"), ("failed_redemptions", str(alice.pk))}
    of_player = await Flag.objects.select_related("player").aget(subject=alice.pk)
    assert of_player.player == alice
    assert of_player.evidence == {"lastCode": "INVALID_TOKEN", "threshold": 20, "address": "127.0.0.1"}
    assert (await Flag.objects.aget(subject="127.0.0.1")).player_id is None
    lines = news()
    assert {line["subject"] for line in lines} == {str(alice.pk), "127.0.0.1"}
    assert {line["request_id"] for line in lines} == {"the-21st"}
    assert counted("failed_redemptions") == before + 2


async def test_many_players_of_one_address_are_a_flag_for_the_address(api, alice, bob, mallory):
    for who in (alice, bob, mallory):
        await fail(api, who, 7)
    assert await aflags() == {("failed_redemptions", "127.0.0.1")}


async def test_one_player_at_many_addresses_is_a_flag_for_the_player(api, alice, settings):
    settings.TRUSTED_PROXY_HOPS = 1
    for i in range(21):
        await fail(api, alice, 1, X_Forwarded_For=f"192.0.2.{i}")
    assert await aflags() == {("failed_redemptions", str(alice.pk))}


async def test_failures_of_more_than_5_minutes_ago_are_forgotten(api, alice):
    seconds, _ = client().time()
    for subject in (str(alice.pk), "127.0.0.1"):
        key = limits.Take("failed", subject, 20).key
        client().zadd(key, {f"{i} failures ago": (seconds - 302 + i) * 1000 for i in range(20)})
    await fail(api, alice)
    assert await aflags() == set()
    await fail(api, alice, 5)
    assert len(await aflags()) == 2


async def test_only_what_the_token_is_to_blame_for_counts(api, alice, mallory, moderator, settings):
    settings.SCORE_RATE_LIMIT = 0
    issued, spent, late = await api.issued(alice), await api.issued(alice), await api.issued(alice)
    await api.redeem(alice, spent)
    await ActionLog.objects.filter(action_id=late["actionId"]).aupdate(expires_at=timezone.now())

    def kept() -> int:
        return client().zcard(limits.Take("failed", "127.0.0.1", 20).key)

    assert code(await api.redeem(None, issued))[1] == "UNAUTHORIZED"
    assert (await api.redeem(alice, await api.issued(alice))).status_code == 200
    assert kept() == 0
    assert code(await api.redeem(mallory, issued))[1] == "TOKEN_USER_MISMATCH"
    assert code(await api.redeem(alice, spent))[1] == "TOKEN_ALREADY_USED"
    assert code(await api.redeem(alice, late))[1] == "TOKEN_EXPIRED"
    assert kept() == 3
    await sync_to_async(moderation.suspend)(player_id=alice.pk, moderator=moderator, reason="x")
    assert code(await api.redeem(alice, issued))[1] == "ACTION_NOT_ALLOWED"
    settings.SCORE_RATE_LIMIT = 1
    await api.redeem(mallory, issued)
    assert code(await api.redeem(mallory, issued))[1] == "RATE_LIMITED"
    assert kept() == 4


async def test_failures_in_the_name_of_a_deleted_player_are_refused_and_flagged_all_the_same(api, alice):
    await Player.objects.filter(pk=alice.pk).adelete()
    await fail(api, alice, 22)
    assert await aflags() == {("failed_redemptions", "127.0.0.1"), ("failed_redemptions", str(alice.pk))}


# --- Our signature on what we never issued ----------------------------------------------------------------------------


async def test_our_signature_on_what_we_never_issued_is_a_flag_a_warning_and_a_count_at_once(api, alice, news):
    before = counted("never_issued")
    action_id = uuid.uuid4()
    minted = forged((await api.issued(alice))["scoreToken"], act=action_id.hex, jti=uuid.uuid4().hex)
    headers = {"X-Score-Token": minted, "X-Request-ID": "with-the-leaked-key"}
    answer = await api.call("POST", "/scores/update", who=alice, headers=headers, json={"actionId": str(action_id)})
    assert code(answer) == (400, "INVALID_TOKEN")
    flag = await Flag.objects.select_related("player").aget()
    assert (flag.kind, flag.player, flag.evidence) == ("never_issued", alice, {"actionId": str(action_id)})
    [line] = news()
    assert (line["kind"], line["subject"], line["actionId"]) == ("never_issued", str(alice.pk), str(action_id))
    assert line["request_id"] == "with-the-leaked-key"
    assert counted("never_issued") == before + 1


async def test_such_a_token_costs_nobody_else_in_its_batch_their_answer(api, bob, no_limits):
    issued = [await api.issued(bob) for _ in range(6)]
    action_id = uuid.uuid4()
    minted = forged(issued[0]["scoreToken"], act=action_id.hex, jti=uuid.uuid4().hex)
    forgeries = [{"scoreToken": minted, "actionId": str(action_id)}] * 6
    calls = [api.redeem(bob, one) for pair in zip(issued, forgeries, strict=True) for one in pair]
    answers = [answer.status_code for answer in await asyncio.gather(*calls)]
    assert answers == [200, 400] * 6
    assert await aflags() == {("never_issued", str(bob.pk))}


# --- Once, until it is closed -----------------------------------------------------------------------------------------


def test_an_alert_is_raised_once_while_it_is_open_and_again_after_closing(alice, moderator, news):
    before = counted("fast_gain")
    gained(alice, 1001)
    for _ in range(3):
        watch.sweep()
    assert len(news()) == 1
    assert counted("fast_gain") == before + 1
    Flag.objects.update(closed_at=timezone.now(), closed_by=moderator)
    watch.sweep()
    watch.sweep()
    assert len(news()) == 1
    assert counted("fast_gain") == before + 2
    assert Flag.objects.count() == 2
    assert flags() == {("fast_gain", str(alice.pk))}


def test_what_is_flagged_already_is_neither_news_nor_an_error(alice, news):
    for _ in range(2):
        watch.never_issued(alice.pk, uuid.uuid4())
    assert flags() == {("never_issued", str(alice.pk))}
    assert len(news()) == 1


async def test_parallel_failures_raise_it_once_too(api, alice, news, no_limits):
    before = counted("failed_redemptions")
    await asyncio.gather(*(fail(api, alice) for _ in range(40)))
    assert len(await aflags()) == len(news()) == 2
    assert counted("failed_redemptions") == before + 2


async def test_an_alert_blocks_nobody(api, alice, no_limits):
    for kind in Flag.Kind:
        await Flag.objects.acreate(kind=kind, subject=str(alice.pk), player=alice)
    assert (await api.earn(alice))["newScore"] == 100


def test_an_alert_of_one_kind_hides_none_of_another_nor_of_another_player(alice, bob):
    gained(alice, 1001)
    completed(alice, 101)
    gained(bob, 1001)
    watch.sweep()
    assert flags() == {("fast_gain", str(alice.pk)), ("fast_gain", str(bob.pk)), ("many_actions", str(alice.pk))}


# --- Who looks --------------------------------------------------------------------------------------------------------


@contextmanager
def another_process_is_looking() -> Any:
    with psycopg.connect(server_environment(Path())["DATABASE_URL"]) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [watch._LOCK])
        yield
        other.rollback()


def test_one_process_looks_at_a_time_and_the_others_do_not_wait(alice):
    gained(alice, 1001)
    with another_process_is_looking():
        watch.sweep()
        assert not flags()
    watch.sweep()
    assert flags()


async def test_each_server_looks_by_itself(api, alice, no_limits, monkeypatch):
    monkeypatch.setattr(background, "WATCH_SECONDS", 0.05)
    tokens = [await api.issued(alice) for _ in range(11)]
    await asyncio.gather(*(api.redeem(alice, token) for token in tokens))
    async with asyncio.timeout(10):
        while await aflags() != {("fast_gain", str(alice.pk))}:
            await asyncio.sleep(0.05)
    assert (await Flag.objects.aget()).evidence["pointsInAMinute"] > 1000


def test_every_advisory_lock_has_a_number_of_its_own():
    assert len({watch._LOCK, closing._LOCK, healing._LOCK}) == 3


def test_a_large_adjustment_by_staff_is_a_flag_for_the_others(alice, bob, moderator):
    moderation.adjust(player_id=alice.pk, points=10_000, moderator=moderator, reason="as agreed")
    watch.sweep()
    assert not Flag.objects.exists()
    moderation.adjust(player_id=bob.pk, points=10_001, moderator=moderator, reason="as agreed")
    watch.sweep()
    watch.sweep()
    flag = Flag.objects.get()
    assert (flag.kind, flag.player) == ("large_adjustment", bob)
    assert flag.evidence == {"points": 10_001, "moderator": "moderator", "line": flag.evidence["line"]}


@pytest.fixture(autouse=True)
def nobody_is_left_alone():
    watch._quiet_until.clear()


def test_who_goes_on_failing_after_the_flag_costs_no_more_transactions(alice, django_assert_num_queries):
    for _ in range(21):
        watch.failed_redemption(alice.pk, "192.0.2.1", "INVALID_TOKEN")
    assert Flag.objects.count() == 2  # the player, and the address
    with django_assert_num_queries(0):
        for _ in range(20):
            watch.failed_redemption(alice.pk, "192.0.2.1", "INVALID_TOKEN")


def test_the_addresses_of_one_household_are_one_subject(alice, bob):
    for number in range(21):
        watch.failed_redemption(alice.pk if number % 2 else bob.pk, f"2001:db8::{number:x}", "INVALID_TOKEN")
    assert [flag.subject for flag in Flag.objects.all()] == ["2001:db8::/64"]


async def test_a_watch_that_is_away_changes_no_answer(api, alice, monkeypatch):
    def away(*_args):
        raise Unavailable

    monkeypatch.setattr(watch, "failed_redemption", away)
    issued = await api.issued(alice)
    assert code(await api.redeem(alice, issued, scoreToken=issued["scoreToken"][:-2])) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, issued)).status_code == 200

"""What it takes to be believed: a day that counts once, a quiz that the server marks, a game server's key."""

import asyncio
import uuid
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from actions import server_keys
from actions.kinds import KINDS
from actions.models import ActionLog, ActionType, Question, QuizAttempt, ServerKey
from leaderboard import moderation
from leaderboard.models import Score
from tests.conftest import code


@pytest.fixture
def high_limits(settings):
    settings.ACTION_RATE_LIMIT = settings.SCORE_RATE_LIMIT = 1_000


def reason(answer):
    return answer.json()["error"]["details"]["reason"]


# --- once a day -------------------------------------------------------------------------------------------------------


async def test_checking_in_counts_once_a_utc_day_whoever_asks_how_often(api, alice, bob, high_limits):
    answers = await asyncio.gather(*(api.complete(alice, "daily_login") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 19
    assert {reason(answer) for answer in answers if answer.status_code == 403} == {"already_completed"}
    assert (await api.complete(bob, "daily_login")).status_code == 200
    # The next day, by PostgreSQL's clock: what is on record moves a day back.
    log = await ActionLog.objects.aget(player=alice)
    assert log.occurrence == str(log.created_at.date())
    await ActionLog.objects.aupdate(occurrence=str(log.created_at.date() - timedelta(days=1)))
    assert (await api.complete(alice, "daily_login", clientTimestamp="2099-01-01T00:00:00Z")).status_code == 200
    assert code(await api.complete(alice, "daily_login")) == (403, "ACTION_NOT_ALLOWED")


def test_the_database_itself_refuses_a_second_occurrence(alice):
    fields = {"player": alice, "action_type_id": "daily_login", "points": 10, "request_id": "r", "occurrence": "2026-11-23"}
    fields["expires_at"] = timezone.now()
    ActionLog.objects.create(token_id=uuid.uuid4(), **fields)
    with pytest.raises(IntegrityError, match="occurrence_counts_once"), transaction.atomic():
        ActionLog.objects.create(token_id=uuid.uuid4(), **fields)


async def test_who_lost_the_answer_gets_the_same_token_again_and_it_pays_once(api, alice):
    first = await api.issued(alice, "daily_login")
    again = (await api.complete(alice, "daily_login")).json()["error"]["details"]["completion"]
    assert again == first
    assert (await api.redeem(alice, again)).status_code == 200
    assert code(await api.redeem(alice, first)) == (409, "TOKEN_ALREADY_USED")
    assert (await api.complete(alice, "daily_login")).json()["error"]["details"] == {"reason": "already_completed"}


def test_nobody_makes_a_completion_worth_more_somebody_else_s_or_longer_lived(alice, bob):
    fields = {"player": alice, "action_type_id": "level_up", "points": 100, "request_id": "r", "expires_at": timezone.now()}
    log = ActionLog.objects.create(token_id=uuid.uuid4(), **fields)
    later = timezone.now() + timedelta(minutes=1)
    for change in ({"points": 10_000}, {"player": bob}, {"expires_at": later}, {"token_id": uuid.uuid4()}):
        with pytest.raises(IntegrityError, match="history"), transaction.atomic():
            ActionLog.objects.filter(pk=log.pk).update(**change)
    with pytest.raises(IntegrityError, match="history"), transaction.atomic():
        ActionLog.objects.filter(pk=log.pk)._raw_delete("default")


def test_a_cap_of_nothing_is_no_cap_that_can_be_set(world):
    with pytest.raises(IntegrityError, match="daily_cap"), transaction.atomic():
        ActionType.objects.filter(slug="task_finish").update(daily_cap=0)


async def test_a_token_past_its_minute_is_not_handed_out_again(api, alice):
    await api.issued(alice, "daily_login")
    await ActionLog.objects.aupdate(expires_at=timezone.now())
    assert (await api.complete(alice, "daily_login")).json()["error"]["details"] == {"reason": "already_completed"}


# --- quiz -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_pause(world):
    ActionType.objects.filter(slug="quiz_complete").update(settings={"pause_seconds": 0, "attempts_a_day": 1000})


async def start(api, who, slug="quiz_complete"):
    answer = await api.call("POST", "/actions/start", who=who, json={"actionType": slug})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def solve(attempt, *, seconds=10):
    """The right answers, as a player who knows them would send them, some seconds after the start."""
    stored = await QuizAttempt.objects.aget(pk=attempt["attemptId"])
    await QuizAttempt.objects.filter(pk=stored.pk).aupdate(started_at=timezone.now() - timedelta(seconds=seconds))
    return {"attemptId": attempt["attemptId"], "answers": {str(q["id"]): q["right"] for q in stored.questions}}


async def finish(api, who, data, slug="quiz_complete"):
    return await api.complete(who, slug, actionData=data)


async def test_a_quiz_is_asked_answered_and_paid(api, alice):
    attempt = await start(api, alice)
    assert set(attempt) == {"attemptId", "questions", "expiresAt"}
    assert len(attempt["questions"]) == 3
    for question in attempt["questions"]:
        assert set(question) == {"id", "text", "choices"}  # and not which is right
        known = await Question.objects.aget(pk=question["id"])
        assert sorted(question["choices"]) == sorted([known.right, *known.wrong_answers])
    answer = await finish(api, alice, await solve(attempt))
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["pointsEarned"] == 100
    assert (await api.redeem(alice, answer.json()["data"])).json()["data"]["newScore"] == 100


async def test_a_quiz_is_not_completed_by_naming_it(api, alice):
    for data in ({}, {"attemptId": None}, {"attemptId": "x"}, {"attemptId": str(uuid.uuid4()), "answers": {}}, {"correct": 3}):
        answer = await finish(api, alice, data)
        assert code(answer) == (400, "INVALID_ACTION_DATA")
    assert not await ActionLog.objects.aexists()


async def test_the_first_answers_count_and_no_others(api, alice, high_limits):
    attempt = await start(api, alice)
    right = await solve(attempt)
    wrong = {**right, "answers": {id_: (place + 1) % 4 for id_, place in right["answers"].items()}}
    answer = await finish(api, alice, wrong)
    assert code(answer) == (400, "INVALID_ACTION_DATA")
    # How many were right is not said: thirty such answers would tell a script the whole bank.
    assert answer.json()["error"]["details"] == {"reason": "not_passed", "retryAfterSeconds": 30}
    assert " of " not in answer.json()["error"]["message"]
    second = await finish(api, alice, right)
    assert (code(second), reason(second)) == ((400, "INVALID_ACTION_DATA"), "already_answered")


async def test_guessing_in_parallel_gives_one_guess(api, alice, high_limits):
    attempt = await start(api, alice)
    right = await solve(attempt)
    ids = list(right["answers"])
    guesses = [{**right["answers"], ids[0]: place} for place in range(4)] * 5
    answers = await asyncio.gather(*(finish(api, alice, {**right, "answers": guess}) for guess in guesses))
    taken = (await QuizAttempt.objects.aget(pk=attempt["attemptId"])).answers
    issued = [answer for answer in answers if answer.status_code == 200]
    assert len(issued) == (1 if taken == right["answers"] else 0)
    assert await ActionLog.objects.acount() == len(issued)


async def test_an_attempt_pays_once_whoever_repeats_it(api, alice, high_limits):
    right = await solve(await start(api, alice))
    answers = await asyncio.gather(*(finish(api, alice, right) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 9
    [issued] = [answer.json()["data"] for answer in answers if answer.status_code == 200]
    repeated = next(answer for answer in answers if answer.status_code == 403)
    assert repeated.json()["error"]["details"] == {"reason": "already_completed", "completion": issued}


async def test_nobody_answers_for_another_nor_one_quiz_with_another(api, alice, bob, high_limits):
    await ActionType.objects.acreate(slug="other_quiz", label="Other", points=500, verification="quiz")
    right = await solve(await start(api, alice))
    assert reason(await finish(api, bob, right)) == "unknown_attempt"
    assert reason(await finish(api, alice, right, "other_quiz")) == "unknown_attempt"
    assert (await finish(api, alice, right)).status_code == 200


async def test_answers_that_come_too_fast_are_refused_and_used_up(api, alice, high_limits):
    right = await solve(await start(api, alice), seconds=0.2)
    assert reason(await finish(api, alice, right)) == "not_passed"
    await solve({"attemptId": right["attemptId"]}, seconds=60)
    assert reason(await finish(api, alice, right)) == "not_passed"
    assert not await ActionLog.objects.aexists()


async def failed(api, who):
    right = await solve(await start(api, who))
    assert reason(await finish(api, who, {**right, "answers": dict.fromkeys(right["answers"], 0)})) == "not_passed"


async def test_who_did_not_pass_waits_before_the_next_attempt(api, alice, bob, high_limits):
    await Question.objects.all().aupdate(right="~", wrong="A\nB")  # sorts nowhere special: place 0 is right now and then
    await ActionType.objects.filter(slug="quiz_complete").aupdate(settings={"questions": 10, "right_to_pass": 10})
    await failed(api, alice)
    answer = await api.call("POST", "/actions/start", who=alice, json={"actionType": "quiz_complete"})
    assert (code(answer), reason(answer)) == ((403, "ACTION_NOT_ALLOWED"), "pause")
    assert 25 <= answer.json()["error"]["details"]["retryAfterSeconds"] <= 30
    await start(api, bob)
    await QuizAttempt.objects.filter(player=alice).aupdate(answered_at=timezone.now() - timedelta(seconds=31))
    await start(api, alice)


async def test_attempts_are_counted_by_the_day_passed_or_not(api, alice, high_limits):
    await ActionType.objects.filter(slug="quiz_complete").aupdate(settings={"pause_seconds": 0, "attempts_a_day": 2})
    for _ in range(2):
        assert (await finish(api, alice, await solve(await start(api, alice)))).status_code == 200
    answer = await api.call("POST", "/actions/start", who=alice, json={"actionType": "quiz_complete"})
    assert (code(answer), reason(answer)) == ((403, "ACTION_NOT_ALLOWED"), "attempts_a_day")
    yesterday = timezone.now() - timedelta(days=1)
    await QuizAttempt.objects.all().aupdate(started_at=yesterday, answered_at=yesterday)
    await start(api, alice)
    await QuizAttempt.objects.filter(answered_at__isnull=False).aupdate(answered_at=timezone.now() - timedelta(days=8))
    await start(api, alice)
    assert await QuizAttempt.objects.acount() == 1  # old ones are not kept


async def test_starting_in_parallel_makes_one_attempt(api, alice, high_limits):
    attempts = await asyncio.gather(*(start(api, alice) for _ in range(8)))
    assert len({attempt["attemptId"] for attempt in attempts}) == 1


async def test_starting_again_gives_the_same_questions_until_they_are_answered(api, alice, bob, high_limits, no_pause):
    first, second = await asyncio.gather(start(api, alice), start(api, alice))
    assert first == second
    assert await start(api, bob) != first
    await QuizAttempt.objects.filter(player=alice).aupdate(expires_at=timezone.now())
    expired = await finish(api, alice, await solve(first))
    assert reason(expired) == "attempt_expired"
    third = await start(api, alice)
    assert third["attemptId"] != first["attemptId"]
    await finish(api, alice, await solve(third))
    assert (await start(api, alice))["attemptId"] != third["attemptId"]


@pytest.mark.parametrize("answers", [None, [], "abc", {}, {"1": 0}, "more", "text", "negative", "far", "float", "true"], ids=str)
async def test_answers_of_the_wrong_shape_are_refused_and_cost_nothing(api, alice, answers):
    right = await solve(await start(api, alice))
    id_ = next(iter(right["answers"]))
    odd = {
        "more": {"999999": 0},
        "text": {id_: "0"},
        "negative": {id_: -1},
        "far": {id_: 4},
        "float": {id_: 0.0},
        "true": {id_: True},
    }
    sent = {**right["answers"], **odd[answers]} if isinstance(answers, str) and answers in odd else answers
    refused = await finish(api, alice, {**right, "answers": sent})
    assert (code(refused), reason(refused)) == ((400, "INVALID_ACTION_DATA"), "answers")
    assert (await finish(api, alice, right)).status_code == 200


async def test_starts_have_a_limit_and_say_what_completing_would(api, alice, bob, moderator, settings):
    settings.ACTION_RATE_LIMIT = 3
    for _ in range(3):
        await start(api, alice)
    assert code(await api.call("POST", "/actions/start", who=alice, json={"actionType": "quiz_complete"})) == (
        429,
        "RATE_LIMITED",
    )

    async def refused(who, slug):
        return await api.call("POST", "/actions/start", who=who, json={"actionType": slug})

    assert reason(await refused(bob, "task_finish")) == "no_start"
    assert reason(await refused(bob, "nothing")) == "unknown_action"
    settings.ACTION_RATE_LIMIT = 100
    await sync_to_async(moderation.suspend)(player_id=bob.pk, moderator=moderator, reason="cheating")
    assert reason(await refused(bob, "quiz_complete")) == "suspended"
    bob.is_active = False
    await bob.asave()
    assert code(await refused(bob, "quiz_complete")) == (401, "UNAUTHORIZED")
    await ActionType.objects.filter(slug="quiz_complete").aupdate(daily_cap=1)
    await finish(api, alice, await solve(await start(api, alice)))
    assert reason(await refused(alice, "quiz_complete")) == "daily_cap"


async def test_guesses_are_charged_before_they_are_looked_at(api, alice, settings):
    settings.ACTION_RATE_LIMIT = 2
    bogus = {"attemptId": str(uuid.uuid4()), "answers": {}}
    answers = [code(await finish(api, alice, bogus)) for _ in range(3)]
    assert answers == [(400, "INVALID_ACTION_DATA")] * 2 + [(429, "RATE_LIMITED")]


async def test_a_quiz_without_enough_questions_says_so(api, alice):
    await Question.objects.all().adelete()
    answer = await api.call("POST", "/actions/start", who=alice, json={"actionType": "quiz_complete"})
    assert (code(answer), reason(answer)) == ((400, "INVALID_ACTION_DATA"), "no_questions")


# --- trusted ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def match_won(world):
    return ActionType.objects.create(slug="match_won", label="Match", points=250, verification="trusted")


@pytest.fixture
def key(match_won):
    return server_keys.issue("the game", ["match_won"])[1]


async def by_server(api, key, player_id, slug="match_won", reference="match-1", **body):
    data = {"actionType": slug, "actionData": {"reference": reference}, "playerId": str(player_id), **body}
    return await api.call("POST", "/actions/complete", json=data, headers={"Authorization": f"Api-Key {key}"})


async def test_a_game_server_completes_and_its_player_redeems(api, alice, bob, key):
    answer = await by_server(api, key, alice.pk)
    assert answer.status_code == 200, answer.text
    issued = answer.json()["data"]
    assert issued["pointsEarned"] == 250
    assert code(await api.redeem(bob, issued)) == (403, "TOKEN_USER_MISMATCH")
    assert (await api.redeem(alice, issued)).json()["data"]["newScore"] == 250
    log = await ActionLog.objects.select_related("server_key").aget()
    assert (log.occurrence, log.server_key.name) == ("match-1", "the game")


async def test_a_reference_pays_each_player_once(api, alice, bob, key):
    answers = await asyncio.gather(*(by_server(api, key, alice.pk) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 7
    assert (await by_server(api, key, bob.pk)).status_code == 200
    assert (await by_server(api, key, alice.pk, reference="match-2")).status_code == 200


async def test_nobody_but_the_server_completes_a_trusted_action(api, alice, key):
    answer = await api.complete(alice, "match_won", actionData={"reference": "match-1"})
    assert (code(answer), reason(answer)) == ((403, "ACTION_NOT_ALLOWED"), "server_key")
    named = await api.complete(alice, "match_won", actionData={"reference": "match-1"}, playerId=str(alice.pk))
    assert code(named) == (400, "INVALID_ACTION_DATA")  # players complete for themselves


async def test_a_key_is_good_for_what_it_names_and_until_it_is_revoked(api, alice, key):
    await ActionType.objects.acreate(slug="cup_won", label="Cup", points=900, verification="trusted")
    for slug in ("cup_won", "level_up", "quiz_complete", "daily_login"):
        assert code(await by_server(api, key, alice.pk, slug)) == (403, "ACTION_NOT_ALLOWED")
    assert (await by_server(api, key, alice.pk)).status_code == 200
    assert await sync_to_async(server_keys.revoke)(ServerKey.objects.all()) == 1
    assert code(await by_server(api, key, alice.pk, reference="match-3")) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("bad", ["", "x", "sbk_" + "A" * 43, "sbk_\u00e9", "a b", "k" * 5000])
async def test_a_bad_key_is_refused(api, alice, key, bad):
    headers = {"Authorization": f"Api-Key {bad}".encode()}
    body = {"actionType": "match_won", "actionData": {"reference": "m"}, "playerId": str(alice.pk)}
    assert code(await api.call("POST", "/actions/complete", json=body, headers=headers)) == (401, "UNAUTHORIZED")
    update = {"actionId": str(uuid.uuid4())}
    headers = {"Authorization": f"Api-Key {key}"}  # a good key signs nobody in anywhere else
    assert code(await api.call("POST", "/scores/update", json=update, headers=headers)) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("reference", [None, 5, "", "x" * 65, "a b", "a*", "*day*", ["m"], "\u00e9", "m\n"])
async def test_a_reference_of_the_wrong_shape_is_refused(api, alice, key, reference):
    answer = await by_server(api, key, alice.pk, reference=reference)
    assert (code(answer), reason(answer)) == ((400, "INVALID_ACTION_DATA"), "reference")


async def test_a_player_who_may_not_earn_gets_nothing_from_a_server_either(api, alice, bob, moderator, key):
    assert reason(await by_server(api, key, uuid.uuid4())) == "inactive_player"
    await sync_to_async(moderation.suspend)(player_id=bob.pk, moderator=moderator, reason="cheating")
    assert reason(await by_server(api, key, bob.pk)) == "suspended"
    assert code(await by_server(api, key, alice.pk, playerId="nobody")) == (400, "INVALID_ACTION_DATA")


def test_a_key_is_stored_as_a_hash(key):
    record = ServerKey.objects.get()
    stored = " ".join(str(value) for value in vars(record).values())
    assert key not in stored
    assert key.startswith(record.hint)
    assert len(record.hint) == 8


# --- what staff may set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("cooldown", {}),
        ("cooldown", {"cooldown_seconds": 5}),
        ("cooldown", {"daily_cap": 5}),
        ("quiz", {"settings": {"questions": 2}}),  # three right answers are the default
        ("quiz", {"settings": {"questions": "many"}}),
        ("quiz", {"settings": {"least_seconds": 0}}),
        ("quiz", {"settings": {"surprise": 1}}),
        ("quiz", {"settings": []}),
        ("once_per_day", {"settings": {"x": 1}}),
        ("trusted", {"settings": {"points": 1}}),
    ],
)
def test_a_kind_refuses_settings_that_make_no_sense(kind, fields):
    with pytest.raises(ValidationError):
        KINDS[kind].check(ActionType(slug="x", label="X", points=1, verification=kind, **fields))


def test_a_kind_fills_in_what_was_left_out():
    action_type = ActionType(slug="x", label="X", points=1, verification="quiz", settings={"questions": 5})
    KINDS["quiz"].check(action_type)
    assert action_type.settings == {"questions": 5, "right_to_pass": 3, "least_seconds": 3, "open_minutes": 10} | {
        "pause_seconds": 30,
        "attempts_a_day": 30,
    }


async def test_a_type_that_is_edited_is_verified_as_it_is_now(api, alice, key):
    await api.issued(alice, "level_up")  # the catalogue is in memory
    await ActionType.objects.filter(slug="level_up").aupdate(verification="trusted")
    answer = await api.complete(alice, "level_up")
    assert (code(answer), reason(answer)) == ((403, "ACTION_NOT_ALLOWED"), "server_key")


# --- tokens that nobody redeems ---------------------------------------------------------------------------------------


async def test_twenty_tokens_wait_at_most_and_redeeming_makes_room(api, alice, bob, no_limits):
    answers = await asyncio.gather(*(api.complete(alice) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [429] * 30
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert reason(refused) == "unredeemed_tokens"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    await api.issued(bob)
    held = [answer.json()["data"] for answer in answers if answer.status_code == 200]
    assert code(await api.redeem(bob, held[0])) == (403, "TOKEN_USER_MISMATCH")  # makes no room for alice
    assert code(await api.complete(alice)) == (429, "RATE_LIMITED")
    for token in held[:2]:
        assert (await api.redeem(alice, token)).status_code == 200
        assert code(await api.redeem(alice, token)) == (409, "TOKEN_ALREADY_USED")
    later = await asyncio.gather(*(api.complete(alice) for _ in range(5)))
    assert sorted(answer.status_code for answer in later) == [200] * 2 + [429] * 3


async def test_what_was_refused_holds_no_place(api, alice, settings):
    settings.ACTION_RATE_LIMIT, settings.UNREDEEMED_TOKEN_LIMIT = 100, 2
    for _ in range(5):
        assert code(await api.complete(alice, "nothing")) == (403, "ACTION_NOT_ALLOWED")
    await api.issued(alice)
    assert (await Score.objects.aget(player=alice)).total_score == 0
    await api.issued(alice)
    assert code(await api.complete(alice)) == (429, "RATE_LIMITED")

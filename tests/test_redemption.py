"""`POST /scores/update`: points are added exactly once, or the caller learns why not, in the contract's order."""

import asyncio
import base64
import hmac
import json
import string
import time
import uuid
from datetime import timedelta

import jwt
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.utils import timezone

from actions import score_tokens
from actions.models import ActionLog, Flag
from actions.score_tokens import TYPE
from leaderboard import moderation
from leaderboard.models import MAX_SCORE, Score, ScoreEntry
from scoreboard_project import sign_in
from scoreboard_project.redis_client import client as redis_client
from tests.conftest import code


async def scores() -> dict[uuid.UUID, int]:
    return {score.player_id: score.total_score async for score in Score.objects.all()}


def forged(token: str, *, key: str | None = None, kid: str | None = None, header: dict | None = None, **claims) -> str:
    """The token with other claims, signed correctly unless another key is given."""
    own_kid, secret = next(iter(django_settings.SCORE_TOKEN_KEYS.items()))
    payload = {**jwt.decode(token, options={"verify_signature": False}), **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    headers = {"kid": own_kid if kid is None else kid, "typ": TYPE, **(header or {})}
    return jwt.encode(payload, key or secret, "HS256", headers=headers)


async def test_redeeming_adds_the_points_and_says_what_changed(api, alice, bob):
    await api.earn(bob, "task_finish")
    first = await api.earn(alice, "level_up")
    assert first["userId"] == str(alice.pk)
    assert (first["previousScore"], first["pointsAwarded"], first["newScore"], first["newRank"]) == (0, 100, 100, 1)
    assert first["timestamp"].endswith("Z")
    second = await api.earn(alice, "daily_login")
    assert (second["previousScore"], second["pointsAwarded"], second["newScore"]) == (100, 10, 110)
    assert await scores() == {alice.pk: 110, bob.pk: 50}


async def test_a_second_redemption_is_refused_with_the_first_one_s_receipt(api, alice):
    issued = await api.issued(alice)
    first = (await api.redeem(alice, issued)).json()["data"]
    await api.earn(alice, "task_finish")
    for _ in range(2):
        again = await api.redeem(alice, issued)
        assert code(again) == (409, "TOKEN_ALREADY_USED")
        receipt = again.json()["error"]["details"]["redemption"]
        assert receipt == {name: value for name, value in first.items() if name != "newRank"}
    assert await ScoreEntry.objects.acount() == 2


async def test_many_hands_on_one_token_are_paid_once(api, alice, no_limits):
    issued = await api.issued(alice)
    answers = await asyncio.gather(*(api.redeem(alice, issued) for _ in range(60)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 59
    assert (await scores())[alice.pk] == 100


async def test_of_many_hands_in_one_batch_one_is_told_that_it_was_paid(api, alice, bob, no_limits):
    first, issued = await api.issued(bob), await api.issued(alice)
    # The first call is a batch by itself; what comes while it is under way is the next batch, all of it the same token.
    _, *answers = await asyncio.gather(api.redeem(bob, first), *(api.redeem(alice, issued) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    assert len({json.dumps(answer.json()["error"]["details"]) for answer in answers if answer.status_code == 409}) == 1
    assert (await scores())[alice.pk] == 100


async def test_several_tokens_of_one_player_in_one_batch_are_all_paid(api, alice, bob, no_limits):
    issued = [await api.issued(alice) for _ in range(12)] + [await api.issued(bob, "task_finish") for _ in range(3)]
    owners = [alice] * 12 + [bob] * 3
    answers = await asyncio.gather(*(api.redeem(who, token) for who, token in zip(owners, issued, strict=True)))
    assert {answer.status_code for answer in answers} == {200}
    assert await scores() == {alice.pk: 1200, bob.pk: 150}
    totals = sorted(answer.json()["data"]["newScore"] for answer in answers[:12])
    assert totals == list(range(100, 1300, 100))


async def test_somebody_else_s_token_is_refused_and_stays_good(api, alice, mallory):
    issued = await api.issued(alice)
    assert code(await api.redeem(mallory, issued)) == (403, "TOKEN_USER_MISMATCH")
    assert (await api.redeem(alice, issued)).status_code == 200
    stolen_after_use = await api.redeem(mallory, issued)
    assert code(stolen_after_use) == (403, "TOKEN_USER_MISMATCH")
    assert "details" not in stolen_after_use.json()["error"]
    assert (await scores())[mallory.pk] == 0


async def test_after_its_minute_a_token_is_worth_nothing(api, alice):
    issued = await api.issued(alice)
    await ActionLog.objects.aupdate(expires_at=timezone.now() - timedelta(milliseconds=1))
    answer = await api.redeem(alice, issued)
    assert code(answer) == (403, "TOKEN_EXPIRED")
    assert "details" not in answer.json()["error"]
    assert not await ScoreEntry.objects.aexists()


async def test_an_expired_token_that_was_redeemed_in_time_says_so_to_its_owner(api, alice, mallory):
    issued = await api.issued(alice)
    first = (await api.redeem(alice, issued)).json()["data"]
    await ActionLog.objects.aupdate(expires_at=timezone.now() - timedelta(seconds=1))
    answer = await api.redeem(alice, issued)
    assert code(answer) == (403, "TOKEN_EXPIRED")
    assert answer.json()["error"]["details"]["redemption"]["newScore"] == first["newScore"]
    assert "details" not in (await api.redeem(mallory, issued)).json()["error"]


async def test_the_action_must_be_the_token_s_own(api, alice):
    issued, other = await api.issued(alice), await api.issued(alice)
    for wrong in (other["actionId"], str(uuid.uuid4()), "", "nonsense"):
        assert code(await api.redeem(alice, issued, actionId=wrong)) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, issued, actionId=issued["actionId"].upper())).status_code == 200


@pytest.mark.parametrize("body", ["{}", '{"actionId": 5}', '{"actionId": null}', '{"actionId": ["x"]}', "[]", "null"])
async def test_a_body_of_the_wrong_shape_is_refused(api, alice, body):
    headers = {"X-Score-Token": (await api.issued(alice))["scoreToken"], "Content-Type": "application/json"}
    answer = await api.call("POST", "/scores/update", who=alice, headers=headers, content=body)
    assert code(answer) == (400, "INVALID_TOKEN")


async def test_points_in_the_body_are_refused_and_nothing_is_spent(api, alice):
    issued = await api.issued(alice)
    body = {"actionId": issued["actionId"], "points": 999_999}
    headers = {"X-Score-Token": issued["scoreToken"]}
    assert code(await api.call("POST", "/scores/update", who=alice, headers=headers, json=body)) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, issued)).status_code == 200


def _unsigned(token: str, alg: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": alg, "typ": TYPE, "kid": "k1"}).encode()).rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


FORGERIES = {
    "no algorithm": lambda t: _unsigned(t, "none"),
    "no algorithm, spelt oddly": lambda t: _unsigned(t, "nOnE"),
    "another key": lambda t: forged(t, key="k" * 40),
    "an unknown key id": lambda t: forged(t, kid="k999"),
    "a path as key id": lambda t: forged(t, kid="../../dev/null"),
    "an embedded key": lambda t: forged(t, header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "a critical extension": lambda t: forged(t, header={"crit": ["x"], "x": 1}),
    "another type": lambda t: forged(t, header={"typ": "JWT"}),
    "another audience": lambda t: forged(t, aud="scoreboard"),
    "no expiry": lambda t: forged(t, exp=None),
    "expiry as text": lambda t: forged(t, exp=str(int(time.time()) + 60)),
    "expiry as a fraction": lambda t: forged(t, exp=time.time() + 60),
    "expiry as truth": lambda t: forged(t, exp=True),
    "an extra claim": lambda t: forged(t, admin=True),
    "more points": lambda t: forged(t, pts=10_000),
    "points as text": lambda t: forged(t, pts="100"),
    "another jti": lambda t: forged(t, jti=uuid.uuid4().hex),
    "a jti in braces": lambda t: forged(t, jti="{" + uuid.uuid4().hex + "}"),
    "no jti": lambda t: forged(t, jti=None),
    "issued in the future": lambda t: forged(t, iat=int(time.time()) + 3600),
    "the payload of another": lambda t: ".".join([t.split(".")[0], "e30", t.split(".")[2]]),
    "empty": lambda t: "",
    "two parts": lambda t: t.rsplit(".", 1)[0],
    "four parts": lambda t: t + ".x",
    "padding": lambda t: t + "==",
    "spaces": lambda t: t.replace(".", " . "),
    "very long": lambda t: t + "A" * 5000,
    "not ASCII": lambda t: t + "\u00e9",
}


@pytest.mark.parametrize("forgery", FORGERIES, ids=str)
async def test_a_forged_token_is_refused_and_the_real_one_stays_good(api, alice, forgery):
    issued = await api.issued(alice)
    bad = FORGERIES[forgery](issued["scoreToken"])
    headers = {b"X-Score-Token": bad.encode("latin-1")}
    answer = await api.call("POST", "/scores/update", who=alice, headers=headers, json={"actionId": issued["actionId"]})
    assert code(answer) == (400, "INVALID_TOKEN")
    assert not await ScoreEntry.objects.aexists()
    assert (await api.redeem(alice, issued)).status_code == 200


async def test_an_access_token_is_no_score_token_nor_the_reverse(api, alice):
    issued = await api.issued(alice)
    access = sign_in.access_for(alice.pk)
    assert code(await api.redeem(alice, issued, scoreToken=access)) == (400, "INVALID_TOKEN")
    answer = await api.call("POST", "/scores/update", headers={"Authorization": f"Bearer {issued['scoreToken']}"}, json={})
    assert code(answer) == (401, "UNAUTHORIZED")


async def test_a_token_with_our_signature_that_was_never_issued_is_refused_and_alarmed(api, alice):
    """A leaked key alone mints nothing."""
    issued = await api.issued(alice)
    action_id = uuid.uuid4()
    minted = forged(issued["scoreToken"], act=action_id.hex, jti=uuid.uuid4().hex)
    assert code(await api.redeem(alice, {"scoreToken": minted, "actionId": str(action_id)})) == (400, "INVALID_TOKEN")
    assert (await Flag.objects.aget()).kind == Flag.Kind.NEVER_ISSUED
    assert not await ScoreEntry.objects.aexists()


async def test_a_key_that_was_rotated_away_still_verifies_until_it_is_removed(api, alice, settings):
    issued, other = await api.issued(alice), await api.issued(alice)
    old = dict(settings.SCORE_TOKEN_KEYS)
    settings.SCORE_TOKEN_KEYS = {"new": "n" * 40, **old}
    assert (await api.redeem(alice, issued)).status_code == 200
    fresh = await api.issued(alice)
    assert jwt.get_unverified_header(fresh["scoreToken"])["kid"] == "new"
    settings.SCORE_TOKEN_KEYS = {"new": "n" * 40}
    assert code(await api.redeem(alice, other)) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, fresh)).status_code == 200


async def test_tokens_are_what_a_jwt_library_would_write_and_read(api, alice):
    issued = await api.issued(alice)
    token, (kid, secret) = issued["scoreToken"], next(iter(django_settings.SCORE_TOKEN_KEYS.items()))
    payload = jwt.decode(token, secret, ["HS256"], audience=score_tokens.AUDIENCE)
    assert jwt.encode(payload, secret, "HS256", headers={"kid": kid, "typ": TYPE}) == token


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512"}, {"crit": ["x"]}, {"typ": "JWT"}, {"jku": "https://x"}])
async def test_a_header_that_is_not_ours_is_refused_however_it_is_signed(api, alice, header):
    issued = await api.issued(alice)
    kid, secret = next(iter(django_settings.SCORE_TOKEN_KEYS.items()))
    first = json.dumps({"alg": "HS256", "kid": kid, "typ": TYPE} | header, separators=(",", ":"))
    body = issued["scoreToken"].split(".")[1]
    signed = f"{base64.urlsafe_b64encode(first.encode()).rstrip(b'=').decode()}.{body}"
    signature = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed.encode(), "sha256")).rstrip(b"=").decode()
    assert code(await api.redeem(alice, issued, scoreToken=f"{signed}.{signature}")) == (400, "INVALID_TOKEN")
    assert code(await api.redeem(alice, issued, scoreToken=f"{signed}.")) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, issued)).status_code == 200


ODD_PAYLOADS = {
    "nested": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "a list": b"[1]",
    "null": b"null",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "a claim twice": b'{"pts":1,"pts":10000}',
    "a huge number": b'{"pts":%b}' % (b"9" * 1_000),
}


@pytest.mark.parametrize("payload", ODD_PAYLOADS.values(), ids=ODD_PAYLOADS)
async def test_a_payload_that_makes_no_sense_is_refused_however_it_is_signed(api, alice, payload):
    issued = await api.issued(alice)
    secret = next(iter(django_settings.SCORE_TOKEN_KEYS.values()))
    signed = f"{issued['scoreToken'].split('.')[0]}.{score_tokens._text(payload)}"
    token = f"{signed}.{score_tokens._signature(signed, secret)}"
    assert code(await api.redeem(alice, issued, scoreToken=token)) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, issued)).status_code == 200


async def test_a_token_anywhere_else_than_in_its_header_is_none(api, alice):
    issued = await api.issued(alice)
    token, body = issued["scoreToken"], {"actionId": issued["actionId"]}
    for where in ({"params": {"token": token, "X-Score-Token": token}}, {"headers": {"Cookie": f"X-Score-Token={token}"}}):
        assert code(await api.call("POST", "/scores/update", who=alice, json=body, **where)) == (400, "INVALID_TOKEN")
    in_body = {**body, "scoreToken": token}
    assert code(await api.call("POST", "/scores/update", who=alice, json=in_body)) == (400, "INVALID_TOKEN")
    twice = [("X-Score-Token", token), ("X-Score-Token", token), ("Authorization", f"Bearer {sign_in.access_for(alice.pk)}")]
    answer = await api.http.post("/api/v1/scores/update", json=body, headers=twice)
    assert code(answer) == (400, "INVALID_TOKEN")
    assert (await api.redeem(alice, issued)).status_code == 200


async def test_a_used_token_stays_used_when_redis_has_forgotten_everything(api, alice):
    issued = await api.issued(alice)
    await api.redeem(alice, issued)
    redis_client().flushall()
    assert code(await api.redeem(alice, issued)) == (409, "TOKEN_ALREADY_USED")


async def test_owner_and_thief_at_once(api, alice, mallory, no_limits):
    for _ in range(30):
        issued = await api.issued(alice)
        answers = await asyncio.gather(*(api.redeem(who, issued) for who in (mallory, alice, mallory)))
        assert [answer.status_code for answer in answers] == [403, 200, 403]
    assert await scores() == {alice.pk: 3_000, mallory.pk: 0}


async def test_no_other_spelling_of_a_token_is_taken(api, alice):
    """The last letter of a signature has two bits that no decoder looks at, and base64 has padding and white space."""
    issued = await api.issued(alice)
    token = issued["scoreToken"]
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    last = alphabet.index(token[-1])
    others = [token[:-1] + alphabet[last ^ bits] for bits in (1, 2, 3)]
    others += [token + "=", token + " ", " " + token, token + ".", "." + token, token.replace(".", "..", 1), token.upper()]
    for other in others:
        assert code(await api.redeem(alice, issued, scoreToken=other)) == (400, "INVALID_TOKEN"), other
    assert (await api.redeem(alice, issued)).status_code == 200


async def test_the_order_of_the_checks_is_the_contract_s(api, alice, mallory, moderator):
    issued = await api.issued(alice)
    assert code(await api.redeem(None, issued, scoreToken="rubbish")) == (401, "UNAUTHORIZED")
    assert code(await api.redeem(mallory, issued, scoreToken="rubbish")) == (400, "INVALID_TOKEN")
    await api.redeem(alice, issued)
    await sync_to_async(moderation.suspend)(player_id=alice.pk, moderator=moderator, reason="x")
    assert code(await api.redeem(alice, issued)) == (409, "TOKEN_ALREADY_USED")  # first use before "still allowed"
    assert code(await api.redeem(mallory, issued)) == (403, "TOKEN_USER_MISMATCH")  # owner before first use
    await ActionLog.objects.aupdate(expires_at=timezone.now())
    assert code(await api.redeem(mallory, issued)) == (403, "TOKEN_EXPIRED")  # age before owner


async def test_who_may_not_earn_any_more_is_not_paid(api, alice, bob, moderator):
    of_alice, of_bob = await api.issued(alice), await api.issued(bob)
    await sync_to_async(moderation.suspend)(player_id=alice.pk, moderator=moderator, reason="x")
    assert code(await api.redeem(alice, of_alice)) == (403, "ACTION_NOT_ALLOWED")
    bob.is_active = False
    await bob.asave()
    assert code(await api.redeem(bob, of_bob)) == (401, "UNAUTHORIZED")
    await sync_to_async(moderation.reinstate)(player_id=alice.pk, moderator=moderator, reason="y")
    assert (await api.redeem(alice, of_alice)).status_code == 200  # the refusal had spent nothing


async def test_a_score_never_passes_what_a_double_holds_exactly(api, alice):
    await Score.objects.filter(player=alice).aupdate(total_score=MAX_SCORE - 100, revision=1)
    assert (await api.earn(alice))["newScore"] == MAX_SCORE
    answer = await api.redeem(alice, await api.issued(alice, "daily_login"))
    assert code(answer) == (403, "ACTION_NOT_ALLOWED")
    assert (await scores())[alice.pk] == MAX_SCORE


async def test_ten_redemptions_a_minute(api, alice, settings):
    settings.ACTION_RATE_LIMIT = 0
    tokens = [await api.issued(alice) for _ in range(12)]
    answers = await asyncio.gather(*(api.redeem(alice, token) for token in tokens))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 2
    assert (await scores())[alice.pk] == 1000


async def test_a_row_held_by_another_transaction_delays_only_its_player(api, alice, bob, no_limits):
    from django.db import connections, transaction

    of_alice, of_bob = await api.issued(alice), await api.issued(bob)
    held, let_go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        try:
            with transaction.atomic():
                Score.objects.select_for_update().get(player=alice)
                loop.call_soon_threadsafe(held.set)
                asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result()
        finally:
            connections.close_all()

    holding = loop.run_in_executor(None, hold)
    await held.wait()
    waiting = asyncio.create_task(api.redeem(alice, of_alice))
    await asyncio.sleep(0.1)
    assert (await asyncio.wait_for(api.redeem(bob, of_bob), 1)).status_code == 200
    assert not waiting.done()
    let_go.set()
    assert (await asyncio.wait_for(waiting, 2)).status_code == 200
    await holding

"""Signing in: token pairs, one successor for each refresh token, and a gate before every password, wherever it is asked."""

import asyncio
import base64
import json
import re
import threading
import time
import uuid
from datetime import timedelta
from typing import Any

import jwt
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth.backends import ModelBackend
from django.utils import timezone
from rest_framework_simplejwt.tokens import AccessToken

from leaderboard.models import Player
from scoreboard_project import limits, passwords, sign_in
from scoreboard_project.models import SignIn
from scoreboard_project.redis_client import client as redis_client
from tests.conftest import PASSWORD, code

WRONG = "wrong horse battery"


async def try_in(api: Any, username: str = "alice", password: str = PASSWORD, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.call("POST", "/auth/token", json={"username": username, "password": password}, headers=sent)


async def signed_in(api: Any, username: str = "alice") -> dict[str, str]:
    answer = await try_in(api, username)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def refreshed(api: Any, token: str) -> Any:
    return await api.call("POST", "/auth/token/refresh", json={"refresh": token})


async def revoked(api: Any, token: str) -> Any:
    return await api.call("POST", "/auth/token/revoke", json={"refresh": token})


async def acting(api: Any, access: str) -> Any:
    headers = {"Authorization": f"Bearer {access}"}
    return await api.call("POST", "/actions/complete", json={"actionType": "level_up"}, headers=headers)


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


# --- POST /auth/token -------------------------------------------------------------------------------------------------


async def test_name_and_password_are_exchanged_for_a_pair_that_works(api, alice):
    answer = await try_in(api)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    pair = answer.json()["data"]
    assert pair.keys() == {"access", "refresh"}
    assert (await acting(api, pair["access"])).status_code == 200
    assert (await refreshed(api, pair["refresh"])).status_code == 200


async def test_an_access_token_lives_15_minutes_and_a_refresh_token_a_day(api, alice):
    pair = await signed_in(api)
    now = time.time()
    access, refresh = claims(pair["access"]), claims(pair["refresh"])
    assert access["exp"] - access["iat"] == 15 * 60
    assert refresh["exp"] - refresh["iat"] == 24 * 60 * 60
    assert abs(access["iat"] - now) < 5
    assert access["sub"] == refresh["sub"] == str(alice.pk)
    left = (await SignIn.objects.aget()).expires_at - timezone.now()
    assert timedelta(hours=23, minutes=59) < left <= timedelta(days=1)


async def test_a_token_names_its_holder_and_says_nothing_else_about_them(api, alice):
    pair = await signed_in(api)
    assert claims(pair["access"]).keys() == {"token_type", "exp", "iat", "jti", "aud", "iss", "sub", "epoch"}
    assert claims(pair["refresh"]).keys() == {"token_type", "exp", "iat", "jti", "aud", "iss", "sub", "sid"}
    stored = SignIn.objects.values_list("id", "current_token", "player_id")
    assert [row async for row in stored] == [
        (uuid.UUID(claims(pair["refresh"])["sid"]), uuid.UUID(claims(pair["refresh"])["jti"]), alice.pk)
    ]


async def test_a_wrong_password_and_an_unknown_name_are_told_the_same(api, alice, bob):
    await Player.objects.filter(pk=bob.pk).aupdate(is_active=False)
    answers = [await try_in(api, password=WRONG), await try_in(api, "nobody"), await try_in(api, "bob")]
    said = []
    for answer in answers:
        assert code(answer) == (401, "UNAUTHORIZED")
        said.append({name: value for name, value in answer.json()["error"].items() if name != "requestId"})
    assert said[0] == said[1] == said[2]
    assert not await SignIn.objects.aexists()


async def test_an_unknown_name_costs_as_much_hashing_as_a_known_one(api, alice, monkeypatch):
    hashed, hash_it = [], Player.set_password
    monkeypatch.setattr(Player, "set_password", lambda player, raw: hashed.append(raw) or hash_it(player, raw))
    await try_in(api, "nobody", WRONG)
    assert hashed == [WRONG]


BAD_CREDENTIALS = [
    {},
    [],
    None,
    "alice",
    {"username": "alice"},
    {"password": PASSWORD},
    {"username": None, "password": PASSWORD},
    {"username": 5, "password": PASSWORD},
    {"username": True, "password": PASSWORD},
    {"username": ["alice"], "password": PASSWORD},
    {"username": {"a": 1}, "password": PASSWORD},
    {"username": "", "password": PASSWORD},
    {"username": "alice", "password": ""},
    {"username": "alice", "password": None},
    {"username": "alice", "password": 5},
    {"username": "x" * 151, "password": PASSWORD},
    {"username": "alice", "password": "x" * 129},
    {"username": "alice", "password": "x" * 10_000},
    {"username": "alice", "password": PASSWORD, "is_staff": True},
]


async def test_credentials_of_the_wrong_shape_are_refused_before_any_hashing(api, alice, monkeypatch):
    tried = []
    monkeypatch.setattr(ModelBackend, "authenticate", lambda *_args, **_kwargs: tried.append(1))
    for body in BAD_CREDENTIALS:
        answer = await api.call("POST", "/auth/token", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert code(answer) == (400, "INVALID_REQUEST"), body
    for path in ("/auth/token/refresh", "/auth/token/revoke"):
        for body in ({}, [], None, {"refresh": None}, {"refresh": 5}, {"refresh": ""}, {"refresh": "x" * 4_097}, {"token": "x"}):
            answer = await api.call("POST", path, content=json.dumps(body), headers={"Content-Type": "application/json"})
            assert code(answer) == (400, "INVALID_REQUEST"), body
    assert not tried


async def test_a_password_is_compared_as_it_was_sent(api, alice):
    await sync_to_async(alice.set_password)(" pässword\t")
    await alice.asave()
    assert (await try_in(api, password=" pässword\t")).status_code == 200
    assert code(await try_in(api, password="pässword")) == (401, "UNAUTHORIZED")
    assert code(await try_in(api, "alice ", " pässword\t")) == (401, "UNAUTHORIZED")
    assert code(await try_in(api, password="   ")) == (401, "UNAUTHORIZED")
    assert code(await try_in(api, "ALICE", " pässword\t")) == (401, "UNAUTHORIZED")


# --- POST /auth/token/refresh and /revoke -----------------------------------------------------------------------------


async def test_a_refresh_token_is_exchanged_once_and_its_successor_once(api, alice):
    first = await signed_in(api)
    second = (await refreshed(api, first["refresh"])).json()["data"]
    third = (await refreshed(api, second["refresh"])).json()["data"]
    assert len({first["refresh"], second["refresh"], third["refresh"]}) == 3
    assert (await acting(api, third["access"])).status_code == 200
    assert await SignIn.objects.acount() == 1


async def test_a_refresh_token_that_comes_back_ends_its_whole_chain(api, alice, caplog):
    first = await signed_in(api)
    other = await signed_in(api)
    second = (await refreshed(api, first["refresh"])).json()["data"]
    third = (await refreshed(api, second["refresh"])).json()["data"]
    assert code(await refreshed(api, first["refresh"])) == (401, "UNAUTHORIZED")
    assert code(await refreshed(api, third["refresh"])) == (401, "UNAUTHORIZED")
    [line] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert line.msg["event"] == "refresh_token_reused"
    assert line.msg["request_id"]
    assert (await refreshed(api, other["refresh"])).status_code == 200  # another sign-in of theirs goes on


async def test_of_twenty_parallel_refreshes_of_one_token_exactly_one_succeeds(api, alice):
    pair = await signed_in(api)
    for _ in range(3):
        answers = await asyncio.gather(*(refreshed(api, pair["refresh"]) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19
        # ...and since somebody has used the token twice, nobody's successor is good any more.
        [winner] = [answer.json()["data"] for answer in answers if answer.status_code == 200]
        assert code(await refreshed(api, winner["refresh"])) == (401, "UNAUTHORIZED")
        pair = await signed_in(api)


async def test_a_revoked_refresh_token_is_refused(api, alice):
    pair = await signed_in(api)
    answer = await revoked(api, pair["refresh"])
    assert (answer.status_code, answer.json()) == (200, {"success": True, "data": {}})
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    assert (await revoked(api, pair["refresh"])).status_code == 200  # it is what they wanted


async def test_revoking_an_older_token_ends_the_chain_too(api, alice):
    first = await signed_in(api)
    second = (await refreshed(api, first["refresh"])).json()["data"]
    assert (await revoked(api, first["refresh"])).status_code == 200
    assert code(await refreshed(api, second["refresh"])) == (401, "UNAUTHORIZED")


async def test_a_deactivated_player_refreshes_nothing(api, alice):
    pair = await signed_in(api)
    await Player.objects.filter(pk=alice.pk).aupdate(is_active=False)
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    assert code(await acting(api, pair["access"])) == (401, "UNAUTHORIZED")
    await Player.objects.filter(pk=alice.pk).aupdate(is_active=True)
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")  # what has ended does not come back
    assert (await refreshed(api, (await signed_in(api))["refresh"])).status_code == 200


async def test_a_deleted_player_is_refused_like_a_stranger(api, alice):
    pair = await signed_in(api)
    await alice.adelete()
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    assert (await revoked(api, pair["refresh"])).status_code == 200
    assert code(await acting(api, pair["access"])) == (401, "UNAUTHORIZED")
    assert code(await try_in(api)) == (401, "UNAUTHORIZED")


async def test_a_sign_in_ends_a_day_after_its_last_refresh(api, alice):
    pair = await signed_in(api)
    await SignIn.objects.aupdate(expires_at=timezone.now() + timedelta(minutes=1))
    pair = (await refreshed(api, pair["refresh"])).json()["data"]
    assert (await SignIn.objects.aget()).expires_at > timezone.now() + timedelta(hours=23)
    await SignIn.objects.aupdate(expires_at=timezone.now())
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")


# --- Tokens that are not ours, or not for this ------------------------------------------------------------------------


def forged(token: str, *, key: str = "", alg: str = "HS256", header: dict[str, Any] | None = None, **changed: Any) -> str:
    """The token with other claims, signed correctly unless another key is given."""
    payload = {**claims(token), **changed}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key or django_settings.JWT_SIGNING_KEY, alg, headers=header)


def _unsigned(token: str, alg: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": alg, "typ": "JWT"}).encode()).rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


FORGERIES = {
    "expired": lambda t: forged(t, exp=int(time.time()) - 1),
    "expired this very second": lambda t: forged(t, exp=int(time.time())),
    "no expiry": lambda t: forged(t, exp=None),
    "another key": lambda t: forged(t, key="k" * 50),
    "the site's own key": lambda t: forged(t, key=django_settings.SECRET_KEY),
    "the key of score tokens": lambda t: forged(t, key=next(iter(django_settings.SCORE_TOKEN_KEYS.values()))),
    "another algorithm of the family": lambda t: forged(t, alg="HS512"),
    "no algorithm": lambda t: _unsigned(t, "none"),
    "no algorithm, spelt oddly": lambda t: _unsigned(t, "nOnE"),
    "another audience": lambda t: forged(t, aud="elsewhere"),
    "no audience": lambda t: forged(t, aud=None),
    "another issuer": lambda t: forged(t, iss="elsewhere"),
    "another type": lambda t: forged(t, token_type="sliding"),
    "no type": lambda t: forged(t, token_type=None),
    "no id": lambda t: forged(t, jti=None),
    "a critical extension": lambda t: forged(t, header={"crit": ["x"], "x": 1}),
    "the signature of another": lambda t: t.rsplit(".", 1)[0] + "." + "A" * 43,
    "no signature": lambda t: t.rsplit(".", 1)[0] + ".",
    "two parts": lambda t: t.rsplit(".", 1)[0],
    "a list for a payload": lambda t: jwt.api_jws.encode(b"[1]", django_settings.JWT_SIGNING_KEY, "HS256"),
    "deep nesting": lambda t: jwt.api_jws.encode(b"[" * 1_000, django_settings.JWT_SIGNING_KEY, "HS256"),
    "rubbish": lambda t: "a.b.c",
    "not ASCII": lambda t: "é" + t,
    "white space": lambda t: f" {t}",
}
NO_UUID = {"no holder": {"sub": None}, "a number for a holder": {"sub": 5}, "a name for a holder": {"sub": "alice"}}
NO_SIGN_IN = {
    "no sign-in": {"sid": None},
    "no such sign-in": {"sid": "0" * 32},
    "an odd sign-in": {"sid": [1]},
    "an odd id": {"jti": "x"},
}


async def test_an_access_token_that_is_not_ours_is_refused(api, alice):
    good = sign_in.access_for(alice.pk)
    assert (await acting(api, good)).status_code == 200
    bad = {name: forge(good) for name, forge in FORGERIES.items() if name != "no id"}
    bad |= {name: forged(good, **changed) for name, changed in NO_UUID.items()}
    bad["very long"] = forged(good, x="x" * 4_096)
    for name, token in bad.items():
        headers = {b"Authorization": b"Bearer " + token.encode()}
        for path in ("/scores/leaderboard", "/scores/update"):
            answer = await api.call("GET" if "board" in path else "POST", path, headers=headers)
            assert code(answer) == (401, "UNAUTHORIZED"), name


async def test_a_refresh_token_that_is_not_ours_is_refused_and_the_real_one_stays_good(api, alice):
    good = (await signed_in(api))["refresh"]
    bad = {name: forge(good) for name, forge in FORGERIES.items()}
    bad |= {name: forged(good, **changed) for name, changed in NO_SIGN_IN.items()}
    for name, token in bad.items():
        assert code(await refreshed(api, token)) == (401, "UNAUTHORIZED"), name
        if name != "no such sign-in":  # correctly signed: as good as revoked
            assert code(await revoked(api, token)) == (401, "UNAUTHORIZED"), name
    assert (await refreshed(api, good)).status_code == 200


async def test_a_refresh_token_grants_no_access_nor_an_access_token_a_refresh(api, alice):
    pair = await signed_in(api)
    assert code(await acting(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    assert code(await refreshed(api, pair["access"])) == (401, "UNAUTHORIZED")
    assert code(await revoked(api, pair["access"])) == (401, "UNAUTHORIZED")
    score_token = (await api.issued(alice))["scoreToken"]
    assert code(await refreshed(api, score_token)) == (401, "UNAUTHORIZED")


async def test_an_access_token_ends_on_time_even_if_it_was_good_a_moment_ago(api, alice):
    token = AccessToken()
    token["sub"] = str(alice.pk)
    token.set_exp(lifetime=timedelta(seconds=1))
    headers = {"Authorization": f"Bearer {token}"}
    assert (await api.call("GET", "/scores/leaderboard", headers=headers)).status_code == 200
    async with asyncio.timeout(3):
        while (await api.call("GET", "/scores/leaderboard", headers=headers)).status_code == 200:
            await asyncio.sleep(0.05)
    assert time.time() >= token["exp"]


# --- The gate before every password -----------------------------------------------------------------------------------


async def failed(api: Any, times: int, username: str = "alice", **headers: str) -> None:
    for _ in range(times):
        assert code(await try_in(api, username, WRONG, **headers)) == (401, "UNAUTHORIZED")


async def test_after_five_failures_even_the_right_password_has_to_wait(api, alice):
    await failed(api, 5)
    for password in (WRONG, PASSWORD):
        answer = await try_in(api, password=password)
        assert code(answer) == (429, "RATE_LIMITED")
        assert 14 * 60 < int(answer.headers["Retry-After"]) <= 15 * 60
    assert not await SignIn.objects.aexists()


async def test_the_gate_is_closed_for_one_name_in_any_case_from_one_address(api, alice, bob):
    await failed(api, 3)
    await failed(api, 2, "ALICE")
    assert code(await try_in(api)) == (429, "RATE_LIMITED")
    assert (await try_in(api, "bob")).status_code == 200


async def test_a_name_that_nobody_has_is_gated_like_any_other(api, alice):
    await failed(api, 5, "nobody")
    assert code(await try_in(api, "nobody")) == (429, "RATE_LIMITED")


async def test_a_success_is_no_failure(api, alice):
    await failed(api, 4)
    for _ in range(6):
        assert (await try_in(api)).status_code == 200
    await failed(api, 1)
    assert code(await try_in(api)) == (429, "RATE_LIMITED")


async def test_of_thirty_parallel_tries_at_most_five_reach_the_password(api, alice, monkeypatch):
    checked, check = [], Player.check_password
    monkeypatch.setattr(Player, "check_password", lambda player, raw: checked.append(raw) or check(player, raw))
    answers = await asyncio.gather(*(try_in(api, password=f"{WRONG} {i}") for i in range(30)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 25
    assert len(checked) == 5


async def test_thirty_failures_over_many_names_close_the_gate_for_their_address(api, alice, settings):
    settings.TRUSTED_PROXY_HOPS = 1
    await asyncio.gather(*(try_in(api, "alice", WRONG, X_Forwarded_For="192.0.2.1") for _ in range(20)))  # five of them count
    assert (await try_in(api, X_Forwarded_For="192.0.2.9")).status_code == 200
    for i in range(25):
        await failed(api, 1, f"name{i}", X_Forwarded_For="192.0.2.1")
    for _ in range(7):
        refused = await try_in(api, "somebody", WRONG, X_Forwarded_For="192.0.2.1")
        assert code(refused) == (429, "RATE_LIMITED")
        assert 14 * 60 < int(refused.headers["Retry-After"]) <= 15 * 60
    assert (await try_in(api, X_Forwarded_For="192.0.2.2")).status_code == 200
    name = limits.Take("sign-in", "somebody|192.0.2.1", 5)
    assert redis_client().zcard(name.key) == 0  # what was not tried at that name is not counted there


async def test_a_success_is_no_failure_of_its_address(api, alice):
    for _ in range(31):
        assert (await try_in(api)).status_code == 200
    assert redis_client().zcard(limits.Take("sign-in-address", "127.0.0.1", 30).key) == 0


async def test_passwords_are_hashed_one_after_the_other_and_the_line_is_short(api, alice, bob, monkeypatch):
    go, at_once, most = threading.Event(), 0, 0

    def slowly(_player: Player, _raw: str) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        go.wait(5)
        at_once -= 1
        return False

    monkeypatch.setattr(Player, "check_password", slowly)
    players = [await Player.objects.acreate(username=f"waiting{i}") for i in range(passwords.MOST)]
    in_line = [asyncio.create_task(try_in(api, player.username)) for player in players]
    try:
        async with asyncio.timeout(5):
            while passwords._places._value:
                await asyncio.sleep(0.01)
            for _ in range(6):  # more often than a name may fail: it was not looked at, so it does not count
                refused = await try_in(api, "bob")
                assert code(refused) == (503, "UNAVAILABLE")
                assert int(refused.headers["Retry-After"]) >= 1
            page = await posted(api, "/sign-in/", "bob", PASSWORD)
            assert "Too many people are signing in." in page.text
            assert (await api.call("GET", "/scores/leaderboard", params={"limit": 77})).status_code == 200
            assert (await api.http.get("/readyz")).status_code == 200
            await api.earn(alice)
    finally:
        go.set()
    assert {(await answer).status_code for answer in in_line} == {401}
    assert most == 1
    monkeypatch.undo()
    assert (await try_in(api, "bob")).status_code == 200


async def test_zero_switches_the_gate_off(api, alice, settings):
    settings.SIGN_IN_FAILURE_LIMIT = 0
    await failed(api, 8)
    assert (await try_in(api)).status_code == 200


async def posted(api: Any, path: str, username: str, password: str) -> Any:
    page = await api.http.get(path)
    [csrf] = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    form = {"username": username, "password": password, "csrfmiddlewaretoken": csrf}
    return await api.http.post(path, data=form, headers={"Referer": f"http://localhost{path}"})


@pytest.mark.parametrize(("path", "goes_to"), [("/sign-in/", "/"), ("/admin/login/?next=/admin/", "/admin/")])
async def test_the_same_gate_stands_before_the_sign_in_page_and_the_admin(api, moderator, path, goes_to):
    good = await posted(api, path, "moderator", PASSWORD)
    assert (good.status_code, good.headers["Location"]) == (302, goes_to)
    api.http.cookies.clear()
    await failed(api, 2, "moderator")  # one count for all three doors
    for _ in range(3):
        page = await posted(api, path, "moderator", WRONG)
        assert page.status_code == 200
        assert "Please enter a correct" in page.text or "Please enter the correct" in page.text
    page = await posted(api, path, "moderator", PASSWORD)
    assert page.status_code == 200
    assert "Too many failed tries. Try again in 15 minutes." in page.text
    assert "sessionid" not in api.http.cookies
    assert code(await try_in(api, "moderator")) == (429, "RATE_LIMITED")


async def test_of_thirty_parallel_tries_at_three_doors_five_reach_the_password(api, moderator, monkeypatch):
    checked, check = [], Player.check_password
    monkeypatch.setattr(Player, "check_password", lambda player, raw: checked.append(raw) or check(player, raw))
    tries = [try_in(api, "moderator", WRONG) for _ in range(10)]
    for path in ("/sign-in/", "/admin/login/"):
        tries += [posted(api, path, "moderator", WRONG) for _ in range(10)]
    await asyncio.gather(*tries)
    assert checked == [WRONG] * 5


async def test_the_sign_in_page_tries_no_password_that_is_too_long_to_hash(api, alice, monkeypatch):
    checked = []
    monkeypatch.setattr(Player, "check_password", lambda _player, raw: checked.append(raw))
    page = await posted(api, "/sign-in/", "alice", "x" * 129)
    assert page.status_code == 200
    assert not checked


# --- From which address -----------------------------------------------------------------------------------------------


async def test_a_forwarded_address_is_anybody_s_invention(api, alice):
    for i in range(5):
        await failed(api, 1, X_Forwarded_For=f"10.0.0.{i}", Forwarded=f"for=10.0.0.{i}", X_Real_IP=f"10.0.0.{i}")
    assert code(await try_in(api, X_Forwarded_For="10.9.9.9")) == (429, "RATE_LIMITED")


async def test_behind_one_proxy_the_last_hop_counts(api, alice, settings):
    settings.TRUSTED_PROXY_HOPS = 1
    for i in range(5):
        await failed(api, 1, X_Forwarded_For=f"10.0.0.{i}, 192.0.2.1")
    assert code(await try_in(api, X_Forwarded_For="192.0.2.1")) == (429, "RATE_LIMITED")
    assert (await try_in(api, X_Forwarded_For="192.0.2.2")).status_code == 200


async def test_behind_two_proxies_the_last_hop_but_one_counts(api, alice, settings):
    settings.TRUSTED_PROXY_HOPS = 2
    for i in range(5):
        await failed(api, 1, X_Forwarded_For=f"10.0.0.{i}, 192.0.2.1, 172.16.0.{i}")
    assert code(await try_in(api, X_Forwarded_For="192.0.2.1,172.16.0.9")) == (429, "RATE_LIMITED")
    assert (await try_in(api, X_Forwarded_For="192.0.2.1, 192.0.2.2, 172.16.0.9")).status_code == 200


async def test_a_chain_that_is_too_short_has_not_come_through_our_proxies(api, alice, settings):
    settings.TRUSTED_PROXY_HOPS = 2
    for i in range(5):
        await failed(api, 1, X_Forwarded_For=f"10.0.0.{i}")
    assert code(await try_in(api)) == (429, "RATE_LIMITED")


async def test_several_forwarding_headers_are_one_chain(api, alice, settings):
    settings.TRUSTED_PROXY_HOPS = 1
    body = {"username": "alice", "password": WRONG}
    for i in range(5):
        headers = [("X-Forwarded-For", f"10.0.0.{i}"), ("X-Forwarded-For", "192.0.2.1")]
        assert code(await api.http.post("/api/v1/auth/token", json=body, headers=headers)) == (401, "UNAUTHORIZED")
    assert code(await try_in(api, X_Forwarded_For="192.0.2.1")) == (429, "RATE_LIMITED")


# --- Session cookies --------------------------------------------------------------------------------------------------

NO_KEYS = [r'"aaaaaaaaaaaa\000"', "x", "A" * 32, "a" * 31, "a" * 33, "a" * 10_000, "\u00e9" * 32, "a" * 31 + "\n"]


@pytest.mark.parametrize("key", NO_KEYS)
async def test_a_cookie_that_is_no_session_key_is_no_session(api, alice, key):
    headers = {b"Cookie": b"sessionid=" + key.encode()}
    assert code(await api.http.get("/api/v1/scores/around-me", headers=headers)) == (401, "UNAUTHORIZED")
    assert (await api.http.get("/", headers=headers)).status_code == 200
    assert (await api.http.get("/play/", headers=headers)).status_code in (200, 302)
    assert await sign_in.session_player(key.encode().decode("latin-1")) is None
    assert await sign_in.session_player("aaaaaaaaaaaa\x00") is None

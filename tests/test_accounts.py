"""Account pages: sign up, password, profile, and being on no public board by one's own wish."""

import asyncio
import re
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from leaderboard import avatars, board, healing, moderation, periods, profiles, reading
from leaderboard.models import Player, Score
from leaderboard.periods import KINDS
from scoreboard_project import env, limits
from tests.conftest import PASSWORD, code
from tests.test_ended_access import standing
from tests.test_ledger import WHY, award
from tests.test_pages import Browser, browser  # noqa: F401
from tests.test_sign_in import refreshed, signed_in, try_in

GOOD = "seven green lamps"
NEW = "another horse battery"


def sign_up(name: str, password: str = GOOD, again: str | None = None, who: Client | None = None, **extra: str) -> Any:
    form = {"username": name, "password1": password, "password2": password if again is None else again, **extra}
    return (who or Client()).post("/sign-up/", form)


def errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return {name: list(said) for name, said in answer.context["form"].errors.items()}


@pytest.fixture
def free(settings) -> None:
    settings.SIGN_UP_LIMIT = 0


# --- Sign-up ----------------------------------------------------------------------------------------------------------


def test_a_name_and_a_password_make_an_account_that_is_signed_in(world):
    who = Client()
    answer = sign_up("Nova", who=who)
    assert (answer.status_code, answer["Location"]) == (302, "/play/")
    player = Player.objects.get(username="Nova")
    assert not player.is_staff and not player.is_superuser and player.score.total_score == 0
    assert player.check_password(GOOD)
    assert who.get("/account/").context["user"] == player
    assert who.get("/sign-up/")["Location"] == "/account/"


async def test_the_form_works_in_a_browser_without_javascript_and_needs_its_csrf_token(browser):  # noqa: F811
    assert (await browser.http.post("/sign-up/", data={"username": "nova"})).status_code == 403
    answer = await browser.submit("/sign-up/", {"username": "nova", "password1": GOOD, "password2": GOOD})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/play/")
    assert "Your account is ready" in (await browser.get("/account/")).text + (await browser.get("/")).text


BAD_NAMES = ["", "admin", "Adm1n", "a b", "_x", "x" * 33, "аlісе", "alice", "ALICE", "A1ice", "\u202egnp", "<b>", "a\x00b"]
BAD_PASSWORDS = [("short1", None), ("password123", None), (GOOD, "seven red lamps"), ("nova-nova", None), ("x1" * 65, None)]


def test_the_rules_of_names_and_passwords_hold(world, free, alice):
    for name in BAD_NAMES:
        assert "username" in errors(sign_up(name)), name
    for password, again in BAD_PASSWORDS:
        assert "password2" in errors(sign_up("nova-nova", password, again)), password
    assert list(Player.objects.all()) == [alice]


def test_nothing_else_in_the_form_counts(world):
    sign_up("nova", is_staff="on", is_superuser="on", email="a@b.example", total_score="5", id="1", groups="1")
    player = Player.objects.get()
    assert (player.is_staff, player.is_superuser, player.email, player.groups.count()) == (False, False, None, 0)


def test_of_two_who_want_a_name_at_once_one_gets_it(world, free, monkeypatch):
    monkeypatch.setattr(Player, "validate_unique", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(Player, "clean", lambda self: self._settle())  # both have looked before either is in
    assert sign_up("nova").status_code == 302
    assert errors(sign_up("Nova")) == {"username": ["A player with that name exists already."]}
    assert Player.objects.count() == 1


def test_an_address_may_try_so_often_an_hour_good_or_bad(world, settings):
    settings.SIGN_UP_LIMIT = 3
    assert errors(sign_up("admin")) and errors(sign_up("nova", "short"))
    assert sign_up("nova").status_code == 302
    answer = sign_up("vega")
    assert answer.status_code == 429 and 3500 < int(answer["Retry-After"]) <= 3600
    assert "Try again in 60 minutes" in answer.text and not Player.objects.filter(username="vega").exists()
    with CaptureQueriesContext(connection) as queries:
        sign_up("nova")  # nor is it told any more whether a name is taken
    assert len(queries) == 0


async def test_of_twenty_parallel_tries_as_many_pass_as_may(api, settings):
    settings.SIGN_UP_LIMIT = 4
    form = await api.http.get("/sign-up/")
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', form.text).group(1)

    async def one(number: int) -> int:
        fields = {"username": f"nova{number}", "password1": GOOD, "password2": GOOD, "csrfmiddlewaretoken": token}
        return (await api.http.post("/sign-up/", data=fields)).status_code

    answers = await asyncio.gather(*[one(number) for number in range(20)])
    assert answers.count(429) == 16
    assert await Player.objects.acount() <= 4


def test_where_sign_up_is_closed_there_is_no_such_page(world, settings):
    settings.SIGN_UP = "closed"
    assert Client().get("/sign-up/").status_code == sign_up("nova").status_code == 404
    assert "/sign-up/" not in Client().get("/sign-in/").text
    settings.SIGN_UP = "open"
    assert 'href="/sign-up/"' in Client().get("/sign-in/").text


# --- The password -----------------------------------------------------------------------------------------------------


def change(who: Client, old: str, new: str = NEW) -> Any:
    return who.post("/account/password/", {"old_password": old, "new_password1": new, "new_password2": new})


async def test_a_new_password_ends_all_other_access_and_this_session_goes_on(api, alice):
    pair = await signed_in(api)
    here, elsewhere = Client(), Client()
    for window in (here, elsewhere):
        await sync_to_async(window.force_login)(alice)
    answer = await sync_to_async(change)(here, PASSWORD)
    assert (answer.status_code, answer["Location"]) == (302, "/account/")
    assert (await sync_to_async(here.get)("/account/")).status_code == 200
    assert (await sync_to_async(elsewhere.get)("/account/")).status_code == 302
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    for _ in range(60):
        if (await standing(api, pair["access"])).status_code == 401:
            break
        await asyncio.sleep(0.1)
    assert (await standing(api, pair["access"])).status_code == 401
    assert (await try_in(api, password=PASSWORD)).status_code == 401
    assert (await try_in(api, password=NEW)).status_code == 200


def test_the_old_password_is_asked_for_and_cannot_be_guessed(world, alice):
    who = Client()
    who.force_login(alice)
    for _ in range(5):
        assert "entered incorrectly" in errors(change(who, "a guess"))["old_password"][0]
    assert "Too many failed tries" in errors(change(who, PASSWORD))["old_password"][0]
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


def test_right_answers_are_not_counted(world, alice):
    who = Client()
    who.force_login(alice)
    for number in range(7):
        assert change(who, PASSWORD if not number else f"{NEW}{number - 1}", f"{NEW}{number}").status_code == 302
    assert limits.take([limits.Take("password", alice.pk.hex, 1, 900)]) == [0.0]


@pytest.mark.parametrize("path", ["/account/", "/account/password/"])
def test_account_pages_are_for_those_who_are_signed_in(world, path):
    for method in ("get", "post"):
        answer = getattr(Client(), method)(path)
        assert (answer.status_code, answer["Location"]) == (302, f"/sign-in/?next={path}")


# --- The profile ------------------------------------------------------------------------------------------------------


def save(player: Player, **fields: str) -> Any:
    who = Client()
    who.force_login(player)
    return who.post("/account/", {"username": player.username, "avatar_url": "", **fields})


def row() -> dict[str, Any] | None:
    return next(iter(board.top().rows), None)


def test_a_name_can_be_respelled_and_not_exchanged(world, alice, bob):
    award(alice, 10)
    assert save(alice, username="Álice").status_code == 302
    alice.refresh_from_db()
    assert alice.username == row()["username"] == "Álice"
    for name in ("eve", "bob", "alice2", "", "admin", "а"):
        assert "username" in errors(save(alice, username=name)), name
    alice.refresh_from_db()
    assert alice.username == row()["username"] == "Álice"


def test_a_picture_is_from_a_host_that_is_allowed_or_none(world, alice, settings):
    award(alice, 10)
    assert 'name="avatar_url"' not in save(alice, username="x").text  # with no host there is nothing to fill in
    settings.AVATAR_HOSTS = ["cdn.example.com", "*.pictures.example"]
    good = "https://cdn.example.com/a.png"
    assert save(alice, avatar_url=good).status_code == 302
    assert row()["avatarUrl"] == good
    for bad in (
        "https://evil.example/a.png",
        "http://cdn.example.com/a.png",
        "javascript:alert(1)",
        "https://cdn.example.com:8443/",
    ):
        assert "avatar_url" in errors(save(alice, avatar_url=bad)), bad
    assert row()["avatarUrl"] == good
    assert save(alice).status_code == 302
    assert row()["avatarUrl"] is None


@pytest.mark.parametrize(
    ("hosts", "url", "good"),
    [
        (["cdn.example.com"], "https://cdn.example.com/x", True),
        (["cdn.example.com"], "https://CDN.example.com:443/x", True),
        (["cdn.example.com"], "https://cdn.example.com.evil.example/x", False),
        (["cdn.example.com"], "https://a.cdn.example.com/x", False),
        (["cdn.example.com"], "https://cdn.example.com@evil.example/x", False),
        (["cdn.example.com"], "https://user:password@cdn.example.com/x", False),
        (["cdn.example.com"], "https://evil.example\\@cdn.example.com/x", False),
        (["cdn.example.com"], "https://cdn.example.com:x/", False),
        (["cdn.example.com"], "//cdn.example.com/x", False),
        (["*.example.com"], "https://a.b.example.com/x", True),
        (["*.example.com"], "https://example.com/x", False),
        (["*.example.com"], "https://badexample.com/x", False),
        (["*"], "https://anywhere.example/x", True),
        (["*"], "http://anywhere.example/x", False),
        ([], "https://cdn.example.com/x", False),
    ],
)
def test_a_picture_is_allowed_exactly_where_a_browser_shows_it(settings, hosts, url, good):
    settings.AVATAR_HOSTS = hosts
    assert avatars.allowed(url) is good


def test_hosts_are_read_once_for_form_and_policy(monkeypatch):
    monkeypatch.setenv("AVATAR_HOSTS", "CDN.example.com, *.pictures.example")
    assert env.hosts("AVATAR_HOSTS") == ["cdn.example.com", "*.pictures.example"]
    assert env.image_sources(["a.example", "*.b.example"]) == ["https://a.example", "https://*.b.example"]
    assert env.image_sources(["a.example", "*"]) == ["https:"]
    for bad in ("https://a.example", "a.example:8443", "example", "a.example/x", "*.*.example", "'unsafe-inline'", "a.example;b"):
        monkeypatch.setenv("AVATAR_HOSTS", bad)
        with pytest.raises(ImproperlyConfigured, match="AVATAR_HOSTS"):
            env.hosts("AVATAR_HOSTS")


def test_with_no_host_the_policy_allows_none(world):
    policy = Client().get("/").headers["Content-Security-Policy"]
    assert "img-src 'self' data:;" in policy + ";" and "https:" not in policy


# --- On no public board -----------------------------------------------------------------------------------------------


def on_boards() -> list[list[str]]:
    """Who is on the board of all time, of the day, the week, the month: by Redis, then by PostgreSQL."""
    found = []
    for source in (board.top, lambda limit, period: reading.standings.Board(period).head(limit)):
        for period in (None, *map(periods.current, KINDS)):
            rows = source(10, period)
            found.append([getattr(one, "username", None) or one["username"] for one in getattr(rows, "rows", rows)])
    return found


def test_who_opts_out_earns_unseen_on_every_board_and_comes_back_in_place(world, alice, bob):
    award(alice, 100)
    award(bob, 50)
    assert on_boards() == [["alice", "bob"]] * 8
    assert save(alice, opted_out="on").status_code == 302
    assert on_boards() == [["bob"]] * 8
    line = award(alice, 10)
    assert (line.verdict, line.rank) == ("paid", None)
    assert on_boards() == [["bob"]] * 8
    assert reading.standing(alice.pk) == (None, 110)
    healing.rebuild()
    assert on_boards() == [["bob"]] * 8
    assert save(alice).status_code == 302
    assert on_boards() == [["alice", "bob"]] * 8
    assert reading.standing(alice.pk) == (1, 110)


@pytest.mark.parametrize("act", [moderation.hide, moderation.suspend])
def test_what_moderators_decided_a_player_cannot_undo(world, alice, moderator, act):
    award(alice, 100)
    act(player_id=alice.pk, moderator=moderator, reason=WHY)
    for wish in ({"opted_out": "on"}, {}, {"hidden": "", "suspended": ""}):
        assert save(alice, **wish).status_code == 302
        assert on_boards() == [[]] * 8
    score = Score.objects.get(player=alice)
    assert (score.hidden, score.suspended) == (act is moderation.hide, act is moderation.suspend)


def test_what_a_player_wished_moderators_do_not_undo_by_showing(world, alice, moderator):
    award(alice, 100)
    profiles.change(alice, opted_out=True)
    moderation.hide(player_id=alice.pk, moderator=moderator, reason=WHY)
    moderation.show(player_id=alice.pk, moderator=moderator, reason=WHY)
    assert on_boards() == [[]] * 8


def test_the_account_page_says_how_things_stand(world, alice, moderator):
    who = Client()
    who.force_login(alice)
    award(alice, 1234)
    page = who.get("/account/").text
    assert "1,234 points" in page and "#1" in page and 'href="/players/alice/"' in page
    moderation.hide(player_id=alice.pk, moderator=moderator, reason="secret reason")
    page = who.get("/account/").text
    assert "off public boards" in page and "/players/alice/" not in page and "secret reason" not in page
    moderation.suspend(player_id=alice.pk, moderator=moderator, reason="secret reason")
    page = who.get("/account/").text
    assert "have suspended this account" in page and "secret reason" not in page

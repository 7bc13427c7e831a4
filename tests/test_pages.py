"""The pages: complete without JavaScript, safe under a strict policy, and helpful where something went wrong."""

import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import OperationalError
from django.test import Client
from django.urls import path
from django.utils import timezone

from actions.models import ActionType, QuizAttempt
from leaderboard import moderation
from leaderboard.models import Player, Score, ScoreEntry
from scoreboard_project import sign_in, urls
from scoreboard_project.request_id import RequestId
from tests.conftest import PASSWORD, Api, code, make_player

VOID = {"meta", "link", "input", "img", "br", "hr", "path", "rect", "circle"}


class Page(HTMLParser):
    """An answer, taken apart: what a browser without scripts would show."""

    def __init__(self, answer: httpx.Response):
        super().__init__()
        self.answer = answer
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[tuple[str, list[tuple[str, dict[str, str | None]]]]] = []  # text, and what it stands in
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        unseen = any(name in ("template", "script", "style", "title") or "hidden" in attrs for name, attrs in self.open)
        if data.strip() and not unseen:
            self.shown.append((" ".join(data.split()), list(self.open)))

    @property
    def text(self) -> str:
        return " ".join(text for text, _ in self.shown)

    def within(self, **wanted: str) -> list[str]:
        """The texts in elements with these attributes (`data_part` means `data-part`)."""
        names = {name.replace("_", "-"): value for name, value in wanted.items()}
        return [text for text, inside in self.shown if any(names.items() <= attrs.items() for _, attrs in inside)]

    def csrf(self) -> str:
        values = {attrs["value"] for tag, attrs in self.elements if attrs.get("name") == "csrfmiddlewaretoken"}
        assert values, "no form with a CSRF token"
        return values.pop() or ""

    def links(self) -> set[str | None]:
        return {attrs.get("href") for tag, attrs in self.elements if tag == "a"}


class Browser:
    """A browser without JavaScript; keeps its cookies."""

    def __init__(self, http: httpx.AsyncClient):
        self.http = http

    async def get(self, where: str) -> Page:
        return Page(await self.http.get(where))

    async def submit(self, where: str, form: dict[str, str], **fields: str) -> httpx.Response:
        """Open the page at `where` and send its form, to itself."""
        page = await self.get(where)
        return await self.http.post(page.answer.url, data={"csrfmiddlewaretoken": page.csrf(), **form, **fields})

    async def sign_in(self, player: Player) -> None:
        client = Client()
        await sync_to_async(client.force_login)(player)
        name = django_settings.SESSION_COOKIE_NAME
        self.http.cookies.set(name, client.cookies[name].value)


@pytest.fixture
def browser(api: Api) -> Browser:
    return Browser(api.http)


# --- The board --------------------------------------------------------------------------------------------------------


def rows_of(page: Page) -> list[tuple[str, str, str]]:
    """(rank, name, score) of each row that can be seen."""
    wanted = [page.within(data_part=name) for name in ("rank", "name", "score")]
    return list(zip(*wanted, strict=True))


async def test_the_board_is_complete_without_javascript(api, browser, no_limits):
    players = [await sync_to_async(make_player)(f"p{number:02}") for number in range(12)]
    for rank, player in enumerate(players):
        for _ in range(12 - rank):
            await api.earn(player)
    page = await browser.get("/")
    assert page.answer.status_code == 200
    scores = [f"{(12 - rank) * 100:,}" for rank in range(10)]
    assert rows_of(page) == [(str(rank + 1), f"p{rank:02}", scores[rank]) for rank in range(10)]
    assert "No points yet" not in page.text
    assert "Refresh" in page.text and "/" in page.links()
    assert "Live" not in page.within(data_part="state"), "only a script may claim that"
    told = (await api.call("GET", "/scores/leaderboard")).json()["data"]
    assert [name for _, name, _ in rows_of(page)] == [row["username"] for row in told["leaderboard"]]
    ((_, updated),) = [(tag, attrs) for tag, attrs in page.elements if attrs.get("data-part") == "updated"]
    assert datetime.fromisoformat(updated["datetime"]) == datetime.fromisoformat(told["lastUpdated"])
    (shown,) = page.within(data_part="updated")
    assert shown == datetime.fromisoformat(told["lastUpdated"]).strftime("%b %-d, %H:%M:%S UTC")


async def test_an_empty_board_says_so_and_shows_no_table(browser):
    page = await browser.get("/")
    assert "No points yet. Be the first" in page.text
    assert rows_of(page) == []
    assert "Rank" not in page.text


HOSTILE = ['<script>alert("1")</script>', "</script><b>x", "{{ 7|add:7 }}", "\u202egnp.exe", "<!--"]


async def test_names_are_shown_as_text_and_kept_apart_from_what_stands_beside_them(api, browser, no_limits):
    for points, name in enumerate(HOSTILE):
        player = await sync_to_async(make_player)(name)
        for _ in range(len(HOSTILE) - points):
            await api.earn(player)
    page = await browser.get("/")
    assert [name for _, name, _ in rows_of(page)] == HOSTILE
    for text, inside in page.shown:
        if text in HOSTILE:
            assert inside[-1][0] == "bdi"
    assert 'alert("1")' not in page.answer.text  # nor in the JSON for the script


async def test_an_avatar_is_an_image_that_tells_nobody_where_it_was_seen(api, browser, alice):
    alice.avatar_url = 'https://cdn.example/a.png?x="y&z'
    await alice.asave()
    await api.earn(alice)
    (image,) = [attrs for tag, attrs in (await browser.get("/")).elements if tag == "img"]
    assert image["src"] == alice.avatar_url
    assert (image["alt"], image["referrerpolicy"], image["width"], image["height"]) == ("", "no-referrer", "40", "40")


async def test_who_is_signed_in_sees_their_own_place(api, browser, alice, no_limits):
    assert "Join in" in (await browser.get("/")).text
    await browser.sign_in(alice)
    page = await browser.get("/")
    assert "You are not on this board." in page.text and "Join in" not in page.text
    await api.earn(alice, "task_finish")
    page = await browser.get("/")
    assert page.within(data_part="me-rank") == ["#1"] and page.within(data_part="me-score") == ["50"]
    assert page.within(data_part="you") == ["You"]  # marked in the list, too
    for number in range(10):
        await api.earn(await sync_to_async(make_player)(f"p{number:02}"))
    page = await browser.get("/")
    assert page.within(data_part="me-rank") == ["#11"] and page.within(data_part="you") == []
    assert "alice" not in [name for _, name, _ in rows_of(page)]


async def test_a_player_off_the_board_is_not_told_a_rank(api, browser, alice, moderator):
    await api.earn(alice)
    await sync_to_async(moderation.hide)(player_id=alice.pk, moderator=moderator, reason="x")
    await browser.sign_in(alice)
    page = await browser.get("/")
    assert "You are not on this board." in page.text and page.within(data_part="me-rank") == []


async def test_simulated_players_are_called_so_and_only_those(browser, settings):
    ribbon = "Sample data: these players are simulated"
    assert ribbon not in (await browser.get("/")).text
    settings.SAMPLE_DATA = True
    assert ribbon in (await browser.get("/")).text


# --- Signing in and out -----------------------------------------------------------------------------------------------


async def test_signing_in_leads_on_to_where_one_was_going(browser, alice):
    page = await browser.get("/play/")
    assert page.answer.status_code == 302 and page.answer.headers["Location"] == "/sign-in/?next=/play/"
    answer = await browser.submit("/sign-in/?next=/play/", {"username": "alice", "password": PASSWORD}, next="/play/")
    assert answer.status_code == 302 and answer.headers["Location"] == "/play/"
    page = await browser.get("/play/")
    assert page.answer.status_code == 200 and "alice" in page.text


async def test_signing_in_leads_to_no_other_site(browser, alice):
    for elsewhere in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        answer = await browser.submit("/sign-in/", {"username": "alice", "password": PASSWORD}, next=elsewhere)
        assert answer.status_code == 302 and answer.headers["Location"] == "/"
        browser.http.cookies.clear()


async def test_the_sign_in_page_never_leads_back_to_itself(browser, alice):
    page = await browser.get("/sign-in/")
    assert not [link for link in page.links() if link and link.startswith("/sign-in/")]
    await browser.sign_in(alice)
    for where in ("/sign-in/", "/sign-in/?next=/sign-in/"):
        answer = (await browser.get(where)).answer
        assert answer.status_code == 302 and answer.headers["Location"] == "/"


async def test_a_wrong_password_says_no_more_than_that(browser, alice):
    wrong = Page(await browser.submit("/sign-in/", {"username": "alice", "password": "wrong"}))
    unknown = Page(await browser.submit("/sign-in/", {"username": "nobody", "password": "wrong"}))
    assert "Please enter a correct username and password" in wrong.text
    assert wrong.text == unknown.text
    assert ("input", "alice") in [(tag, attrs.get("value")) for tag, attrs in wrong.elements]
    assert "wrong" not in wrong.answer.text  # the password is not sent back


async def test_after_five_failures_the_page_says_when_to_try_again(browser, alice):
    for _ in range(5):
        await browser.submit("/sign-in/", {"username": "alice", "password": "wrong"})
    page = Page(await browser.submit("/sign-in/", {"username": "alice", "password": PASSWORD}))
    assert "Too many failed tries. Try again in 15 minutes." in page.text
    assert (await browser.get("/play/")).answer.status_code == 302


async def test_signing_out_ends_the_session_and_needs_a_form(browser, alice):
    await browser.sign_in(alice)
    session = browser.http.cookies[django_settings.SESSION_COOKIE_NAME]
    assert (await browser.http.get("/sign-out/")).status_code == 405
    assert (await browser.http.post("/sign-out/")).status_code == 403
    token = (await browser.get("/")).csrf()
    answer = await browser.http.post("/sign-out/", data={"csrfmiddlewaretoken": token})
    assert answer.status_code == 302 and answer.headers["Location"] == "/"
    browser.http.cookies.set(django_settings.SESSION_COOKIE_NAME, session)
    assert (await browser.get("/play/")).answer.status_code == 302  # the old cookie opens nothing


# --- Play -------------------------------------------------------------------------------------------------------------


def outcome(answer: httpx.Response) -> tuple[str, bool]:
    """What the page says came of it, and whether that is good news."""
    page = Page(answer)
    assert answer.status_code == 200
    good = [attrs for _, attrs in page.elements if attrs.get("class") == "message success"]
    return " ".join(page.within(**{"class": "outcome"})), bool(good)


async def test_the_form_earns_points_without_javascript(browser, alice):
    await browser.sign_in(alice)
    page = await browser.get("/play/")
    offered = [attrs["value"] for tag, attrs in page.elements if attrs.get("name") == "actionType"]
    assert offered == ["level_up", "quiz_complete", "task_finish", "daily_login"]
    assert "+100" in page.text and "Complete and redeem" in page.text
    assert "Without JavaScript the server does both steps for you" in page.text
    answer = await browser.submit("/play/", {"actionType": "level_up"})
    assert outcome(answer) == ("+100 You are now number 1 with 100 points.", True)
    answer = await browser.submit("/play/", {"actionType": "task_finish"})
    assert outcome(answer) == ("+50 You are now number 1 with 150 points.", True)
    assert (await Score.objects.aget(player=alice)).total_score == 150
    assert await ScoreEntry.objects.acount() == 2


async def test_a_quiz_is_played_without_javascript(browser, alice):
    await browser.sign_in(alice)
    asked = Page(await browser.submit("/play/", {"actionType": "quiz_complete", "start": "1"}))
    fields = [attrs for tag, attrs in asked.elements if tag == "input"]
    [attempt_id] = [attrs["value"] for attrs in fields if attrs.get("name") == "attemptId"]
    attempt = await QuizAttempt.objects.aget(pk=attempt_id)
    choices = {(attrs["name"], attrs["value"]) for attrs in fields if attrs.get("type") == "radio" and "name" in attrs}
    assert choices == {(f"answer-{q['id']}", str(place)) for q in attempt.questions for place in range(len(q["choices"]))}
    await QuizAttempt.objects.aupdate(started_at=timezone.now() - timedelta(seconds=9))
    right = {f"answer-{question['id']}": str(question["right"]) for question in attempt.questions}
    answers = {"actionType": "quiz_complete", "attemptId": attempt_id, **right}
    assert outcome(await browser.submit("/play/", answers)) == ("+100 You are now number 1 with 100 points.", True)
    text, good = outcome(await browser.submit("/play/", answers))
    assert "already" in text and not good


@pytest.mark.parametrize(
    "odd", [{"attemptId": "\x00"}, {"answer-\x00": "1"}, {"answer-1": "9" * 5_000}, {"answer-1": "٣"}], ids=str
)
async def test_answers_that_no_form_of_ours_sends_are_left_out(browser, alice, odd):
    await browser.sign_in(alice)
    answer = await browser.submit("/play/", {"actionType": "level_up", "attemptId": "x", **odd})
    assert outcome(answer) == ("+100 You are now number 1 with 100 points.", True)
    text, good = outcome(await browser.submit("/play/", {"actionType": "quiz_complete", "attemptId": "x", **odd}))
    assert "attemptId" in text and not good


async def test_what_only_a_game_server_may_complete_is_not_offered(browser, alice):
    await ActionType.objects.acreate(slug="match_won", label="Match", points=250, verification="trusted")
    await browser.sign_in(alice)
    assert "match_won" not in (await browser.get("/play/")).text
    text, good = outcome(await browser.submit("/play/", {"actionType": "match_won"}))
    assert "Only a game server" in text and not good


async def test_a_refusal_is_told_on_the_page(browser, alice, moderator, settings):
    await browser.sign_in(alice)
    for nonsense in ("", "no_such_action", "x" * 500, "nul\x00byte", "quiz_complete\n"):
        text, good = outcome(await browser.submit("/play/", {"actionType": nonsense}))
        assert text and not good, nonsense
    for odd in ({"attemptId": "\x00"}, {"attemptId": "x", "answer-1": "9" * 5000}, {"attemptId": "x", "answer-\x00": "1"}):
        text, good = outcome(await browser.submit("/play/", {"actionType": "quiz_complete", **odd}))
        assert text and not good, odd
    await browser.submit("/play/", {"actionType": "daily_login"})
    text, good = outcome(await browser.submit("/play/", {"actionType": "daily_login"}))
    assert text and not good  # once a day
    settings.ACTION_RATE_LIMIT = 1
    text, good = outcome(await browser.submit("/play/", {"actionType": "level_up"}))
    assert "Too quick. Wait a little" in text and not good
    settings.ACTION_RATE_LIMIT = 0
    await sync_to_async(moderation.suspend)(player_id=alice.pk, moderator=moderator, reason="x")
    assert outcome(await browser.submit("/play/", {"actionType": "level_up"})) == (
        "Moderators have suspended this account: it earns no points.",
        False,
    )
    assert (await Score.objects.aget(player=alice)).total_score == 10


async def test_a_player_off_the_board_is_told_points_and_no_rank(browser, alice, moderator):
    await sync_to_async(moderation.hide)(player_id=alice.pk, moderator=moderator, reason="x")
    await browser.sign_in(alice)
    answer = await browser.submit("/play/", {"actionType": "level_up"})
    assert outcome(answer) == ("+100 You now have 100 points.", True)


async def test_only_what_is_switched_on_can_be_played(browser, alice):
    await ActionType.objects.filter(slug="task_finish").aupdate(enabled=False)
    await browser.sign_in(alice)
    page = await browser.get("/play/")
    assert "task_finish" not in page.answer.text
    await ActionType.objects.all().aupdate(enabled=False)
    assert "No action is open at the moment" in (await browser.get("/play/")).text


async def test_play_needs_a_session_and_its_own_form(browser, alice):
    token = (await browser.get("/sign-in/")).csrf()
    answer = await browser.http.post("/play/", data={"csrfmiddlewaretoken": token, "actionType": "level_up"})
    assert answer.status_code == 302 and answer.headers["Location"].startswith("/sign-in/")
    assert code(await browser.http.post("/play/token", data={"csrfmiddlewaretoken": token})) == (401, "UNAUTHORIZED")
    await browser.sign_in(alice)
    for where in ("/play/", "/play/token"):
        assert (await browser.http.post(where, data={"actionType": "level_up"})).status_code == 403
        foreign = {"csrfmiddlewaretoken": token, "actionType": "level_up"}
        answer = await browser.http.post(where, data=foreign, headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403
    assert not await ScoreEntry.objects.aexists()


async def test_the_page_s_access_token_is_its_player_s(api, browser, alice):
    await browser.sign_in(alice)
    assert (await browser.http.get("/play/token")).status_code == 405
    token = (await browser.get("/play/")).csrf()
    answer = await browser.http.post("/play/token", headers={"X-CSRFToken": token})
    assert sign_in.check_access(answer.json()["data"]["access"]).player_id == alice.pk
    assert "no-store" in answer.headers["Cache-Control"]


# --- What every page carries ------------------------------------------------------------------------------------------

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
}


def is_safe(answer: httpx.Response) -> None:
    policy = {part.strip() for part in answer.headers["Content-Security-Policy"].split(";")}
    assert policy >= POLICY, policy
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])
    for tag, attrs in Page(answer).elements:
        assert tag != "style" and "style" not in attrs, f"inline style in <{tag}>"
        assert not [name for name in attrs if name.startswith("on")], f"inline handler in <{tag}>"
        if tag == "script":
            assert "src" in attrs or attrs.get("type") == "application/json", "inline script"
        for name in ("src", "href", "action"):
            assert not re.match(r"(?:https?:)?//|javascript:", attrs.get(name) or ""), f"{name} leads elsewhere"


async def test_every_page_of_ours_is_safe_under_the_strict_policy(api, browser, alice):
    await api.earn(alice)
    for where in ("/", "/sign-in/"):
        is_safe((await browser.get(where)).answer)
    is_safe(await browser.submit("/sign-in/", {"username": "alice", "password": "wrong"}))
    await browser.sign_in(alice)
    for where in ("/", "/play/"):
        is_safe((await browser.get(where)).answer)
    is_safe(await browser.submit("/play/", {"actionType": "level_up"}))


async def test_cookies_are_out_of_a_script_s_reach(browser, alice):
    answer = await browser.submit("/sign-in/", {"username": "alice", "password": PASSWORD})
    cookies = answer.headers.get_list("Set-Cookie")
    assert len(cookies) == 2  # session and CSRF
    for cookie in cookies:
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie, cookie


# --- Where something went wrong ---------------------------------------------------------------------------------------


def _fails(problem: Exception) -> Any:
    def view(_request: Any) -> None:
        raise problem

    return view


def _outage() -> OperationalError:
    problem = OperationalError("connection refused")
    problem.__cause__ = psycopg.OperationalError("connection refused")
    return problem


handler400, handler403, handler404, handler500 = urls.handler400, urls.handler403, urls.handler404, urls.handler500
urlpatterns = [
    *urls.urlpatterns,
    path("wrong/400", _fails(SuspiciousOperation("secret detail"))),
    path("wrong/403", _fails(PermissionDenied("secret detail"))),
    path("wrong/500", _fails(ZeroDivisionError("secret detail"))),
    path("wrong/503", _fails(_outage())),
]


@pytest.fixture
async def broken(settings):
    """The pages of a site where some views fail; no database is allowed."""
    settings.ROOT_URLCONF = __name__
    transport = httpx.ASGITransport(app=RequestId(get_asgi_application()), raise_app_exceptions=False)
    cookies = {django_settings.SESSION_COOKIE_NAME: "x" * 32}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", cookies=cookies) as http:
        yield http


WRONG = {400: "could not be understood", 403: "You may not do that", 404: "There is nothing here"}
WRONG |= {500: "Something broke on our side", 503: "The scoreboard is away for a moment"}


@pytest.mark.parametrize("status", WRONG)
async def test_an_error_page_needs_no_database_and_tells_the_request_id(broken, status):
    answer = await broken.get(f"/wrong/{status}")
    assert answer.status_code == status
    page = Page(answer)
    assert WRONG[status] in page.text and str(status) in page.text
    assert answer.headers["X-Request-ID"] in page.text
    assert "secret detail" not in answer.text
    assert "/" in page.links()
    is_safe(answer)


async def test_a_form_without_its_token_gets_our_page_too(broken):
    for where in ("/sign-in/", "/play/", "/sign-out/"):
        answer = await broken.post(where, data={"username": "alice"})
        assert answer.status_code == 403
        page = Page(answer)
        assert "go back, reload the page and try again" in page.text
        assert answer.headers["X-Request-ID"] in page.text
        is_safe(answer)


async def test_an_unknown_host_gets_our_page_too(broken):
    answer = await broken.get("/", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert answer.headers["X-Request-ID"] in Page(answer).text
    assert "evil.example" not in answer.text

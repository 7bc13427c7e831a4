"""The board in other shapes: in a frame, on a big screen, in chosen colours; and what its sparklines are made of."""

import os
import subprocess
import sys
import uuid
from datetime import datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db.utils import OperationalError
from django.utils import timezone

from leaderboard import closing, history, ledger
from leaderboard.models import ModerationAct, ScoreEntry
from scoreboard_project import env
from tests.conftest import ROOT, Api, make_player
from tests.test_pages import Browser, Page, is_safe, rows_of


@pytest.fixture
def browser(api: Api) -> Browser:
    return Browser(api.http)


@pytest.fixture(autouse=True)
def _no_old_history(monkeypatch):
    monkeypatch.setattr(history, "_known", (0, {}))


# --- In a frame -------------------------------------------------------------------------------------------------------


async def test_the_embedded_board_may_be_framed_and_sets_no_cookie(api, browser, alice, no_limits):
    for number in range(6):
        await api.earn(await sync_to_async(make_player)(f"p{number}"))
    await browser.sign_in(alice)  # whoever looks
    await api.earn(alice)
    page = await browser.get("/embed/?limit=5")
    assert page.answer.status_code == 200
    assert len(rows_of(page)) == 5
    assert "Set-Cookie" not in page.answer.headers
    assert "Cookie" not in page.answer.headers.get("Vary", "")
    assert "alice" not in page.answer.text.replace("alice-", ""), "it knows nobody"
    policy = page.answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy and "script-src 'self'" in policy
    assert "X-Frame-Options" not in page.answer.headers
    for where in ("/", "/sign-in/"):
        is_safe((await browser.get(where)).answer)  # nothing else may be framed


async def test_an_embedded_board_takes_what_it_can_make_sense_of(api, browser, alice, no_limits):
    for number in range(11):
        await api.earn(await sync_to_async(make_player)(f"p{number:02}"))
    for query, rows in {"": 10, "?limit=1": 1, "?limit=0": 10, "?limit=11": 10, "?limit=x": 10, "?limit=%C2%B2": 10}.items():
        assert len(rows_of(await browser.get("/embed/" + query))) == rows, query
    for theme, shown in {"dark": "dark", "light": "light", "auto": None, '"><script>': None}.items():
        page = await browser.get(f"/embed/?theme={theme}")
        assert root(page).get("data-theme") == shown, theme
    browser.http.cookies.set("theme", "dark")
    assert "data-theme" not in root(await browser.get("/embed/"))  # the reader's choice elsewhere is not the frame's


def root(page: Page) -> dict[str, str | None]:
    return next(attrs for tag, attrs in page.elements if tag == "html")


def test_who_may_frame_it_is_checked_at_the_start(monkeypatch):
    monkeypatch.setenv("EMBED_FRAME_ANCESTORS", "self, https://example.com,https://*.example.org:8443")
    given = env.frame_ancestors("EMBED_FRAME_ANCESTORS", "self")
    assert given == ["'self'", "https://example.com", "https://*.example.org:8443"]
    monkeypatch.delenv("EMBED_FRAME_ANCESTORS")
    assert env.frame_ancestors("EMBED_FRAME_ANCESTORS", "self") == ["'self'"]
    for wrong in ("example.com", "https://a; script-src *", "https://a b", "'self'", "javascript:x", "https://a/path"):
        starting = [sys.executable, "-c", "import scoreboard_project.settings"]
        env_ = {**os.environ, "EMBED_FRAME_ANCESTORS": wrong}
        if wrong != "example.com":  # one whole start is enough
            monkeypatch.setenv("EMBED_FRAME_ANCESTORS", wrong)
            with pytest.raises(Exception, match="EMBED_FRAME_ANCESTORS"):
                env.frame_ancestors("EMBED_FRAME_ANCESTORS", "self")
            continue
        refused = subprocess.run(starting, cwd=ROOT, env=env_, capture_output=True, text=True, check=False)
        assert refused.returncode and "EMBED_FRAME_ANCESTORS" in refused.stderr


# --- Colours ----------------------------------------------------------------------------------------------------------


async def test_colours_are_remembered_without_a_script(browser):
    page = await browser.get("/?view=tv")
    assert "data-theme" not in root(page)
    answer = await browser.http.post("/theme/", data={"theme": "dark", "next": "/sign-in/?next=/play/"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in/?next=/play/")
    (cookie,) = answer.headers.get_list("Set-Cookie")
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    page = await browser.get("/")
    assert root(page)["data-theme"] == "dark"
    chosen = [attrs["value"] for _, attrs in page.elements if attrs.get("aria-pressed") == "true" and attrs["name"] == "theme"]
    assert chosen == ["dark"]
    assert [attrs["content"] for _, attrs in page.elements if attrs.get("name") == "color-scheme"] == ["dark"]
    await browser.http.post("/theme/", data={"theme": ""})
    assert "data-theme" not in root(await browser.get("/"))


async def test_choosing_colours_leads_nowhere_else(browser):
    for elsewhere in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", ""):
        answer = await browser.http.post("/theme/", data={"theme": "light", "next": elsewhere})
        assert answer.headers["Location"] == "/", elsewhere
    assert (await browser.http.get("/theme/")).status_code == 405
    browser.http.cookies.set("theme", '"><script>')
    assert "data-theme" not in root(await browser.get("/"))


# --- On a big screen --------------------------------------------------------------------------------------------------


async def test_the_big_screen_is_the_same_board(api, browser, alice):
    await api.earn(alice)
    page = await browser.get("/?view=tv")
    assert root(page)["data-view"] == "tv"
    assert rows_of(page) == [("1", "alice", "100")]
    is_safe(page.answer)
    assert root(await browser.get("/?view=wall"))["data-view"] == "page"


# --- What the sparklines show -----------------------------------------------------------------------------------------


def line(player, points, minutes_ago) -> None:
    """A ledger line of the past, as the ledger itself would never write it now."""
    then = timezone.now().replace(second=30) - timedelta(minutes=minutes_ago)
    ScoreEntry.objects.create(player=player, points=points, score_after=1000, source=uuid.uuid4(), created_at=then)


def test_an_hour_is_counted_minute_by_minute(alice, bob):
    for points, minutes_ago in ((100, 1), (50, 1), (10, 59), (70, 60), (90, 3000)):
        line(alice, points, minutes_ago)
    earned = history.last_hour([alice.pk, bob.pk])
    assert earned[bob.pk] == [0] * 60
    assert {at: points for at, points in enumerate(earned[alice.pk]) if points} == {58: 150, 0: 10}


def test_a_starting_score_is_nobody_s_form_and_a_reversal_counts(alice, moderator):
    act = ModerationAct.objects.create(verb="adjust", player=alice, moderator=moderator, reason="x")
    ledger.open_accounts([(alice.pk, act.pk, 1000)])
    award = ScoreEntry.objects.create(player=alice, points=100, score_after=1100, source=uuid.uuid4())
    undo = ModerationAct.objects.create(verb="reverse", player=alice, moderator=moderator, reason="x")
    ScoreEntry.objects.create(player=alice, points=-100, score_after=1000, source=undo.pk, act=undo, reverses=award)
    assert sum(history.last_hour([alice.pk])[alice.pk]) == 0
    ScoreEntry.objects.create(player=alice, points=30, score_after=1030, source=uuid.uuid4())
    history._known = (0, {})
    assert sum(history.last_hour([alice.pk])[alice.pk]) == 30


def test_many_visitors_ask_once_a_minute(alice, django_assert_num_queries):
    with django_assert_num_queries(1):
        for _ in range(5):
            history.last_hour([alice.pk])


def test_a_board_without_its_lines_is_still_a_board(alice, monkeypatch):
    def away(_ids):
        raise OperationalError("away")

    monkeypatch.setattr(history, "_earned", away)
    assert history.last_hour([alice.pk]) == {alice.pk: []}


# --- Days, weeks and months -------------------------------------------------------------------------------------------


def tabs(page: Page) -> dict[str, str | None]:
    """Label → address of the period tabs, the chosen one marked with a star."""
    labels = {}
    for text, inside in page.shown:
        link = next((attrs for tag, attrs in inside if tag == "a"), None)
        if link and any(attrs.get("class") == "tabs" for _, attrs in inside) and "rel" not in link:
            labels[text + "*" * ("aria-current" in link)] = link["href"]
    return labels


@sync_to_async
def earned_last_month(player) -> datetime:
    moment = timezone.now().replace(day=1, hour=12) - timedelta(days=3)
    ScoreEntry.objects.create(player=player, points=70, score_after=70, source=uuid.uuid4(), created_at=moment)
    closing.close_past()
    return moment


async def test_periods_are_links_that_need_no_script(api, browser, alice, bob, no_limits):
    then = await earned_last_month(bob)
    await api.earn(alice)
    page = await browser.get("/")
    assert tabs(page) == {"Today": "?period=day", "Week": "?period=week", "Month": "?period=month", "All time*": "/"}
    page = await browser.get("/?period=month")
    assert tabs(page)["Month*"] == "?period=month"
    assert rows_of(page) == [("1", "alice", "100")]
    assert "Resets" in page.text
    before = f"?period=month&at={then:%Y-%m-01}"
    assert before in page.links()
    page = await browser.get("/" + before)
    assert rows_of(page) == [("1", "bob", "70")]
    assert f"{then:%B %Y}" in page.text and "Final standings" in page.text
    assert "Last update" not in page.text and "Pause" not in page.text, "what is over needs neither"
    assert "?period=month" in page.links(), "the way on leads to the month that runs"
    assert not [link for link in page.links() if link and f"at={then.year - 1}" in link]
    is_safe(page.answer)


async def test_a_period_that_cannot_be_is_not_found(browser):
    for query in (
        "period=year",
        "period=day&at=2999-01-01",
        "period=day&at=yesterday",
        "at=2026-06-01",
        "period=day&period=week",
    ):
        assert (await browser.get(f"/?{query}")).answer.status_code == 404, query
    assert (await browser.get("/?period=day&at=2020-02-29")).answer.status_code == 200
    assert (await browser.get("/embed/?period=year")).answer.status_code == 200  # who sees it cannot mend the address


async def test_your_own_line_is_complete_without_javascript(api, browser, alice, bob, no_limits):
    await browser.sign_in(alice)
    await api.earn(alice)
    for _ in range(2):
        await api.earn(bob)
    page = await browser.get("/?period=week")
    assert page.within(data_part="me-rank") == ["#2"]
    assert page.within(data_part="me-score") == ["100"]
    assert page.within(data_part="me-next") == ["101 to #1"]
    assert page.within(data_part="near-name") == ["bob", "alice"]

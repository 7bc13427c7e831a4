"""Four languages: every string of the pages in each, one of them from right to left, chosen by the browser or by a button."""

import ast
import gettext
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.humanize.templatetags.humanize import intcomma
from django.test import Client
from django.utils import translation
from django.utils.translation.template import templatize
from playwright.sync_api import expect

from actions import wording
from actions.models import ActionType
from leaderboard.models import Player, Score
from scoreboard_project.errors import Forbidden
from tests.board_states import league
from tests.browsing import chromium, needs_chromium, server, visit  # noqa: F401
from tests.conftest import ROOT
from tests.test_ledger import award
from tests.test_pages import Page, browser  # noqa: F401

LOCALE = ROOT / "scoreboard_project" / "locale"
OTHERS = [code for code, _ in django_settings.LANGUAGES if code != "en"]
TRANSLATES = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy"}
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%d|%%|\{\w+\}")
NUMBERS = {"en": "1,234", "de": "1.234", "es": "1.234", "ar": "1,234"}


def in_python(path: Path) -> set[tuple[str, ...]]:
    """What the module translates: (message,) or (singular, plural)."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in TRANSLATES]
    return {
        tuple(arg.value for arg in call.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
        for call in named
    }


def in_template(path: Path) -> set[tuple[str, ...]]:
    calls = re.findall(r"\bn?gettext\((.*?)\) ", templatize(path.read_text()) + " ")
    return {
        tuple(ast.literal_eval(text) for text in re.findall(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", call)) for call in calls
    }


def used() -> set[tuple[str, ...]]:
    modules = [path for app in ("actions", "leaderboard", "scoreboard_project") for path in (ROOT / app).rglob("*.py")]
    found = set().union(*(in_python(path) for path in modules if "migrations" not in path.parts))
    return found.union(*(in_template(path) for path in (ROOT / "templates").rglob("*.html"))) - {()}


def catalogue(path: Path) -> dict[Any, str]:
    with path.open("rb") as file:
        return gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]


@pytest.mark.parametrize("language", OTHERS)
def test_every_string_has_its_translation_with_the_same_places_to_fill(language):
    strings = used()
    assert len(strings) > 300 and ("Sign in",) in strings and ("%(shown)s point", "%(shown)s points") in strings
    known = catalogue(LOCALE / language / "LC_MESSAGES" / "django.mo")
    forms = len({place for key in known if isinstance(key, tuple) for place in [key[1]]})
    assert forms == (6 if language == "ar" else 2)
    for message, *plural in strings:
        keys = [(message, place) for place in range(forms)] if plural else [message]
        for key in keys:
            assert known.get(key, "").strip(), f"{language}: {message!r} is not translated"
            assert sorted(PLACEHOLDER.findall(known[key])) == sorted(PLACEHOLDER.findall(message)), (language, message)


@pytest.mark.skipif(shutil.which("msgfmt") is None, reason="no msgfmt in PATH (apt-get install gettext)")
@pytest.mark.parametrize("language", OTHERS)
def test_what_is_compiled_is_what_is_written(language, tmp_path):
    written = LOCALE / language / "LC_MESSAGES" / "django.po"
    subprocess.run(["msgfmt", "--check-format", "-o", tmp_path / "new.mo", written], check=True)
    assert catalogue(tmp_path / "new.mo") == catalogue(written.with_suffix(".mo"))


# --- Which one --------------------------------------------------------------------------------------------------------


def test_the_browser_s_language_is_spoken_and_arabic_runs_from_right_to_left(world):
    for asked, (language, direction, word) in {
        "de": ("de", "ltr", "Anmelden"),
        "de-AT,en;q=0.5": ("de", "ltr", "Anmelden"),
        "es-MX": ("es", "ltr", "Entrar"),
        "ar-EG": ("ar", "rtl", "دخول"),
        "tlh": ("en", "ltr", "Sign in"),
        "x" * 3000: ("en", "ltr", "Sign in"),
    }.items():
        for path in ("/", "/nothing-here"):
            answer = Client().get(path, headers={"Accept-Language": asked})
            assert f'<html lang="{language}" dir="{direction}"' in answer.text, (asked, path)
            assert answer.headers["Content-Language"] == language and "Accept-Language" in answer.headers["Vary"]
        assert word in Client().get("/", headers={"Accept-Language": asked}).text


async def test_a_button_changes_the_language_without_a_script_and_leads_back(browser):  # noqa: F811
    page = await browser.get("/sign-in/?next=/play/")
    assert {"English", "Deutsch", "Español"} <= set(page.within(name="language"))
    answer = await browser.http.post("/language/", data={"language": "de", "next": "/sign-in/?next=/play/"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/sign-in/?next=/play/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    again = Page(await browser.http.get("/sign-in/", headers={"Accept-Language": "es"}))
    assert "Passwort" in again.text
    assert [
        attrs["value"] for _, attrs in again.elements if attrs.get("name") == "language" and attrs["aria-pressed"] == "true"
    ] == ["de"]


async def test_a_language_that_is_none_and_an_address_elsewhere_change_nothing(browser):  # noqa: F811
    for language in ("xx", "", "../../etc/passwd", "de\x00", "d" * 5000):
        answer = await browser.http.post("/language/", data={"language": language, "next": "https://evil.example/"})
        assert answer.status_code == 302 and not answer.headers["Location"].startswith("https://evil")
        assert "Set-Cookie" not in answer.headers
    answer = await browser.http.get("/", headers={"Cookie": "django_language=../../x"})
    assert '<html lang="en"' in answer.text


def test_numbers_are_written_as_the_language_has_them(world, alice):
    award(alice, 1234)
    for language, number in NUMBERS.items():
        for path in ("/", "/players/alice/", "/embed/"):
            assert number in Client().get(path, headers={"Accept-Language": language}).text, (language, path)


# --- What the API says in English -------------------------------------------------------------------------------------


def test_the_play_page_has_its_own_words_for_each_reason():
    raised = set()
    for path in (ROOT / "actions").glob("*.py"):
        raised |= set(re.findall(r'"reason": "(\w+)"|_refused\("(\w+)"', path.read_text()))
    reasons = {one or other for one, other in raised}
    only_for_programs = {"server_key", "inactive_player", "reference", "no_start", "answers", "attemptId"}
    assert reasons - only_for_programs <= set(wording.SAID)
    assert {name for name in wording.SAID if name.islower()} <= reasons
    with translation.override("de"):
        refusal = Forbidden("Too soon.", details={"reason": "cooldown", "retryAfterSeconds": 7})
        assert wording.said(refusal) == "Zu früh: noch 7 s warten."
        assert wording.said(Forbidden("Only for programs.", details={"reason": "server_key"})) == "Only for programs."
        assert wording.said(Forbidden("Too soon.", details={"reason": "cooldown"})) == "Too soon."


async def test_a_form_that_is_refused_says_so_in_the_reader_s_language(api, browser, alice):  # noqa: F811
    await browser.sign_in(alice)
    browser.http.headers["Accept-Language"] = "de"
    for expected in ("Du bist jetzt Nummer 1", "Zu früh: noch"):
        answer = await browser.submit("/play/", {"actionType": "task_finish"})
        assert expected in Page(answer).text
    page = await browser.get("/play/")
    assert "Aufgabe" in page.text and "Erledige eine Aufgabe." in page.text
    await sync_to_async(ActionType.objects.filter(pk="task_finish").update)(label="Rätsel des Tages <b>")
    assert "Rätsel des Tages <b>" in (await browser.get("/play/")).text  # what staff wrote stays as it is, and is text


# --- In a browser -----------------------------------------------------------------------------------------------------


@needs_chromium
def test_scripts_write_the_same_numbers_and_nothing_is_too_wide(server, visit):  # noqa: F811
    league()
    leader = Player.objects.order_by("-score__total_score")[0]
    award(leader, 1_000_000)
    points = Score.objects.get(player=leader).total_score
    for language in NUMBERS:
        visitor = visit(server, locale=language, viewport={"width": 320, "height": 700})
        page = visitor.live()
        with translation.override(language):
            expect(page.locator("[data-part=rows] tr[data-rank='1'] [data-part=score]")).to_have_text(intcomma(points))
        assert not re.search(r"[٠-٩۰-۹]", page.inner_text("body")), "one kind of digits on a page"
        for path in ("/", f"/players/{leader.username}/", "/sign-up/"):
            visitor.open(path)
            assert visitor.too_wide() <= 0, (language, path)
        visitor.sign_in(leader)
        for path in ("/play/", "/account/", "/account/password/"):
            visitor.open(path)
            assert visitor.too_wide() <= 0, (language, path)
        visitor.was_quiet()
        visitor.context.close()


@needs_chromium
def test_the_pattern_of_a_player_is_the_one_on_the_board(server, visit):  # noqa: F811
    leader = league()[0]
    visitor = visit(server)
    squares = """(root) => [...document.querySelectorAll(`${root} .avatar svg rect`)]
        .map((square) => `${square.getAttribute('x')},${square.getAttribute('y')}`).sort()"""
    hue = "(root) => document.querySelector(`${root} .avatar`).dataset.hue"
    visitor.live()
    row = f"tr[data-user-id='{leader.pk}']"
    drawn = visitor.page.evaluate(squares, row), visitor.page.evaluate(hue, row)
    visitor.open(f"/players/{leader.username}/")
    assert drawn == (visitor.page.evaluate(squares, ".person-head"), visitor.page.evaluate(hue, ".person-head"))
    assert len(drawn[0]) > 3

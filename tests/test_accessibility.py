"""No page in no state, colour or size breaks a rule of WCAG 2.2 A and AA that a program can check (axe-core, in tests/axe)."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.board_states import EMPTY_STATES, SIZES, STATES, league, sizes_of, visit_state
from tests.browsing import alice, chromium, needs_chromium, server, visit  # noqa: F401
from tests.conftest import make_player

pytestmark = [needs_chromium, pytest.mark.timeout(300)]
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def violations(page: Page, **sizes: tuple[int, int]) -> dict[str, Any]:
    """By size and colours: which rules are broken, and where."""
    found = {}
    page.evaluate(AXE)
    for size, (width, height) in sizes.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(50)  # colours fade
            # Of all the rules only contrast asks for colours.
            only = {"type": "tag", "values": RULES} if scheme == "light" else {"type": "rule", "values": ["color-contrast"]}
            answer = page.evaluate("(only) => axe.run({runOnly: only, resultTypes: ['violations']})", only)
            assert answer["passes"], "nothing was checked"
            broken = {rule["id"]: [node["html"][:160] for node in rule["nodes"]] for rule in answer["violations"]}
            if broken:
                found[f"{size} {scheme}"] = broken
    return found


def test_the_board_in_every_state(server, visit):
    make_player("newcomer")
    players = league()
    found = {}
    for state in STATES:
        visitor = visit_state(visit, server, state, players)
        found[state.name] = violations(visitor.page, **sizes_of(state))
        visitor.context.close()
    assert {name: broken for name, broken in found.items() if broken} == {}


def test_the_empty_board_and_the_other_pages(server, visit):
    newcomer = make_player("newcomer")
    found = {}
    for state in EMPTY_STATES:
        visitor = visit_state(visit, server, state, [])
        found[state.name] = violations(visitor.page, **sizes_of(state))
        visitor.context.close()
    visitor = visit(server)
    for path in ("/sign-in/", "/nothing-here"):
        found[path] = violations(visitor.open(path), **SIZES)
    visitor.sign_in(newcomer)
    found["/play/"] = violations(visitor.open("/play/"), **SIZES)
    assert {name: broken for name, broken in found.items() if broken} == {}


def test_the_pages_of_players_and_accounts(server, visit):
    """In English, and once more from right to left; a refused form, for what it says of each field."""
    players = league()
    found = {}
    for language in ("en", "ar"):
        visitor = visit(server, locale=language)
        sizes = SIZES if language == "en" else {"320": SIZES["320"]}
        for path in (f"/players/{players[0].username}/", "/sign-up/"):
            found[language, path] = violations(visitor.open(path), **sizes)
        visitor.page.locator("main button[type=submit]").evaluate("button => { button.form.noValidate = true; button.click() }")
        visitor.page.locator(".error-text").first.wait_for()
        found[language, "refused"] = violations(visitor.page, **sizes)
        visitor.sign_in(players[1])
        for path in ("/account/", "/account/password/", "/play/") if language == "en" else ("/account/", "/"):
            found[language, path] = violations(visitor.open(path), **sizes)
        visitor.context.close()
    assert {where: broken for where, broken in found.items() if broken} == {}


def test_the_check_itself_finds_what_is_wrong(server, visit):
    page = visit(server).open("/")
    page.evaluate("document.querySelector('h1').style.color = '#bbb'")
    page.evaluate("document.documentElement.removeAttribute('lang')")
    found = violations(page, small=SIZES["320"])
    assert {"color-contrast", "html-has-lang"} <= set(found["small light"])
    page.evaluate("document.querySelector('h1').style.color = '#444'")
    assert "color-contrast" in violations(page, small=SIZES["320"])["small dark"]

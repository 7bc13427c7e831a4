"""Pictures of every page and state, for docs/screens: `python -m pytest tests/screens.py`.

Not among the tests, because only a person can say whether they are good.
"""

import pytest

from tests.board_states import EMPTY_STATES, SIZES, STATES, league, sizes_of, visit_state
from tests.browsing import Visitor, chromium, earn, needs_chromium, server, visit  # noqa: F401
from tests.conftest import ROOT, make_player

pytestmark = [needs_chromium, pytest.mark.timeout(300)]
SCREENS = ROOT / "docs" / "screens"


ALL_COLOURS = ("board", "tv", "embed", "play")


def take(visitor: Visitor, name: str, sizes: dict[str, tuple[int, int]]) -> None:
    """The view at every size; only the main ones in all colours, since colours change no layout."""
    page = visitor.page
    for number, (size, (width, height)) in enumerate(sizes.items()):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("dark", "light") if name in ALL_COLOURS else (("dark", "light")[number % 2],):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(500)
            page.screenshot(path=SCREENS / f"{name}-{size}-{scheme}.png")


def test_screens_of_the_board(server, visit):
    make_player("newcomer")
    players = league()
    for state in STATES:
        visitor = visit_state(visit, server, state, players)
        if state.reach.__name__ in ("live", "offline"):  # a little of what a viewer has just seen
            for player in (players[4], players[11], players[7]):
                earn(server, player)
            visitor.page.wait_for_timeout(1000)
        take(visitor, state.name, sizes_of(state))
        visitor.context.close()


def test_screens_of_the_empty_board_and_the_other_pages(server, visit):
    newcomer = make_player("newcomer")
    for state in EMPTY_STATES:
        visitor = visit_state(visit, server, state, [])
        take(visitor, state.name, sizes_of(state))
        visitor.context.close()
    visitor = visit(server)
    for name, path in {"sign-in": "/sign-in/", "not-found": "/nothing-here"}.items():
        visitor.open(path)
        take(visitor, name, SIZES)
    visitor.sign_in(newcomer)
    visitor.open("/play/")
    take(visitor, "play", SIZES)


def test_screens_of_players_and_accounts(server, visit):
    players = league()
    for language, name in (("en", ""), ("ar", "-ar")):
        visitor = visit(server, locale=language)
        visitor.open(f"/players/{players[0].username}/")
        take(visitor, f"player{name}", SIZES)
        visitor.open("/sign-up/")
        take(visitor, f"sign-up{name}", SIZES)
        visitor.sign_in(players[1])
        for path, page in (("/account/", "account"), ("/account/password/", "password")):
            visitor.open(path)
            take(visitor, page + name, SIZES)
        visitor.context.close()

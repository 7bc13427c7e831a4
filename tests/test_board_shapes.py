"""The board in a browser in its other shapes: a frame, a big screen, chosen colours, right to left, a period, your own line."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from tests.board_states import PAST_MONTH, is_in, league, live
from tests.browsing import alice, chromium, earn, needs_chromium, server, visit  # noqa: F401
from tests.conftest import Server, make_player, serving

pytestmark = [needs_chromium, pytest.mark.timeout(300)]
with socket.create_server(("127.0.0.1", 0)) as free:
    BLOG = free.getsockname()[1]


@contextlib.contextmanager
def site(server: Server) -> Iterator[str]:
    """Another site on this machine (Chromium keeps others from asking for what is here), with the board in a frame."""

    class Blog(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            frame = f'<iframe src="{server.url}/embed/?limit=3" title="Board"></iframe>'
            self.wfile.write(b"<!doctype html><title>A blog</title>" + frame.encode())

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", BLOG), Blog) as blog:
        threading.Thread(target=blog.serve_forever).start()
        yield f"http://localhost:{BLOG}/"
        blog.shutdown()


def test_another_site_shows_the_board_live_and_gets_no_cookie(world, visit, alice, bob, tmp_path):
    with serving(tmp_path, EMBED_FRAME_ANCESTORS=f"http://localhost:{BLOG}") as server, site(server) as address:
        earn(server, alice)
        visitor = visit(server)
        visitor.page.goto(address)
        frame = visitor.page.frame_locator("iframe")
        expect(frame.locator("[data-board]")).to_have_attribute("data-state", "live")
        earn(server, bob)
        earn(server, bob)
        expect(frame.locator("tr[data-rank='1'] [data-part=name]")).to_have_text("bob")
        assert visitor.context.cookies() == []
        assert visitor.complaints == []


def test_a_site_that_was_not_named_gets_no_board(server, visit, alice):
    visitor = visit(server)
    with site(server) as address:
        visitor.page.goto(address)
    expect(visitor.page.frame_locator("iframe").locator("[data-board]")).to_have_count(0)
    assert any("frame-ancestors" in text for text in visitor.complaints), visitor.complaints


@pytest.mark.parametrize("scripts", [True, False])
def test_chosen_colours_stay(server, visit, scripts):
    visitor = visit(server, color_scheme="light", java_script_enabled=scripts)
    page = visitor.open("/")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    bright = page.evaluate(background)
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    dark = page.evaluate(background)
    assert dark != bright
    visitor.open("/sign-in/")
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="System").click()
    expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")
    assert page.evaluate(background) == bright
    visitor.was_quiet()


def test_the_podium_holds_its_three_from_left_to_right_and_from_right_to_left(server, visit):
    league()
    visitor = visit(server, viewport={"width": 1280, "height": 900})
    live(visitor)
    page = visitor.page
    page.wait_for_timeout(500)
    inside = """() => ['2', '1', '3'].map((rank, at) => {
      const step = document.querySelectorAll('.podium i')[at].getBoundingClientRect();
      const row = document.querySelector(`tr[data-rank="${rank}"]`);
      return ['.avatar', '.name', '.digits', '.trend svg'].map((part) => {
        const box = row.querySelector(part).getBoundingClientRect();
        return Math.round((box.left + box.right) / 2 - (step.left + step.right) / 2);
      });
    })"""
    for direction in ("ltr", "rtl"):
        page.evaluate("(direction) => { document.documentElement.dir = direction; }", direction)
        page.wait_for_timeout(500)
        for offsets in page.evaluate(inside):
            assert all(abs(offset) <= 4 for offset in offsets), (direction, offsets)
        assert visitor.too_wide() == 0


def test_a_big_screen_has_no_chrome_and_hides_its_cursor(server, visit):
    league()
    visitor = visit(server, viewport={"width": 1920, "height": 1080})
    page = visitor.page
    page.clock.install()
    live(visitor, "/?view=tv&period=week")
    expect(page.get_by_role("navigation")).to_have_count(0)
    expect(page.locator("h1")).to_have_text("Top 10 · This week")
    expect(page.locator("[data-part=clock]")).to_have_text(re.compile(r"\d:\d\d"))
    bottom = page.locator("tr[data-rank='10']").bounding_box()
    assert bottom and 0.85 * 1080 < bottom["y"] + bottom["height"] <= 1080, "ten rows fill the screen"
    page.clock.run_for(3100)
    expect(page.locator("html")).to_have_class(re.compile("idle"))
    page.mouse.move(10, 10)
    expect(page.locator("html")).not_to_have_class(re.compile("idle"))
    assert (visitor.too_wide(), page.evaluate("document.documentElement.scrollHeight")) == (0, 1080)
    visitor.was_quiet()


def test_you_hear_of_your_place_when_others_push_you_down(server, visit, alice):
    players = league()
    for _ in range(3):
        earn(server, alice)
    visitor = visit(server)
    visitor.sign_in(alice)
    visitor.page.clock.install()
    live(visitor)
    page = visitor.page
    before = page.locator("[data-part=me-rank]").inner_text()
    rank = int(before.strip("#"))
    assert rank > 11
    passing = players[rank - 1]  # nobody tells alice: it happens far below the ten
    for _ in range(3):
        earn(server, passing)
    expect(page.locator("[data-part=me-rank]")).to_have_text(before)
    for _ in range(40):  # in steps, so that the socket's answers keep up with the page's clock
        page.clock.run_for(1000)
        page.wait_for_timeout(20)
    expect(page.locator("[data-part=me-rank]")).to_have_text(f"#{rank + 1}")
    expect(page.locator("[data-part=me-next]")).to_have_text(re.compile(rf"^\d+ to #{rank} · (top|ahead of) \d+%$"))
    expect(page.locator("[data-part=near] li")).to_have_count(5)
    expect(page.locator("[data-part=near] .is-you [data-part=near-name]")).to_have_text("alice")
    visitor.was_quiet()


def test_falling_out_of_the_ten_is_told_at_once(server, visit, alice):
    others = [make_player(f"player-{number}") for number in range(10)]
    for player in [*others[:9], alice]:
        earn(server, player)
    visitor = visit(server)
    visitor.sign_in(alice)
    live(visitor)
    page = visitor.page
    expect(page.locator("[data-part=me-rank]")).to_have_text("#10")
    earn(server, others[9])
    earn(server, others[9])
    expect(page.locator("[data-part=me-rank]")).to_have_text("#11")
    expect(page.locator("[data-part=me-next]")).to_contain_text("1 to #10")
    visitor.was_quiet()


def test_what_is_over_stands_still(server, visit, alice):
    players = league()
    visitor = visit(server)
    page = visitor.open(PAST_MONTH)
    is_in(page, "over")
    before = visitor.rows()
    assert len(before) == 10
    for player in players[:3]:
        earn(server, player)
    page.wait_for_timeout(600)
    assert visitor.rows() == before and visitor.sockets == []
    expect(page.get_by_role("button", name="Pause updates")).to_have_count(0)
    visitor.was_quiet()

"""The board while much happens: quick, calm and steady; and honest while nothing can be heard."""

import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
import websockets
from playwright.sync_api import WebSocketRoute, expect

from leaderboard.models import Player
from scoreboard_project import sign_in
from tests.board_states import SOCKET, is_in, league, live
from tests.browsing import alice, chromium, earn, needs_chromium, server, visit  # noqa: F401
from tests.conftest import Server, serving

pytestmark = [needs_chromium, pytest.mark.timeout(300)]
SECONDS = float(os.environ.get("BOARD_SECONDS", "6"))  # 60 for the full measurement
VIEWERS = 200

# Notes when each score was first on the screen, and each shift of the layout, as the browser itself counts them.
WATCH = """
() => {
  window.seen = {};
  window.shifts = [];
  const note = () => {
    for (const row of document.querySelectorAll('[data-part=rows] tr')) {
      const key = row.dataset.userId + ' ' + row.querySelector('[data-part=score]').textContent.replace(/\\D/g, '');
      window.seen[key] ??= Date.now();
    }
    requestAnimationFrame(note);
  };
  note();
  new PerformanceObserver((list) => list.getEntries().forEach(({ value, sources }) => window.shifts.push(
    [value, sources.map(({ node }) => node?.className ?? node?.nodeName)]))).observe({ type: 'layout-shift' });
}
"""


@dataclass
class Storm:
    """Players who score at a steady pace through the public API, until told to stop."""

    server: Server
    players: list[Player]
    pace: float = 10.0
    answered: dict[str, float] = field(default_factory=dict)  # "<player> <score>" → when the 200 was here, ms since 1970
    failed: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._tokens = {str(player.pk): sign_in.access_for(player.pk, player.access_epoch) for player in self.players}

    def run(self) -> None:
        started = time.monotonic()
        with httpx.Client(base_url=f"{self.server.url}/api/v1", timeout=10) as http:
            for turn in range(100_000):
                if self._over.wait(max(0.0, started + turn / self.pace - time.monotonic())):
                    return
                try:
                    self._score(http, *list(self._tokens.items())[turn % len(self._tokens)])
                except (httpx.HTTPError, KeyError) as problem:
                    self.failed.append(repr(problem))

    def _score(self, http: httpx.Client, player: str, access: str) -> None:
        headers = {"Authorization": f"Bearer {access}"}
        issued = http.post("/actions/complete", json={"actionType": "level_up"}, headers=headers).json()["data"]
        headers["X-Score-Token"] = issued["scoreToken"]
        answer = http.post("/scores/update", json={"actionId": issued["actionId"]}, headers=headers).json()
        self.answered[f"{player} {answer['data']['newScore']}"] = time.time() * 1000

    @contextlib.contextmanager
    def blowing(self) -> Iterator["Storm"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(20)
        assert self.failed == []


@contextlib.contextmanager
def viewers(server: Server, count: int) -> Iterator[None]:
    """That many open sockets that read what they get."""
    ready, over = threading.Event(), threading.Event()

    async def watch() -> None:
        async def one() -> None:
            async with websockets.connect(server.socket_url) as socket:
                opened.append(1)
                async for _ in socket:
                    pass

        opened: list[int] = []
        tasks = [asyncio.create_task(one()) for _ in range(count)]
        while not over.is_set():
            if len(opened) == count:
                ready.set()
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=[watch()])
    thread.start()
    try:
        assert ready.wait(30), "the viewers could not connect"
        yield
    finally:
        over.set()
        thread.join(20)


WINDOWS = 3


def test_new_digits_are_quick_and_nothing_shifts(server, visit):
    players = league()
    visitor = visit(server, viewport={"width": 1280, "height": 900})
    page = visitor.page
    live(visitor)
    page.wait_for_timeout(1000)
    page.evaluate(WATCH)
    with viewers(server, VIEWERS):
        # The best of a few windows: what else this machine does meanwhile is no property of the board.
        for _ in range(WINDOWS):
            # Neighbours that pass one another all the time: places four to ten, and some who come and go.
            with Storm(server, players[3:13]).blowing() as storm:
                page.wait_for_timeout(SECONDS * 1000)
            page.wait_for_timeout(500)
            seen = page.evaluate("window.seen")
            waits = sorted(seen[key] - at for key, at in storm.answered.items() if key in seen)
            assert len(waits) > 0.5 * len(storm.answered) > 20, "too little was seen to measure"
            p50, p95 = statistics.median(waits), waits[int(0.95 * len(waits))]
            print(f"answer to digits with {VIEWERS} viewers: p50 {p50:.0f} ms, p95 {p95:.0f} ms ({len(waits)})")
            if p95 <= 200:
                break
    shifts = page.evaluate("window.shifts")
    print(f"shift {sum(value for value, _ in shifts):.6f}")
    assert sum(value for value, _ in shifts) <= 0.001, shifts
    assert p95 <= 200
    visitor.was_quiet()


def test_focus_stays_on_a_row_that_moves(server, visit):
    players = league()
    visitor = visit(server, viewport={"width": 1280, "height": 900})
    page = visitor.page
    live(visitor)
    climber = players[9]
    row = f"tr[data-user-id='{climber.pk}']"
    page.evaluate(
        "(row) => { const name = document.querySelector(row + ' [data-part=name]'); name.tabIndex = 0; name.focus();"
        " name.addEventListener('blur', () => { window.lost = true; }); }",
        row,
    )
    started = int(page.locator(row).get_attribute("data-rank") or 0)
    for _ in range(12):
        earn(server, climber)
    expect(page.locator(row)).to_have_attribute("data-rank", re_below(started))
    in_order = "(row) => [...document.querySelectorAll('[data-part=rows] tr')].indexOf(document.querySelector(row)) + 1"
    page.wait_for_timeout(600)
    assert page.evaluate(in_order, row) == int(page.locator(row).get_attribute("data-rank") or 0) < started
    assert page.evaluate("(row) => document.activeElement.closest('tr') === document.querySelector(row)", row)
    assert not page.evaluate("window.lost")


def re_below(rank: int) -> re.Pattern:
    return re.compile("^(" + "|".join(str(lower) for lower in range(1, rank)) + ")$")


def test_with_reduced_motion_nothing_is_animated(server, visit):
    players = league()
    visitor = visit(server, viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = visitor.page
    live(visitor)
    page.evaluate(
        "() => { window.most = 0; window.rolled = 0; window.flashed = 0; const look = () => {"
        " window.most = Math.max(window.most, document.getAnimations().length);"
        " window.rolled += document.querySelectorAll('[data-rolling]').length;"
        " window.flashed += document.querySelectorAll('.flash').length; requestAnimationFrame(look); }; look(); }"
    )
    before = visitor.rows()
    with Storm(server, players[3:13]).blowing():
        page.wait_for_timeout(2500)
    assert visitor.rows() != before
    assert page.evaluate("window.flashed") > 0, "what changed is marked all the same"
    assert (page.evaluate("window.most"), page.evaluate("window.rolled")) == (0, 0)


def test_a_score_rolls_but_the_page_tells_the_truth_at_once(server, visit, alice):
    earn(server, alice)
    visitor = visit(server)
    page = visitor.page
    live(visitor)
    page.evaluate(
        "() => { window.texts = new Set(); window.painted = new Set(); const look = () => {"
        " const digits = document.querySelector('[data-part=score]'); window.texts.add(digits.textContent);"
        " if (digits.dataset.rolling) window.painted.add(digits.dataset.rolling); requestAnimationFrame(look); }; look(); }"
    )
    earn(server, alice)
    expect(page.locator("[data-part=score]")).to_have_text("200")
    page.wait_for_timeout(700)
    assert page.evaluate("[...window.texts]") == ["100", "200"]
    painted = page.evaluate("[...window.painted]")
    assert len(painted) > 3 and all(100 <= int(text) <= 200 for text in painted)
    assert page.locator("[data-rolling]").count() == 0


def test_a_server_that_falls_silent_is_called_so_in_time(world, visit, alice, tmp_path):
    with serving(tmp_path) as server:
        earn(server, alice)
        visitor = visit(server)
        live(visitor)
        board = visitor.page.locator("[data-board]")
        server.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            # On a busy machine the unanswered ping may be given up in the same second: then it is called reconnecting.
            expect(board).to_have_attribute("data-state", re.compile("stale|reconnecting"), timeout=12_000)
            took = time.monotonic() - stopped
            explained = visitor.page.locator("[data-part=explained]")
            if board.get_attribute("data-state") == "stale":
                expect(explained).to_have_text(re.compile(r"Nothing heard for 1\d s\.|[Rr]econnect|[Cc]onnection"))
        finally:
            server.process.send_signal(signal.SIGCONT)
        expect(board).to_have_attribute("data-state", "live", timeout=5000)
        print(f"stale after {took:.1f} s")


LATER = 5 * 10**15  # than any picture of the server's own


def frame(seq: int, *rows: tuple[str, int]) -> str:
    board = [
        {"rank": rank, "userId": f"00000000-0000-0000-0000-0000000000{name}", "username": name, "score": score, "avatarUrl": None}
        for rank, (name, score) in enumerate(rows, start=1)
    ]
    event = {
        "event": "leaderboard:initial" if seq == 1 else "leaderboard:update",
        "data": {"leaderboard": board, "seq": LATER + seq},
    }
    return json.dumps({**event, "timestamp": "2026-06-01T10:00:00.000Z"})


def test_one_sentence_in_fifteen_seconds_and_nothing_else_speaks(server, visit):
    visitor = visit(server)
    page = visitor.page
    sockets = []

    def opened(route: WebSocketRoute) -> None:
        sockets.append(route)
        route.on_message(lambda _: route.send('{"event": "pong", "data": {}, "timestamp": ""}'))

    def hears(text: str, seconds: int) -> str:
        """What has been said that long after a picture came."""
        sockets[-1].send(text)
        for _ in range(seconds):
            page.wait_for_timeout(20)
            page.clock.run_for(1000)
        return page.locator("[data-part=announcer]").inner_text()

    page.route_web_socket(SOCKET, opened)
    page.clock.install()
    visitor.open("/")
    is_in(page, "live")
    assert hears(frame(1, ("aa", 20), ("bb", 10)), 1) == "aa leads with 20."
    assert hears(frame(2, ("bb", 30), ("aa", 20)), 7) == "aa leads with 20.", "too soon"
    assert hears(frame(3, ("bb", 31), ("aa", 30)), 8) == "bb leads with 31."
    assert hears(frame(4, ("bb", 99), ("aa", 30)), 16) == "bb leads with 31.", "a score alone is no news"
    speaking = "[aria-live], [role=status], [role=alert], [role=log], output"
    live_regions = page.locator(speaking).evaluate_all("(elements) => elements.map((element) => element.dataset.part)")
    assert live_regions == ["announcer"]

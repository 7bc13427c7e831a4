"""A real browser for the tests: Chromium where the machine has one, windows that remember what they complained about."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from leaderboard.models import Player
from scoreboard_project import sign_in
from tests.conftest import PASSWORD, Server, make_player, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH (apt-get install chromium)")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Playwright keeps an event loop in this thread, and Django would refuse the ORM beside it.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            yield browser
            browser.close()
    finally:
        if before is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def server(world, tmp_path) -> Iterator[Server]:
    with serving(tmp_path) as one:
        yield one


@pytest.fixture
def alice(world) -> Player:
    """With a password that the server process can check: it does not know the tests' quick hashing."""
    player = make_player("alice")
    player.password = PBKDF2PasswordHasher().encode(PASSWORD, "salt", iterations=1)
    player.save()
    player.refresh_from_db()  # a new password has ended what access there was
    return player


class Visitor:
    """One browser window, and everything it complained about or asked for."""

    def __init__(self, context: BrowserContext, server: Server):
        self.context, self.server = context, server
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.sockets: list[str] = []
        self.page = context.new_page()
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda opened: self.sockets.append(opened.url))
        # A blocked resource is an event, whatever the console says of it.
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"
        )

    def open(self, path: str) -> Page:
        self.page.goto(self.server.url + path)
        return self.page

    def live(self) -> Page:
        """The board, once it says that it is live."""
        self.open("/")
        expect(self.page.locator("[data-board]")).to_have_attribute("data-state", "live")
        return self.page

    def rows(self) -> list[list[str]]:
        """[rank, name, score] of each row, in the document's order."""
        return self.page.evaluate(
            "[...document.querySelectorAll('[data-part=rows] tr')].map((row) => ['rank', 'name', 'score']"
            ".map((part) => row.querySelector(`[data-part=${part}]`).textContent))"
        )

    def sees(self, *rows: list[str]) -> None:
        for place, (rank, name, score) in enumerate(rows):
            row = self.page.locator(f"[data-part=rows] tr[data-rank='{place + 1}']")
            expect(row.locator("[data-part=name]")).to_have_text(name)
            expect(row.locator("[data-part=score]")).to_have_text(score)
            expect(row.locator("[data-part=rank]")).to_have_text(rank)
        expect(self.page.locator("[data-part=rows] tr:not(.leaving)")).to_have_count(len(rows))

    def sign_in(self, player: Player) -> None:
        client = Client()
        client.force_login(player)
        name = django_settings.SESSION_COOKIE_NAME
        self.context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": self.server.url}])

    def too_wide(self) -> int:
        """By how many pixels the page would have to be scrolled sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def was_quiet(self) -> None:
        """Nothing in the console, nothing blocked, nothing asked of another host."""
        assert self.complaints == []
        elsewhere = [url for url in self.requests if not url.startswith((self.server.url + "/", "data:"))]
        assert elsewhere == []
        ours = self.server.url.replace("http:", "ws:") + "/"
        assert [url for url in self.sockets if not url.startswith(ours)] == []


@pytest.fixture
def visit(chromium):
    """Opens windows: `visit(server, javaScriptEnabled=…)`."""
    contexts: list[BrowserContext] = []

    def opened(server: Server, **options: Any) -> Visitor:
        contexts.append(chromium.new_context(**options))
        contexts[-1].set_default_timeout(10_000)
        return Visitor(contexts[-1], server)

    expect.set_options(timeout=5000)
    yield opened
    for context in contexts:
        context.close()


def earn(server: Server, player: Player, action_type: str = "level_up") -> None:
    player.refresh_from_db()  # signing in at a real server hashes the password anew, which ends older access
    headers = {"Authorization": f"Bearer {sign_in.access_for(player.pk, player.access_epoch)}"}
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=headers) as http:
        answer = http.post("/actions/complete", json={"actionType": action_type})
        assert answer.status_code == 200, answer.text
        issued = answer.json()["data"]
        token = {"X-Score-Token": issued["scoreToken"]}
        assert http.post("/scores/update", headers=token, json={"actionId": issued["actionId"]}).status_code == 200

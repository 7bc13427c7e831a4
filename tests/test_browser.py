"""The pages in a real browser: live, quick, quiet, and still there when the server is not."""

import re
import socket
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from actions.models import ActionType
from leaderboard import moderation
from tests.browsing import alice, chromium, earn, needs_chromium, server, visit  # noqa: F401
from tests.conftest import PASSWORD, make_player, serving

pytestmark = needs_chromium
BACK_WITHIN_MS = 5000


# --- The board --------------------------------------------------------------------------------------------------------


def test_the_board_moves_by_itself(server, visit, alice, bob):
    earn(server, alice, "task_finish")
    visitor = visit(server)
    page = visitor.live()
    page.evaluate("window.notReloaded = true")
    visitor.sees(["1", "alice", "50"])

    earn(server, bob)
    visitor.sees(["1", "bob", "100"], ["2", "alice", "50"])
    in_order = "document.querySelector('[data-part=rows] tr [data-part=name]').textContent === '%s'"
    page.wait_for_function(in_order % "bob")  # the document's order follows, for screen readers
    expect(page.locator("tr[data-rank='1'] [data-part=change-mark]")).to_have_text("new")
    expect(page.locator("tr[data-rank='2'] [data-part=change-mark]")).to_have_text("▼1")
    expect(page.locator("tr[data-rank='2'] [data-part=change-words]")).to_have_text("down 1")

    earn(server, alice)
    expect(page.locator("tr.gained [data-part=gain]")).to_have_text("+100")
    visitor.sees(["1", "alice", "150"], ["2", "bob", "100"])
    page.wait_for_function(in_order % "alice")
    assert visitor.rows() == [["1", "alice", "150"], ["2", "bob", "100"]]
    assert page.evaluate("window.notReloaded")
    visitor.was_quiet()


def test_the_first_points_of_all_take_the_empty_board_away(server, visit, alice):
    visitor = visit(server)
    page = visitor.live()
    expect(page.get_by_text("No points yet. Be the first")).to_be_visible()
    expect(page.locator("[data-part=table]")).to_be_hidden()
    earn(server, alice)
    visitor.sees(["1", "alice", "100"])
    expect(page.get_by_text("No points yet. Be the first")).to_be_hidden()
    expect(page.locator("[data-part=table]")).to_be_visible()
    visitor.was_quiet()


def test_your_own_line_follows_your_points_and_your_place(server, visit, alice, bob):
    for player in [bob, *(make_player(f"player-{number}") for number in range(9))]:
        earn(server, player, "task_finish")
    visitor = visit(server)
    visitor.sign_in(alice)
    page = visitor.live()
    expect(page.get_by_text("You are not on this board.")).to_be_visible()
    earn(server, alice, "daily_login")  # not enough for the list: only the personal message tells
    expect(page.locator("[data-part=me-rank]")).to_have_text("#11")
    expect(page.locator("[data-part=me-score]")).to_have_text("10")
    earn(server, alice)
    expect(page.locator("[data-part=me-rank]")).to_have_text("#1")
    expect(page.locator("tr.is-you [data-part=you]")).to_be_visible()
    earn(server, bob)  # others move you, too
    expect(page.locator("[data-part=me-rank]")).to_have_text("#2")
    visitor.was_quiet()


def test_paused_the_board_stands_still_and_then_catches_up(server, visit, alice, bob):
    earn(server, alice)
    visitor = visit(server)
    page = visitor.live()
    page.get_by_role("button", name="Pause updates").click()
    expect(page.locator("[data-part=state]")).to_have_text("Paused")
    earn(server, bob, "task_finish")
    earn(server, bob)
    other = visit(server)
    other.live()
    other.sees(["1", "bob", "150"], ["2", "alice", "100"])  # the news is out
    assert visitor.rows() == [["1", "alice", "100"]]
    page.get_by_role("button", name="Resume updates").click()
    visitor.sees(["1", "bob", "150"], ["2", "alice", "100"])
    visitor.was_quiet()


def test_a_hostile_name_is_only_a_name(server, visit, world):
    name = "<img src=x onerror=alert(1)>"
    villain = make_player(name)
    visitor = visit(server)
    dialogs: list[str] = []
    visitor.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    visitor.live()
    earn(server, villain)
    visitor.sees(["1", name, "100"])
    visitor.page.reload()
    visitor.sees(["1", name, "100"])
    assert dialogs == []
    visitor.was_quiet()


def test_the_page_survives_its_server(world, visit, alice, bob, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tmp_path / "first", port=port) as server:
        earn(server, alice)
        visitor = visit(server)
        page = visitor.live()
        page.evaluate("window.notReloaded = true")
        server.process.kill()
        server.process.wait()
        board = page.locator("[data-board]")
        expect(board).to_have_attribute("data-state", "reconnecting")
        expect(page.locator("[data-part=state]")).to_have_text("Reconnecting")
        expect(page.get_by_role("button", name="Retry now")).to_be_visible()
        visitor.sees(["1", "alice", "100"])  # what was known stays
        # Long enough for several failures: the waits grow meanwhile, but not beyond what a viewer accepts.
        page.wait_for_timeout(4000)
    with serving(tmp_path / "second", port=port) as server:
        expect(board).to_have_attribute("data-state", "live", timeout=BACK_WITHIN_MS)
        earn(server, bob, "task_finish")
        visitor.sees(["1", "alice", "100"], ["2", "bob", "50"])
        assert page.evaluate("window.notReloaded")
        unexpected = [text for text in visitor.complaints if "ERR_CONNECTION_REFUSED" not in text and "WebSocket" not in text]
        assert unexpected == []


def test_without_a_socket_the_page_polls_and_says_so(server, visit, alice):
    visitor = visit(server)
    visitor.page.route_web_socket(re.compile("/scores/live"), lambda route: route.close())
    visitor.open("/")
    expect(visitor.page.locator("[data-part=state]")).to_have_text("Polling every 5 s", timeout=15_000)
    earn(server, alice)
    expect(visitor.page.locator("tr[data-rank='1'] [data-part=score]")).to_have_text("100", timeout=10_000)
    visitor.was_quiet()


def test_the_first_visit_is_light(server, visit, world):
    for number in range(10):
        earn(server, make_player(f"player-{number}"))
    visitor = visit(server)
    session = visitor.context.new_cdp_session(visitor.page)
    session.send("Network.enable")
    weights: dict[str, float] = {}
    session.on("Network.loadingFinished", lambda event: weights.update({event["requestId"]: event["encodedDataLength"]}))
    visitor.live()
    visitor.page.wait_for_load_state("networkidle")
    total = sum(weights.values())
    print(f"first visit: {total / 1000:.1f} kB in {len(visitor.requests)} requests")
    assert len(visitor.requests) <= 6, visitor.requests
    assert 5_000 < total <= 45_000
    for url in visitor.requests[1:]:
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", url), f"{url} would not be kept for ever"
    visitor.was_quiet()


# --- Play -------------------------------------------------------------------------------------------------------------


def card(page: Page, slug: str) -> Any:
    return page.locator(f"[data-action={slug}]")


def test_signing_in_and_earning_points_by_clicking(server, visit, alice):
    visitor = visit(server)
    page = visitor.open("/")
    page.get_by_role("link", name="Sign in to play").click()
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    quiz = card(page, "level_up")
    quiz.get_by_role("button", name="Complete and redeem").click()
    expect(quiz.locator("[data-part=note]")).to_have_text("+100 You are now number 1 with 100 points.")
    for step in ("complete", "token", "redeem"):
        expect(quiz.locator(f"[data-step={step}]")).to_have_attribute("data-state", "done")
    expect(quiz.locator("[data-part=life]")).to_have_text(re.compile(r"Token spent; it expires in \d\d s"))

    calls = page.locator(".call")
    expect(calls.locator("[data-part=path]")).to_have_text(["/api/v1/scores/update", "/api/v1/actions/complete", "/play/token"])
    assert re.fullmatch(r"[0-9a-f]{32}", calls.first.locator("[data-part=id]").inner_text())
    assert "eyJ" not in re.sub(r"eyJ\w{5}…", "", page.locator("[data-part=journal]").text_content() or "")

    quiz.get_by_role("button", name="Redeem again").click()
    note = "Refused, as it should be: this token was already redeemed for +100."
    expect(quiz.locator("[data-part=note]")).to_have_text(note)
    expect(calls.first.locator("[data-part=status]")).to_have_text("409")
    # The browser itself reports an answer of 409 as an error; it is the one that was asked for.
    assert [text for text in visitor.complaints if "409" not in text] == []
    visitor.complaints.clear()
    visitor.was_quiet()


def test_a_lost_answer_is_asked_for_again_and_counts_once(server, visit, alice):
    visitor = visit(server)
    visitor.sign_in(alice)
    page = visitor.open("/play/")
    lost: list[int] = []

    def lose_the_first(route: Any) -> None:
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch().status)  # the server acts; its answer does not arrive
            route.abort("connectionreset")

    page.route("**/api/v1/scores/update", lose_the_first)
    quiz = card(page, "level_up")
    quiz.get_by_role("button", name="Complete and redeem").click()
    text = "+100 The answer was lost, but the points are in: they made your score 100."
    expect(quiz.locator("[data-part=note]")).to_have_text(text)
    assert lost == [200]
    alice.refresh_from_db()
    assert alice.score.total_score == 100


def test_a_refusal_is_told_on_its_card(server, visit, alice, moderator):
    visitor = visit(server)
    visitor.sign_in(alice)
    page = visitor.open("/play/")
    daily = card(page, "daily_login")
    for text in ("+10 You are now number 1 with 10 points.", re.compile("daily|today|day", re.I)):
        daily.get_by_role("button", name="Complete and redeem").click()
        expect(daily.locator("[data-part=note]")).to_have_text(text)
    expect(daily.locator("[data-step=complete]")).to_have_attribute("data-state", "failed")
    moderation.hide(player_id=alice.pk, moderator=moderator, reason="x")
    quiz = card(page, "level_up")
    quiz.get_by_role("button", name="Complete and redeem").click()
    expect(quiz.locator("[data-part=note]")).to_have_text("+100 You now have 110 points.")  # no rank is made up


def test_a_limit_counts_down_on_its_card(world, visit, alice, tmp_path):
    with serving(tmp_path, ACTION_RATE_LIMIT="1") as server:
        visitor = visit(server)
        visitor.sign_in(alice)
        page = visitor.open("/play/")
        task = card(page, "task_finish")
        button = task.get_by_role("button", name="Complete and redeem")
        button.click()
        expect(task.locator("[data-part=note]")).to_contain_text("+50")
        button.click()
        expect(task.locator("[data-part=note]")).to_have_text(re.compile(r"Too quick\. You can go on in \d\d s\."))
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(task.locator("[data-part=life]")).to_have_text(re.compile(r"Too quick\. You can go on in \d\d s\."))


# --- Without scripts, in the dark, on a small screen ------------------------------------------------------------------


def test_without_javascript_all_of_it_still_works(server, visit, alice, bob):
    earn(server, bob, "task_finish")
    visitor = visit(server, java_script_enabled=False)
    page = visitor.open("/play/")
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Earn points")).to_be_visible()
    expect(page.get_by_role("button", name="Redeem again")).to_have_count(0)  # it would need a script
    card(page, "level_up").get_by_role("button", name="Complete and redeem").click()
    expect(page.locator(".outcome")).to_have_text(re.compile(r"\+100\s+You are now number 1 with 100 points\."))
    page.get_by_role("link", name="Board").first.click()
    visitor.sees(["1", "alice", "100"], ["2", "bob", "50"])
    expect(page.locator("[data-part=me-rank]")).to_have_text("#1")
    expect(page.get_by_role("link", name="Refresh")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in", exact=True)).to_be_visible()
    visitor.was_quiet()


PLACES = ["/", "/play/", "/sign-in/", "/nothing-here"]


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_in_any_colours(server, visit, alice, width, scheme):
    long_name = make_player("W" * 32)
    for _ in range(11):
        earn(server, long_name)
    earn(server, alice)
    ActionType.objects.filter(slug="task_finish").update(description="x" * 200)
    visitor = visit(server, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for signed_in in (False, True):
        if signed_in:
            visitor.sign_in(long_name)
        for place in PLACES:
            page = visitor.open(place)
            assert visitor.too_wide() == 0, place
            ends = page.evaluate(
                "[...document.querySelectorAll('.row .score')].map((cell) => cell.getBoundingClientRect().right)"
            )
            assert all(end <= width for end in ends), "a long name pushes the scores away"
            light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            red = int(re.findall(r"\d+", light)[0])
            assert (red > 200) == (scheme == "light"), light
    assert [text for text in visitor.complaints if "404" not in text] == []


def test_the_api_s_page_and_staff_s_desk_load_nothing_from_elsewhere(server, visit, moderator, alice):
    visitor = visit(server)
    visitor.sign_in(moderator)
    page = visitor.open("/api/v1/docs")
    expect(page.get_by_text("/api/v1/actions/complete").first).to_be_visible()
    for place in ("/admin/", "/admin/leaderboard/score/"):
        visitor.open(place)
        page.wait_for_load_state("networkidle")
    visitor.was_quiet()


def test_a_moderator_suspends_by_clicking_and_the_board_shows_it(server, visit, moderator, alice):
    earn(server, alice)
    watcher = visit(server)
    watcher.live()
    watcher.sees(["1", "alice", "100"])
    desk = visit(server, viewport={"width": 320, "height": 700})  # on a phone, say
    desk.sign_in(moderator)
    page = desk.open("/admin/leaderboard/score/?q=alice")
    page.get_by_role("row", name="alice").get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option("suspend")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.get_by_role("heading", name="Suspend these players?")).to_be_visible()
    assert desk.too_wide() == 0
    page.get_by_label("Reason").fill("seen on video")
    page.get_by_role("button", name="Do it").click()
    expect(page.get_by_text("1 done.")).to_be_visible()
    expect(watcher.page.get_by_text("No points yet. Be the first")).to_be_visible()
    desk.was_quiet()
    watcher.was_quiet()

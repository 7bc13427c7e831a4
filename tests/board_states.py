"""Every state of the board that a visitor can meet, for those who check them all and those who look at them all."""

import random
import re
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from django.db import connection
from django.utils import timezone
from playwright.sync_api import Page, expect

from leaderboard import closing, healing, sample_players
from leaderboard.models import Player, ScoreEntry
from tests.browsing import Visitor

SOCKET = re.compile("/scores/live")
POLL = re.compile("/scores/leaderboard")
PLAYERS = 160
LAST_MONTH = timezone.now().replace(day=1) - timedelta(days=15)  # its middle
PAST_MONTH = f"/?period=month&at={LAST_MONTH:%Y-%m-%d}"


def seasons(players: list[Player]) -> None:
    """A month that is over and an hour that is not, as the ledger would have written them: all else follows from its lines."""
    dice = random.Random(5)
    now = timezone.now()
    awards: list[tuple[datetime, Player, int]] = []
    for number, player in enumerate(players):
        pace = dice.uniform(0.2, 1.0) / (1 + number / 12)
        for minute in range(60, 0, -1):
            if dice.random() < pace:
                points = dice.choice([10, 50, 50, 100, 100, 100])
                awards.append((now - timedelta(minutes=minute, seconds=dice.uniform(-29, 29)), player, points))
        for _ in range(int(dice.uniform(0, 14) / (1 + number / 25))):
            awards.append((LAST_MONTH + timedelta(days=dice.uniform(-5, 5)), player, 100))
    scores: Counter[uuid.UUID] = Counter()
    entries = []
    for moment, player, points in sorted(awards, key=itemgetter(0)):
        scores[player.pk] += points
        line = {"player": player, "points": points, "score_after": scores[player.pk], "created_at": moment}
        entries.append(ScoreEntry(source=uuid.uuid4(), **line))
    ScoreEntry.objects.bulk_create(entries)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE leaderboard_score s SET total_score = e.points, revision = e.lines, reached_at = e.last, updated_at = e.last "
            "FROM (SELECT player_id, sum(points) AS points, count(*) AS lines, max(created_at) AS last "
            "FROM leaderboard_scoreentry GROUP BY player_id) e WHERE e.player_id = s.player_id"
        )
    closing.close_past()
    closing.recount()
    healing.rebuild()


def league() -> list[Player]:
    """Players with an hour behind them; the first ones have mostly played more."""
    players = sample_players.make(sample_players.names(PLAYERS))
    seasons(players)
    return list(Player.objects.filter(pk__in=[player.pk for player in players]).order_by("-score__total_score"))


def is_in(page: Page, state: str) -> None:
    expect(page.locator("[data-board]")).to_have_attribute("data-state", state, timeout=15_000)


# --- How to get there: each takes a window on a league that has played, and leaves the board in its state -------------


def live(visitor: Visitor, path: str = "/") -> None:
    is_in(visitor.open(path), "live")


def paused(visitor: Visitor, path: str = "/") -> None:
    live(visitor, path)
    visitor.page.get_by_role("button", name="Pause updates").click()


def stale(visitor: Visitor, path: str = "/") -> None:
    """The socket opens, says one thing and falls silent; the page's clock runs on."""
    visitor.page.route_web_socket(SOCKET, lambda route: route.send('{"event": "pong", "data": {}, "timestamp": ""}'))
    visitor.page.clock.install()
    visitor.open(path)
    is_in(visitor.page, "live")
    visitor.page.clock.run_for(11_500)
    is_in(visitor.page, "stale")
    visitor.page.clock.set_fixed_time(visitor.page.evaluate("Date.now() / 1000"))


def reconnecting(visitor: Visitor, path: str = "/") -> None:
    visitor.page.route_web_socket(SOCKET, lambda route: route.close())
    visitor.page.route(POLL, lambda route: route.abort())
    is_in(visitor.open(path), "reconnecting")


def polling(visitor: Visitor, path: str = "/") -> None:
    visitor.page.route_web_socket(SOCKET, lambda route: route.close())
    is_in(visitor.open(path), "polling")


def trouble(visitor: Visitor, path: str = "/") -> None:
    visitor.page.route_web_socket(SOCKET, lambda route: route.close())
    visitor.page.route(POLL, lambda route: route.fulfill(status=503, body="<html>bad gateway</html>"))
    is_in(visitor.open(path), "trouble")


def offline(visitor: Visitor, path: str = "/") -> None:
    live(visitor, path)
    visitor.context.set_offline(True)
    is_in(visitor.page, "offline")


def over(visitor: Visitor, path: str) -> None:
    is_in(visitor.open(path), "over")
    visitor.page.wait_for_selector(".avatar[data-hue], [data-part=empty]:not([hidden])")


@dataclass(frozen=True)
class State:
    """A state by name. `rank` is who looks: None for nobody, 0 for somebody without points."""

    name: str
    reach: Callable[[Visitor, str], None]
    path: str = "/"
    rank: int | None = None


STATES = [
    State("board", live),
    State("board-you-third", live, rank=3),
    State("board-you-far-below", live, rank=128),
    State("board-you-without-points", live, rank=0),
    State("board-day", live, "/?period=day"),
    State("board-month-you", live, "/?period=month", rank=20),
    State("board-past-month", over, PAST_MONTH),
    State("board-past-month-empty", over, "/?period=month&at=2019-01-01"),
    State("board-paused", paused),
    State("board-stale", stale),
    State("board-reconnecting", reconnecting),
    State("board-polling", polling),
    State("board-service-trouble", trouble),
    State("board-offline", offline),
    State("tv", live, "/?view=tv"),
    State("tv-week", live, "/?view=tv&period=week"),
    State("tv-reconnecting", reconnecting, "/?view=tv"),
    State("embed", live, "/embed/?limit=5"),
    State("embed-reconnecting", reconnecting, "/embed/?limit=5"),
]
EMPTY_STATES = [
    State("board-empty", live),
    State("board-empty-you", live, rank=0),
    State("tv-empty", live, "/?view=tv"),
    State("embed-empty", live, "/embed/?limit=5"),
]
SIZES = {"320": (320, 720), "1280": (1280, 900)}


def sizes_of(state: State) -> dict[str, tuple[int, int]]:
    """A big screen's view is for big screens, and a frame is small."""
    if state.name.startswith("tv"):
        return {"1920": (1920, 1080)}
    if state.name.startswith("embed"):
        return {"360": (360, 520)}
    return SIZES


def visit_state(visit: Any, server: Any, state: State, players: list[Player]) -> Visitor:
    """A new window in that state."""
    visitor = visit(server)
    if state.rank is not None:
        visitor.sign_in(players[state.rank - 1] if state.rank else Player.objects.get(username="newcomer"))
    state.reach(visitor, state.path)
    return visitor

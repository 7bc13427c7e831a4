"""Player pages: what the ledger says of a player, and for whoever is not on the board the very page of nobody."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from leaderboard import avatars, best_ranks, closing, days, healing, ledger, moderation, periods, profiles, sample_players
from leaderboard.models import BestRank, PastPeriod, Player, Score, ScoreEntry
from scoreboard_project.redis_client import client as redis_client
from tests.conftest import make_player
from tests.test_ledger import WHY, award
from tests.test_pages import Page, browser  # noqa: F401
from tests.test_periods import SATURDAY, Clock, clock  # noqa: F401


def seen(path: str) -> Any:
    return Client().get(path)


def page_of(player: Player, query: str = "") -> Page:
    answer = seen(f"/players/{player.username}/{query}")
    assert answer.status_code == 200, answer
    answer.text = answer.content.decode()
    return Page(answer)


def facts(page: Page) -> dict[str, str]:
    """{term: number} of the four cards."""
    terms = [text for text, inside in page.shown if inside[-1][0] == "dt"]
    found = re.findall(r"<dt>(.*?)</dt><dd>(?:<bdi>)?(.*?)(?:</bdi>)?</dd>", re.sub(r"\s+", " ", page.answer.text))
    assert [term for term, _ in found] == terms
    return dict(found)


def ledger_lines(page: Page) -> list[tuple[str, str, str]]:
    """(what, points, score after) of each line."""
    cells = re.findall(
        r'<th scope="row">([^<]*?) <time.*?</th>.*?">([+-]?[\d,]+)</span>.*?">([\d,]+)</td>', page.answer.text, re.S
    )
    return cells


async def test_a_page_says_where_a_player_stands_and_why(api, browser, alice, bob, mallory):  # noqa: F811
    for who, times in ((bob, 3), (alice, 2), (mallory, 1)):
        for _ in range(times):
            await api.earn(who)
    await api.earn(alice, "daily_login")
    page = await browser.get("/players/alice/")
    assert page.answer.status_code == 200
    assert facts(page) == {"Rank": "#2", "Score": "210", "Ahead of": "50%", "Best rank": "#2"}
    assert "of 3 players" in page.text and "91 points to the next rank" in page.text
    assert ledger_lines(page) == [("Daily check-in", "+10", "210"), ("Level", "+100", "200"), ("Level", "+100", "100")]
    assert [inside[-1][0] for text, inside in page.shown if text == "alice"] == ["bdi"]
    leader = await browser.get("/players/bob/")
    assert facts(leader)["Rank"] == "#1" and "In the lead" in leader.text


def test_corrections_are_shown_as_such_and_say_nothing_of_who_or_why(world, alice, moderator):
    award(alice, 100)
    award(alice, 50)
    moderation.reverse(entry=ScoreEntry.objects.get(points=50), moderator=moderator, reason="caught with a script")
    moderation.adjust(player_id=alice.pk, points=7, moderator=moderator, reason="a very good answer")
    page = page_of(alice)
    assert ledger_lines(page) == [
        ("Adjustment by the moderators", "+7", "107"),
        ("Correction: an award was taken back", "-50", "100"),
        ("Award", "+50", "150"),
        ("Award", "+100", "100"),
    ]
    for secret in ("caught", "script", "good answer", "moderator<", ">moderator"):
        assert secret not in page.answer.text


def unlisted(player: Player, moderator: Player, how: str) -> None:
    if how == "inactive":
        Player.objects.filter(pk=player.pk).update(is_active=False)
    elif how == "opted out":
        profiles.change(player, opted_out=True)
    elif how != "without points":
        {"hidden": moderation.hide, "suspended": moderation.suspend}[how](player_id=player.pk, moderator=moderator, reason=WHY)


@pytest.mark.parametrize("how", ["hidden", "suspended", "opted out", "inactive", "without points"])
def test_who_is_not_on_the_board_has_the_page_of_nobody(world, alice, moderator, how):
    if how != "without points":
        award(alice, 100)
        assert seen("/players/alice/").status_code == 200
    unlisted(alice, moderator, how)
    with CaptureQueriesContext(
        connection,
    ) as for_alice:
        theirs = seen("/players/alice/")
    with CaptureQueriesContext(connection) as for_nobody:
        nobodys = seen("/players/nobody1/")
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content
    ignored = {"X-Request-ID"}
    assert {name: value for name, value in theirs.items() if name not in ignored} == {
        name: value for name, value in nobodys.items() if name not in ignored
    }
    assert len(for_alice) == len(for_nobody) == 1
    own = Client()
    own.force_login(alice)
    assert own.get("/players/alice/").status_code == 404  # looking while signed in tells no more


def test_another_spelling_leads_to_the_one_that_is_used(world, alice):
    award(alice, 1)
    for spelling in ("Alice", "ALICE", "аlice"):  # the last one with a Cyrillic а
        answer = seen(f"/players/{spelling}/")
        assert (answer.status_code, answer["Location"]) == (301, "/players/alice/")


def test_an_odd_name_or_page_is_a_404(world, alice):
    award(alice, 1)
    for name in ("<script>", "%00", "a" * 40, "a" * 5000, "..%2F..%2Fadmin", "%F0%9F%98%80", "\u202egnp", "%ff", "a%0Ab"):
        assert seen(f"/players/{name}/").status_code == 404, name
    for page in ("0", "2", "51", "-1", "x", "1e1", "9999999999", "%00", "٢", ""):
        assert seen(f"/players/alice/?page={page}").status_code == 404, page


def test_the_ledger_is_read_page_by_page(world, alice):
    for _ in range(45):
        award(alice, 1)
    totals: list[str] = []
    for number in (1, 2, 3):
        page = page_of(alice, f"?page={number}")
        totals += [after for _, _, after in ledger_lines(page)]
        assert (f"?page={number - 1}#why" in page.links()) == (number > 1)
        assert (f"?page={number + 1}#why" in page.links()) == (number < 3)
    assert totals == [str(total) for total in range(45, 0, -1)]
    assert seen("/players/alice/?page=4").status_code == 404


def test_a_page_costs_the_same_however_long_the_ledger_is(world, alice):
    award(alice, 1)
    today = periods.current("day").start
    PastPeriod.objects.create(kind="day", start=today - timedelta(days=1), end=today)
    with CaptureQueriesContext(connection) as short:
        page_of(alice)
    for _ in range(60):
        award(alice, 1)
    with CaptureQueriesContext(connection) as long:
        page_of(alice)
    assert len(long) == len(short) <= 7, [query["sql"] for query in long]
    assert not any("sum(" in query["sql"].lower() for query in long)


# --- The chart --------------------------------------------------------------------------------------------------------


def by_the_ledger(player: Player) -> dict[Any, int]:
    """{day: points}, added up in Python; a reversal counts where the line counts that it takes back."""
    points: dict[Any, int] = {}
    for line in ScoreEntry.objects.filter(player=player).select_related("reverses"):
        day = (line.reverses or line).created_at.astimezone(UTC).date()
        points[day] = points.get(day, 0) + line.points
    return points


def test_the_days_are_what_the_ledger_adds_up_to_open_or_closed(clock, alice, bob, moderator):  # noqa: F811
    def agree() -> None:
        earned = days.earned(Score.objects.get(player=alice))
        today = periods.current("day").start.date()
        assert [day for day, _ in earned] == [today - timedelta(days=back) for back in range(29, -1, -1)]
        ours = by_the_ledger(alice)
        assert {day: points for day, points in earned if points} == {
            day: points for day, points in ours.items() if points and day > today - timedelta(days=30)
        }

    award(alice, 100)
    award(bob, 5)
    award(alice, 40)
    agree()
    clock.move(hours=2)  # it is June now
    agree()  # yesterday is not closed
    moderation.reverse(entry=ScoreEntry.objects.get(points=40), moderator=moderator, reason=WHY)
    agree()
    closing.close_past()
    agree()
    award(alice, 50)
    moderation.adjust(player_id=alice.pk, points=-20, moderator=moderator, reason=WHY)
    agree()
    for _ in range(3):
        clock.move(days=9)
        award(alice, 10)
        agree()
        closing.close_past()
        agree()
    moderation.reverse(entry=ScoreEntry.objects.get(points=50), moderator=moderator, reason=WHY)
    agree()
    clock.move(days=4)
    closing.close_past()
    agree()
    assert by_the_ledger(alice).keys() & {SATURDAY.date()}, "the first day has left the chart by now"


def test_the_chart_has_its_numbers_in_a_table(clock, alice):  # noqa: F811
    award(alice, 300)
    clock.move(hours=2)
    closing.close_past()
    award(alice, 100)
    page = page_of(alice)
    heights = [float(attrs["height"] or 0) for tag, attrs in page.elements if tag == "rect" and attrs.get("width") == "8"]
    assert heights == [100.0, 33.3]
    (drawing,) = [attrs for tag, attrs in page.elements if tag == "svg" and attrs.get("role") == "img"]
    assert "table" in (drawing["aria-label"] or "")
    table = re.findall(r'datetime="(2031-[\d-]+)">.*?<td class="number">([\d,]+)</td>', page.answer.text)
    assert len(table) == 30 and table[:2] == [("2031-06-01", "100"), ("2031-05-31", "300")]
    assert {points for _, points in table[2:]} == {"0"}


# --- The best rank ----------------------------------------------------------------------------------------------------


def minute_later() -> int:
    redis_client().delete("{best}:turn")
    return best_ranks.look()


def best() -> dict[str, int]:
    return dict(BestRank.objects.values_list("player__username", "rank"))


def test_the_best_rank_is_what_a_player_was_seen_at(world, alice, bob):
    award(alice, 10)
    assert minute_later() == 1
    award(bob, 20)
    assert minute_later() == 1  # alice is second now, which is no better
    assert best() == {"alice": 1, "bob": 1}
    assert facts(page_of(alice))["Best rank"] == "#1" and facts(page_of(alice))["Rank"] == "#2"
    award(alice, 100)
    assert minute_later() == 0


def test_one_process_looks_once_a_minute(world, alice):
    award(alice, 10)
    assert best_ranks.look() == 1
    BestRank.objects.all().delete()
    assert best_ranks.look() == 0
    assert 50 <= redis_client().ttl("{best}:turn") <= 60


def test_only_who_scored_since_the_last_look_is_looked_at(world, alice, bob):
    award(alice, 10)
    minute_later()
    Score.objects.filter(player=alice).update(updated_at=datetime.now(UTC) - timedelta(minutes=5))
    BestRank.objects.all().delete()
    award(bob, 20)
    assert minute_later() == 1 and best() == {"bob": 1}
    redis_client().delete("{best}:until")  # Redis was emptied: look further back
    assert minute_later() == 1 and best() == {"bob": 1, "alice": 2}


def test_a_place_reached_with_points_that_were_not_due_is_forgotten(world, alice, bob, moderator):
    award(bob, 50)
    award(alice, 100)
    minute_later()
    assert best()["alice"] == 1
    moderation.reverse(entry=ScoreEntry.objects.get(player=alice), moderator=moderator, reason=WHY)
    award(alice, 10)
    minute_later()
    assert best() == {"alice": 2, "bob": 1}


def test_a_score_that_was_corrected_while_it_was_looked_at_is_left_for_the_next_look(world, alice, moderator, monkeypatch):
    award(alice, 100)
    standings = best_ranks.board.standings

    def meanwhile(players: list[uuid.UUID]) -> Any:
        ranks = standings(players)
        moderation.adjust(player_id=alice.pk, points=-50, moderator=moderator, reason=WHY)
        return ranks

    monkeypatch.setattr(best_ranks.board, "standings", meanwhile)
    assert minute_later() == 0 and best() == {}


def test_who_is_off_the_board_has_no_rank_to_keep(world, alice, bob):
    award(alice, 10)
    profiles.change(alice, opted_out=True)
    award(alice, 10)
    assert minute_later() == 0
    redis_client().flushdb()
    assert best_ranks.look() == 0  # a cold board says nothing
    healing.rebuild()
    award(bob, 5)
    assert minute_later() == 1 and best() == {"bob": 1}


def test_a_bulk_change_is_looked_at_a_part_at_a_time_and_holds_up_nobody_behind_it(world, monkeypatch):
    monkeypatch.setattr(best_ranks, "MOST", 10)
    list(sample_players.seed(25))
    healing.rebuild()
    kept = []
    for _ in range(4):
        redis_client().delete("{best}:turn")
        best_ranks.look()
        kept.append(BestRank.objects.count())
    assert kept[0] == 10  # all of one moment: the rest of them is passed by
    late = make_player("late")
    moderation.adjust(player_id=late.pk, points=10**9, moderator=make_player("clerk"), reason="x")
    redis_client().delete("{best}:turn")
    best_ranks.look()
    assert BestRank.objects.filter(player=late, rank=1).exists()


def test_a_redemption_neither_reads_nor_writes_best_ranks():
    assert "bestrank" not in ledger._AWARD and not hasattr(ledger, "best_ranks")


# --- The picture ------------------------------------------------------------------------------------------------------


def test_a_pattern_is_the_player_s_own_and_mirrored(world):
    ids = [uuid.UUID(int=number) for number in range(200)]
    patterns = {(tuple(pattern.squares), pattern.hue) for pattern in map(avatars.identicon, ids)}
    assert len(patterns) > 190
    for squares, hue in patterns:
        assert {(4 - x, y) for x, y in squares} == set(squares) and 0 <= hue < avatars.HUES
    assert json.dumps(avatars.identicon(ids[7]).squares) == json.dumps(avatars.identicon(ids[7]).squares)


def test_an_avatar_from_elsewhere_takes_the_pattern_s_place(world, settings):
    settings.AVATAR_HOSTS = ["cdn.example"]
    player = make_player("ann", avatar_url="https://cdn.example/a.png")
    award(player, 1)
    page = page_of(player)
    (image,) = [attrs for tag, attrs in page.elements if tag == "img"]
    assert (image["src"], image["alt"], image["referrerpolicy"]) == ("https://cdn.example/a.png", "", "no-referrer")

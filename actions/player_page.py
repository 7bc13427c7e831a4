"""`/players/<username>/`: where a player stands, and which actions got them there."""

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from actions.models import ActionLog
from leaderboard import avatars, days, names, reading
from leaderboard.models import BestRank, Player, ScoreEntry

LINES = 20
MOST_PAGES = 50  # so that no address asks for millions of lines to be passed over
CHART_HEIGHT = 100


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the ledger, as anybody may read it: who corrected it, and why, stays with the moderators."""

    at: datetime
    what: str
    correction: bool
    points: int
    score_after: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A day of the chart. `x`, `y`, `height`: in a drawing of 30 columns, each 10 wide, and 100 high."""

    day: date
    points: int
    x: int
    y: float
    height: float


@require_safe
def player_page(request: HttpRequest, username: str) -> HttpResponse:
    """404 for whoever is not on the public board, whatever the reason: the same page after the same one query."""
    player = _listed(username)
    if player.username != username:
        return HttpResponsePermanentRedirect(reverse("player", args=[player.username]))
    page = _page_number(request)
    lines, more = _lines(player.pk, page)
    if page > 1 and not lines:
        raise Http404
    around = reading.around(player.pk, 1)
    bars = _bars(days.earned(player.score))
    context = {
        "player": player,
        "identicon": avatars.identicon(player.pk),
        "around": around,
        "points": player.score.total_score if around.points is None else around.points,
        "best": _best(player.pk, around.rank),
        "bars": bars,
        "earned": sum(bar.points for bar in bars),
        "most": max(bar.points for bar in bars),
        "lines": lines,
        "page": page,
        "more": more and page < MOST_PAGES,
    }
    return render(request, "player.html", context)


def _listed(username: str) -> Player:
    if "\x00" in username:  # PostgreSQL has no such text
        raise Http404
    found = Player.objects.select_related("score").filter(name_skeleton=names.skeleton(username[: names.LONGEST])).first()
    if found is None or not found.is_active or not found.score.listed:
        raise Http404
    return found


def _page_number(request: HttpRequest) -> int:
    given = request.GET.get("page", "1")
    if not (given.isascii() and given.isdigit() and len(given) <= 2 and 1 <= int(given) <= MOST_PAGES):
        raise Http404
    return int(given)


def _best(player_id: uuid.UUID, rank: int | None) -> dict[str, Any] | None:
    """The best place known: the one kept, or the present one where the next look would keep it."""
    kept = BestRank.objects.filter(pk=player_id).first()
    if kept is None or (rank is not None and rank < kept.rank):
        return None if rank is None else {"rank": rank, "at": None}
    return {"rank": kept.rank, "at": kept.reached_at}


def _lines(player_id: uuid.UUID, page: int) -> tuple[list[Line], bool]:
    """The lines of that page, newest first, and whether there are more."""
    start = (page - 1) * LINES
    entries = list(ScoreEntry.objects.filter(player_id=player_id)[start : start + LINES + 1])
    shown = entries[:LINES]
    completions = ActionLog.objects.filter(pk__in=[entry.source for entry in shown if entry.act_id is None])
    labels = dict(completions.values_list("pk", "action_type__label"))
    lines = [
        Line(entry.created_at, _what(entry, labels), entry.act_id is not None, entry.points, entry.score_after) for entry in shown
    ]
    return lines, len(entries) > LINES


def _what(entry: ScoreEntry, labels: dict[uuid.UUID, str]) -> str:
    if entry.reverses_id:
        return _("Correction: an award was taken back")
    if entry.act_id:
        return _("Adjustment by the moderators")
    label = labels.get(entry.source)
    return _(label) if label else _("Award")


def _bars(earned: list[tuple[date, int]]) -> list[Bar]:
    most = max(1, *(points for _day, points in earned))
    bars = []
    for place, (day, points) in enumerate(earned):
        # Two of a hundred at least: a day with a few points is not a day without.
        height = max(2.0, round(points * CHART_HEIGHT / most, 1)) if points > 0 else 0.0
        bars.append(Bar(day, points, 10 * place, CHART_HEIGHT - height, height))
    return bars

"""The public board as a page, and as a frame for other sites: complete without JavaScript, kept live with it."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from csp.decorators import csp_replace
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.http import require_safe

from leaderboard import board, history, periods, queries, reading
from leaderboard.models import ScoreEntry
from leaderboard.periods import Period
from scoreboard_project.pages import THEMES

NEIGHBOURS = 2  # rows above and below one's own
TABS = {"day": gettext_lazy("Today"), "week": gettext_lazy("Week"), "month": gettext_lazy("Month"), "": gettext_lazy("All time")}
CURRENT = {"day": gettext_lazy("Today"), "week": gettext_lazy("This week"), "month": gettext_lazy("This month")}


@require_safe
def board_page(request: HttpRequest) -> HttpResponse:
    """The scoreboard, of all time or of a period; `?view=tv` fills a screen that nobody sits at."""
    try:
        period = queries.board(request.GET).period
    except queries.InvalidQuery:
        raise Http404 from None
    player_id = request.user.pk if request.user.is_authenticated else None
    view = "tv" if request.GET.get("view") == "tv" else "page"
    context = _board(board.TOP, period, player_id) | {"view": view, "tabs": _tabs(period, view)}
    if period:
        context |= _neighbouring(period)
    context["embed_url"] = request.build_absolute_uri("/embed/")
    return render(request, "board.html", context)


@xframe_options_exempt
@csp_replace({"frame-ancestors": settings.EMBED_FRAME_ANCESTORS})
@require_safe
def embed_page(request: HttpRequest) -> HttpResponse:
    """The board for an iframe: `?limit=1…10`, `?theme=light|dark`, `?period=day|week|month`. What makes no sense is left out,
    because who sees it cannot mend the address. Whoever looks, it is the same; it sets no cookie."""
    try:
        limit = queries.number(request.GET, "limit", most=board.TOP, default=board.TOP)
    except queries.InvalidQuery:
        limit = board.TOP
    kind, theme = request.GET.get("period"), request.GET.get("theme")
    period = periods.current(kind) if kind in periods.KINDS else None
    return render(request, "embed.html", _board(limit, period, None) | {"theme": theme if theme in THEMES else ""})


def _board(limit: int, period: Period | None, player_id: uuid.UUID | None) -> dict[str, Any]:
    top = reading.top(limit, period)
    over = period is not None and period.over
    earned = {} if over else history.last_hour([uuid.UUID(row["userId"]) for row in top.rows])
    current, dated = ({"period": period.kind} if period else {}), _address(period)
    live: dict[str, Any] = {
        "socketPath": "/api/v1/scores/live?" + urlencode(current),
        "pollPath": "/api/v1/scores/leaderboard?" + urlencode({"limit": limit, **current}),
        "aroundPath": "/api/v1/scores/around-me?" + urlencode({"span": NEIGHBOURS, **dated}),
        # The pictures of a period are counted by those who send them.
        "seq": 0 if period else top.seq,
        "period": period and period.kind,
        "end": period and periods.timestamp(period.end),
        "over": over,
        "limit": limit,
        "leaderboard": top.rows,
        "earned": {str(player): minutes for player, minutes in earned.items()},
        "userId": player_id and str(player_id),
    }
    me = None
    if player_id:
        me = reading.around(player_id, NEIGHBOURS, period)
        live["me"] = {"rank": me.rank, "score": me.points, "pointsToNext": me.points_to_next, "percentile": me.percentile}
        live["near"] = me.rows
    last_updated = datetime.fromtimestamp(top.changed_at / 1000, UTC) if top.changed_at else None
    known = {"leaderboard": top.rows, "last_updated": last_updated, "live": live, "me": me}
    return known | {"period": period, "over": over, "final": top.final, "period_title": period and _title(period)}


def _tabs(period: Period | None, view: str) -> list[dict[str, Any]]:
    shape = {"view": view} if view == "tv" else {}
    chosen = period.kind if period else ""
    return [
        {"label": label, "address": "?" + urlencode(({"period": kind} if kind else {}) | shape), "chosen": kind == chosen}
        for kind, label in TABS.items()
    ]


def _neighbouring(period: Period) -> dict[str, Any]:
    """The periods before and after, as far as there is anything to see."""
    first = ScoreEntry.objects.order_by("id").values_list("created_at", flat=True).first()
    before, after = None, None
    if first and first < period.start:
        before = periods.containing(period.kind, period.start - timedelta(days=1))
    if period.over:
        after = periods.containing(period.kind, period.end)
    last_day = period.end - timedelta(days=1)
    return {"last_day": last_day} | {name: found and _link(found) for name, found in (("before", before), ("after", after))}


def _link(period: Period) -> dict[str, str]:
    return {"title": _title(period), "address": "?" + urlencode(_address(period))}


def _address(period: Period | None) -> dict[str, str]:
    if period is None:
        return {}
    return {"period": period.kind} | ({"at": period.start.date().isoformat()} if period.over else {})


def _title(period: Period) -> str:
    if not period.over:
        return str(CURRENT[period.kind])
    if period.kind == "month":
        return date_format(period.start, "YEAR_MONTH_FORMAT")
    day = date_format(period.start, "DATE_FORMAT")
    return _("Week of %(day)s") % {"day": day} if period.kind == "week" else day

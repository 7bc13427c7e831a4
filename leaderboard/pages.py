"""The public board as a page, and as a frame for other sites: complete without JavaScript, kept live with it."""

import uuid
from datetime import UTC, datetime
from typing import Any

from csp.decorators import csp_replace
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.http import require_safe

from leaderboard import board, history, reading
from scoreboard_project.pages import THEMES


@require_safe
def board_page(request: HttpRequest) -> HttpResponse:
    """The scoreboard; `?view=tv` fills a screen that nobody sits at."""
    player_id = request.user.pk if request.user.is_authenticated else None
    context = _board(board.TOP, player_id) | {"view": "tv" if request.GET.get("view") == "tv" else "page"}
    if player_id:
        context["me"] = _me(player_id)
    context["embed_url"] = request.build_absolute_uri("/embed/")
    return render(request, "board.html", context)


@xframe_options_exempt
@csp_replace({"frame-ancestors": settings.EMBED_FRAME_ANCESTORS})
@require_safe
def embed_page(request: HttpRequest) -> HttpResponse:
    """The board for an iframe: `?limit=1…10`, `?theme=light|dark`. Whoever looks, it is the same; it sets no cookie."""
    limit = request.GET.get("limit", "")
    rows = int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 2 and 1 <= int(limit) <= board.TOP else board.TOP
    theme = request.GET.get("theme", "")
    return render(request, "embed.html", _board(rows, None) | {"theme": theme if theme in THEMES else ""})


def _board(limit: int, player_id: uuid.UUID | None) -> dict[str, Any]:
    top = reading.top(limit)
    earned = history.last_hour([uuid.UUID(row["userId"]) for row in top.rows])
    live = {
        "socketPath": "/api/v1/scores/live",
        "pollPath": f"/api/v1/scores/leaderboard?limit={limit}",
        "seq": top.seq,
        "limit": limit,
        "leaderboard": top.rows,
        "earned": {str(player): minutes for player, minutes in earned.items()},
        "userId": player_id and str(player_id),
        "aroundPath": None,
    }
    last_updated = datetime.fromtimestamp(top.changed_at / 1000, UTC) if top.changed_at else None
    return {"leaderboard": top.rows, "last_updated": last_updated, "live": live}


def _me(player_id: uuid.UUID) -> dict[str, Any]:
    rank, score = reading.standing(player_id)
    return {"rank": rank, "score": score}

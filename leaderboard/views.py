"""The wire of reading the leaderboard."""

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from leaderboard import board, periods, queries, reading
from leaderboard.periods import KINDS
from scoreboard_project import sign_in
from scoreboard_project.api import ApiView, encoded, json_response, success
from scoreboard_project.db import off_loop
from scoreboard_project.errors import Unauthorized

MOST_ROWS, WIDEST = 100, 25
PERIODS = (*KINDS, queries.ALL_TIME)
BEARER: list[Any] = [{"bearer": []}]  # for the schema


class Row(serializers.Serializer):
    rank = serializers.IntegerField()
    userId = serializers.UUIDField()
    username = serializers.CharField()
    score = serializers.IntegerField()
    avatarUrl = serializers.URLField(allow_null=True)


class CurrentUser(serializers.Serializer):
    rank = serializers.IntegerField(allow_null=True)
    score = serializers.IntegerField(allow_null=True)


class BoardQuery(serializers.Serializer):
    period = serializers.ChoiceField(PERIODS, required=False, help_text="UTC; without it, the board of all time.")
    at = serializers.DateField(required=False, help_text="Any date in the period that is wanted; without it, the current one.")


class LeaderboardQuery(BoardQuery):
    limit = serializers.IntegerField(min_value=1, max_value=MOST_ROWS, default=board.TOP)


class AroundMeQuery(BoardQuery):
    span = serializers.IntegerField(min_value=1, max_value=WIDEST, default=5, help_text="Rows above, and rows below.")


class PeriodAnswer(serializers.Serializer):
    """In an answer to a question that names a period."""

    period = serializers.ChoiceField(PERIODS, required=False)
    start = serializers.DateTimeField(required=False, allow_null=True)
    end = serializers.DateTimeField(required=False, allow_null=True, help_text="The first moment after it.")
    final = serializers.BooleanField(required=False, help_text="It is over, and only a moderator changes its standings.")


class LeaderboardAnswer(PeriodAnswer):
    leaderboard = Row(many=True)
    currentUser = CurrentUser(required=False, help_text="Only for a signed-in player; null until the first points.")
    lastUpdated = serializers.DateTimeField(help_text="When the top 10 last changed; of a period, when it was read.")


class AroundMeAnswer(PeriodAnswer):
    rank = serializers.IntegerField(allow_null=True)
    score = serializers.IntegerField(allow_null=True)
    pointsToNext = serializers.IntegerField(allow_null=True, help_text="The fewest points that lead past the player above.")
    percentile = serializers.FloatField(allow_null=True, help_text="How many percent of the other ranked players stand below.")
    players = serializers.IntegerField(help_text="All who are ranked.")
    leaderboard = Row(many=True, help_text="The player's own row among those above and below.")
    lastUpdated = serializers.DateTimeField()


@dataclass
class _Fresh:
    """The encoded rows of one board and `limit`, read at most once an interval however many ask."""

    read_at: float = float("-inf")
    body: bytes = b""
    reading: asyncio.Task[bytes] | None = None


_Key = tuple[asyncio.AbstractEventLoop, int, queries.Asked]
_fresh: dict[_Key, _Fresh] = {}
MOST_FRESH = 500  # there is no end of past periods to ask for


async def _rows(limit: int, asked: queries.Asked) -> bytes:
    """The `data` of the answer, without its closing brace, at most an interval old."""
    loop = asyncio.get_running_loop()
    key = (loop, limit, asked)
    fresh = _fresh.get(key)
    if fresh is None:
        if len(_fresh) >= MOST_FRESH:
            _fresh.clear()
        fresh = _fresh[key] = _Fresh()
    if loop.time() - fresh.read_at < settings.LIVE_INTERVAL_MS / 1000:
        return fresh.body
    if fresh.reading is None:
        fresh.reading = loop.create_task(_read(fresh, limit, asked))
    return await asyncio.shield(fresh.reading)


async def _read(fresh: _Fresh, limit: int, asked: queries.Asked) -> bytes:
    asked_at = asyncio.get_running_loop().time()
    try:
        top = await off_loop(reading.top, limit, asked.period)
        body = b'{"leaderboard":%b,"lastUpdated":%b' % (encoded(top.rows), encoded(_timestamp(top.changed_at)))
        fresh.body = body + b"".join(
            b",%b:%b" % (encoded(name), encoded(value)) for name, value in _of_period(asked, top.final).items()
        )
        fresh.read_at = asked_at
        return fresh.body
    finally:
        fresh.reading = None


def _of_period(asked: queries.Asked, final: bool) -> dict[str, Any]:
    """What an answer says of the period, where one was asked for."""
    if asked.kind is None:
        return {}
    start, end = (asked.period.start, asked.period.end) if asked.period else (None, None)
    return {"period": asked.kind, "start": periods.timestamp(start), "end": periods.timestamp(end), "final": final}


def _timestamp(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LeaderboardView(ApiView):
    """The head of a board, of all time or of a period; for a signed-in player also where they stand themselves."""

    invalid_code = "INVALID_QUERY"

    @extend_schema(parameters=[LeaderboardQuery], responses=LeaderboardAnswer, operation_id="leaderboard")
    async def get(self, request: Request) -> HttpResponse:
        query = request.query_params
        queries.only(query, "limit", "period", "at")
        limit, asked = queries.number(query, "limit", most=MOST_ROWS, default=board.TOP), queries.board(query)
        body = await _rows(limit, asked)
        if self.caller is not None:
            rank, score = await self._standing(self.caller.player_id, asked.period)
            body += b',"currentUser":' + encoded({"rank": rank, "score": score})
        return json_response(b'{"success":true,"data":%b}}' % body)

    async def _standing(self, player_id: uuid.UUID, period: periods.Period | None) -> tuple[int | None, int | None]:
        if period is None:
            return await reading.standing_in_company(player_id)
        return await off_loop(reading.standing, player_id, period)


class AroundMeView(ApiView):
    """Where the signed-in player stands, with those above and below. By access token, or by the site's session."""

    invalid_code = "INVALID_QUERY"

    @extend_schema(parameters=[AroundMeQuery], responses=AroundMeAnswer, operation_id="aroundMe", auth=BEARER)
    async def get(self, request: Request) -> HttpResponse:
        player_id = await self._who(request)
        query = request.query_params
        queries.only(query, "span", "period", "at")
        span, asked = queries.number(query, "span", most=WIDEST, default=5), queries.board(query)
        around = await off_loop(reading.around, player_id, span, asked.period)
        answer = {
            "rank": around.rank,
            "score": around.points,
            "pointsToNext": around.points_to_next,
            "percentile": around.percentile,
            "players": around.players,
            "leaderboard": around.rows,
            "lastUpdated": _timestamp(around.read_at),
        }
        return success(answer | _of_period(asked, around.final))

    async def _who(self, request: Request) -> uuid.UUID:
        if self.caller is not None:
            return self.caller.player_id
        session_key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        caller = await sign_in.session_player(session_key) if session_key else None
        if caller is None:
            raise Unauthorized
        return caller.player_id

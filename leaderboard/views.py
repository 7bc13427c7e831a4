"""The wire of reading the leaderboard."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from leaderboard import board, reading
from scoreboard_project.api import ApiView, encoded, json_response
from scoreboard_project.db import off_loop
from scoreboard_project.errors import Invalid

MOST_ROWS = 100


class InvalidQuery(Invalid):
    code = "INVALID_QUERY"
    message = f"limit is a whole number from 1 to {MOST_ROWS}; there are no other parameters."


class Row(serializers.Serializer):
    rank = serializers.IntegerField()
    userId = serializers.UUIDField()
    username = serializers.CharField()
    score = serializers.IntegerField()
    avatarUrl = serializers.URLField(allow_null=True)


class CurrentUser(serializers.Serializer):
    rank = serializers.IntegerField(allow_null=True)
    score = serializers.IntegerField(allow_null=True)


class LeaderboardQuery(serializers.Serializer):
    limit = serializers.IntegerField(min_value=1, max_value=MOST_ROWS, default=board.TOP)


class LeaderboardAnswer(serializers.Serializer):
    leaderboard = Row(many=True)
    currentUser = CurrentUser(required=False, help_text="Only for a signed-in player; null until the first points.")
    lastUpdated = serializers.DateTimeField()


@dataclass
class _Fresh:
    """The encoded rows of one `limit`, read at most once an interval however many ask."""

    read_at: float = float("-inf")
    body: bytes = b""
    reading: asyncio.Task[bytes] | None = None


_fresh: dict[tuple[asyncio.AbstractEventLoop, int], _Fresh] = {}


async def _rows(limit: int) -> bytes:
    """The `data` of the answer, without its closing brace, at most an interval old."""
    loop = asyncio.get_running_loop()
    fresh = _fresh.setdefault((loop, limit), _Fresh())
    if loop.time() - fresh.read_at < settings.LIVE_INTERVAL_MS / 1000:
        return fresh.body
    if fresh.reading is None:
        fresh.reading = loop.create_task(_read(fresh, limit))
    return await asyncio.shield(fresh.reading)


async def _read(fresh: _Fresh, limit: int) -> bytes:
    asked_at = asyncio.get_running_loop().time()
    try:
        top = await off_loop(reading.top, limit)
        fresh.body = b'{"leaderboard":%b,"lastUpdated":%b' % (encoded(top.rows), encoded(_timestamp(top.changed_at)))
        fresh.read_at = asked_at
        return fresh.body
    finally:
        fresh.reading = None


def _timestamp(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LeaderboardView(ApiView):
    """The board's head; for a signed-in player also where they stand themselves."""

    invalid_code = "INVALID_QUERY"

    @extend_schema(parameters=[LeaderboardQuery], responses=LeaderboardAnswer, operation_id="leaderboard")
    async def get(self, request: Request) -> HttpResponse:
        body = await _rows(self._limit(request))
        if self.caller is not None:
            rank, score = await off_loop(reading.standing, self.caller.player_id)
            body += b',"currentUser":' + encoded({"rank": rank, "score": score})
        return json_response(b'{"success":true,"data":%b}}' % body)

    def _limit(self, request: Request) -> int:
        query = request.query_params
        given = query.getlist("limit")
        if set(query) - {"limit"} or len(given) > 1:
            raise InvalidQuery
        text = given[0] if given else str(board.TOP)
        if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MOST_ROWS):
            raise InvalidQuery
        return int(text)

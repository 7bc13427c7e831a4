"""python manage.py sample_play: sample players earn points through the public API, as any client would."""

import http.client
import json
import os
import random
import stat
import sys
import threading
import time
import urllib.parse
import uuid
from typing import Any

from django.core.management.base import BaseCommand
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_noop

from actions import server_keys
from actions.models import ActionType, ServerKey
from leaderboard import sample_players
from leaderboard.management.commands.sample_players import COUNT
from leaderboard.models import Player, Score
from scoreboard_project import sign_in

WINS = {"sample_win": (gettext_noop("Sample win"), 100), "sample_draw": (gettext_noop("Sample draw"), 50)}
SECONDS_BETWEEN = 1.2  # 40 players at this pace stay below the 100 actions an hour that raise a flag


class Command(BaseCommand):
    help = "Let the sample players score, until stopped. `serve` starts it, with SAMPLE_BASE_URL."

    def handle(self, *args: Any, **options: Any) -> None:
        if sys.stdin is not None and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
            threading.Thread(target=_end_with_parent, daemon=True).start()
        base = urllib.parse.urlsplit(os.environ.get("SAMPLE_BASE_URL", "http://127.0.0.1:8000"))
        players = sample_players.make(sample_players.names(COUNT))
        self._key = _key()
        while True:
            try:
                self._score(base.hostname or "127.0.0.1", base.port or 80, self._next(players))
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(1)  # the server is restarting
            time.sleep(SECONDS_BETWEEN * random.uniform(0.7, 1.3))

    def _next(self, players: list[Player]) -> Player:
        """Mostly somebody from behind: they are close together, so one action takes them into the top 10."""
        behind = Score.objects.filter(player__in=players).order_by("total_score").values_list("player_id", flat=True)
        order = {player_id: place for place, player_id in enumerate(behind)}
        by_score = sorted(players, key=lambda player: order.get(player.pk, 0))
        return by_score[int(random.triangular(0, len(players), 0)) % len(players)]

    def _score(self, host: str, port: int, player: Player) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            # As a game would: its server says who won, and hands the score token to the player's client.
            [slug] = random.choices(list(WINS), [2, 1])
            win = {"actionType": slug, "actionData": {"reference": uuid.uuid4().hex}, "playerId": str(player.pk)}
            issued = self._call(connection, "/api/v1/actions/complete", {"Authorization": f"Api-Key {self._key}"}, win)
            headers = {
                "Authorization": f"Bearer {sign_in.access_for(player.pk, player.access_epoch)}",
                "X-Score-Token": issued["scoreToken"],
            }
            self._call(connection, "/api/v1/scores/update", headers, {"actionId": issued["actionId"]})
        finally:
            connection.close()

    def _call(self, connection: http.client.HTTPConnection, path: str, headers: dict[str, str], body: Any) -> dict[str, Any]:
        connection.request("POST", path, json.dumps(body), {**headers, "Content-Type": "application/json"})
        answer = json.load(connection.getresponse())
        if not answer["success"]:
            raise ValueError(answer["error"]["code"])
        return answer["data"]


def _key() -> str:
    """The sample game's server key: the same at every start, without being kept anywhere."""
    key = server_keys.PREFIX + salted_hmac("sample_play", "server key", algorithm="sha256").hexdigest()
    for slug, (label, points) in WINS.items():
        ActionType.objects.get_or_create(slug=slug, defaults={"label": label, "points": points, "verification": "trusted"})
    wins = ActionType.objects.filter(slug__in=WINS)
    columns = server_keys.columns(key)
    record, _ = ServerKey.objects.get_or_create(key_hash=columns["key_hash"], defaults={"name": "sample players", **columns})
    record.action_types.set(wins)
    return key


def _end_with_parent() -> None:
    """`serve` gives a pipe as stdin that only it can write to, and writes nothing: the pipe's end is the parent's."""
    sys.stdin.buffer.read()
    os._exit(0)  # from a thread nothing else ends the process; it owns nothing that needs a clean-up

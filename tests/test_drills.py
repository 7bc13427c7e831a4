"""Whole server processes killed, frozen or rolled at the worst moment. More rounds: DRILL_ROUNDS=15."""

import contextlib
import os
import time

import httpx
import pytest
import redis

from leaderboard import board
from scoreboard_project import redis_client, sign_in
from tests.conftest import serving
from tests.test_outages import own_redis  # noqa: F401 (a fixture)

ROUNDS = int(os.environ.get("DRILL_ROUNDS", "2"))


def earn(server, player) -> dict:
    headers = {"Authorization": f"Bearer {sign_in.access_for(player.pk)}"}
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=headers, timeout=10) as http:
        issued = http.post("/actions/complete", json={"actionType": "level_up"}).json()["data"]
        body = {"actionId": issued["actionId"]}
        answer = http.post("/scores/update", json=body, headers={"X-Score-Token": issued["scoreToken"]})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


def seconds_until_shown(player, points: int) -> float:
    started = time.monotonic()
    while time.monotonic() - started < 10:
        with contextlib.suppress(redis.RedisError, board.Cold):
            if board.standings([player.pk])[0] == (1, points):
                return time.monotonic() - started
        time.sleep(0.02)
    raise AssertionError("the board never showed it")


@pytest.mark.timeout(60 + 10 * ROUNDS)
def test_killed_between_commit_and_board_the_board_is_right_soon_after_the_next_start(alice, own_redis, tmp_path):  # noqa: F811
    """Freeze Redis, redeem, kill the server, thaw, start; no further traffic."""
    import signal

    took = []
    for number in range(1, ROUNDS + 1):
        with serving(tmp_path) as server:
            own_redis.send_signal(signal.SIGSTOP)
            earned = earn(server, alice)
            assert (earned["newScore"], earned["newRank"]) == (number * 100, None)
            server.process.kill()
            server.process.wait()
            own_redis.send_signal(signal.SIGCONT)
            redis_client.breaker.worked()
        with serving(tmp_path):
            took.append(seconds_until_shown(alice, number * 100))
    print(f"\nboard right after {[round(seconds, 2) for seconds in took]} s")
    assert max(took) < 5

"""Seeded odd requests, frames and tokens: no fault of ours, never HTML from the API, never a point, always an envelope and an id.

FUZZ_REQUESTS=20000 FUZZ_SEED=7 python3 run.py test tests/test_fuzzing.py    a longer run; 2,000 and 1 are the defaults
"""

import asyncio
import contextlib
import copy
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import websockets
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.test import Client

from actions.score_tokens import InvalidToken, open_token
from leaderboard import moderation
from leaderboard.models import Score, ScoreEntry
from scoreboard_project import sign_in
from scoreboard_project.asgi import application
from scoreboard_project.errors import Unauthorized
from tests.conftest import PASSWORD, code, serving
from tests.odd_requests import CSRF, VALUES, Answer, Maker, Odd, send

REQUESTS, SEED = int(os.environ.get("FUZZ_REQUESTS", "2000")), int(os.environ.get("FUZZ_SEED", "1"))
AT_ONCE = 20
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@pytest.fixture
def no_brakes(no_limits, settings):
    settings.UNREDEEMED_TOKEN_LIMIT = settings.SIGN_IN_FAILURE_LIMIT = 0


def cookies(player: Any) -> list[tuple[bytes, bytes]]:
    browser = Client()
    browser.force_login(player)
    session = browser.cookies[django_settings.SESSION_COOKIE_NAME].value
    return [(b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={session}; csrftoken={CSRF}".encode())]


def what_is_wrong(odd: Odd, answer: Answer) -> str | None:
    """What an answer lacks, or has too much of."""
    ids = answer.values("x-request-id")
    if answer.status >= 500:
        return f"status {answer.status}"
    if len(ids) != 1 or not ID.fullmatch(ids[0]):
        return f"request ids {ids}"
    if answer.values("x-injected"):
        return "a header was injected"
    if not odd.path.startswith("/api/v1/") or odd.path.startswith("/api/v1/docs"):
        return None
    if not any("json" in value for value in answer.values("content-type")):
        return f"content type {answer.values('content-type')}"
    if odd.method == "HEAD" or (odd.path == "/api/v1/schema" and answer.status == 200):
        return None
    body = json.loads(answer.body)
    if answer.status == 200:
        return None if body.keys() == {"success", "data"} and body["success"] is True else "no envelope"
    error = body["error"]
    if body["success"] is not False or not re.fullmatch(r"[A-Z_]+", error["code"]) or not error["message"]:
        return "no envelope"
    if error["requestId"] != ids[0]:
        return "another id"
    needed = {401: "www-authenticate", 405: "allow", 429: "retry-after"}.get(answer.status)
    return f"no {needed}" if needed and not answer.values(needed) else None


def spoilt(token: str) -> Iterator[str]:
    """The token with one byte replaced, taken out or doubled, at every place."""
    for at, letter in enumerate(token):
        yield token[:at] + token[at + 1 :]
        yield token[:at] + letter + token[at:]
        for other in (chr(ord(letter) ^ 1), letter.swapcase(), "A", "_", ".", "=", " ", "\x00", "\x7f", "\xe9", "\u0661"):
            if other != letter:
                yield token[:at] + other + token[at + 1 :]


@pytest.fixture
async def maker(api, alice, bob, mallory, moderator, no_brakes, settings):
    """Bob is signed in and holds Alice's tokens; Mallory, who is suspended, and a moderator have sessions."""
    settings.SCORE_TOKEN_TTL_SECONDS = 3_600
    await api.earn(alice)
    await api.earn(bob)
    tokens = [await api.issued(alice) for _ in range(20)]
    pairs = [await sync_to_async(sign_in.begin)(bob) for _ in tokens]
    await sync_to_async(moderation.suspend)(player_id=mallory.pk, moderator=moderator, reason="x")
    kinds = ["quiz_complete", "task_finish", "daily_login", "level_up", "nothing"] * 4
    known = {
        "X-Score-Token": [token["scoreToken"] for token in tokens],
        "actionId": [token["actionId"] for token in tokens],
        "refresh": [pair["refresh"] for pair in pairs],
        "actionType": kinds,
        "username": ["bob"] * 20,
        "password": [PASSWORD, "wrong"] * 10,
        "playerId": [str(alice.pk)] * 20,
    }
    credentials = {
        "player": [(b"authorization", f"Bearer {sign_in.access_for(bob.pk)}".encode())],
        "nobody": [],
        "suspended": await sync_to_async(cookies)(mallory),
        "staff": await sync_to_async(cookies)(moderator),
    }
    schema = (await api.call("GET", "/schema")).json()
    maker = Maker(schema, known, credentials)
    maker.tokens = tokens
    return maker


async def standing() -> Any:
    totals = {score.player_id: score.total_score async for score in Score.objects.all()}
    return totals, await ScoreEntry.objects.acount()


@pytest.mark.timeout(60 + REQUESTS // 20)
async def test_odd_requests_meet_no_fault_of_ours_and_move_no_score(maker, api, alice, caplog):
    before = await standing()
    found: list[str] = []
    statuses: Counter[int] = Counter()
    slowest = 0.0

    async def one(number: int) -> None:
        nonlocal slowest
        odd = maker.make(SEED, number)
        try:
            answer = await send(application, odd)
            wrong = what_is_wrong(odd, answer)
        except Exception as exc:
            wrong, answer = f"raised {exc!r}", Answer(0, [], b"", 0)
        statuses[answer.status] += 1
        slowest = max(slowest, answer.seconds)
        if wrong:
            found.append(f"{number}: {wrong}\n  {str(odd)[:1500]}\n  {answer.status} {answer.body[:300]!r}")

    for first in range(0, REQUESTS, AT_ONCE):
        await asyncio.gather(*(one(number) for number in range(first, min(first + AT_ONCE, REQUESTS))))
    print(f"{REQUESTS} requests, seed {SEED}: {dict(sorted(statuses.items()))}; the slowest took {slowest:.2f} s")
    assert not found, f"{len(found)} of {REQUESTS}\n" + "\n".join(found[:15])
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    assert await standing() == before
    assert {200, 400, 401, 403, 404, 405, 413, 415} <= set(statuses), "the requests were not odd enough, or not good enough"
    for token in maker.tokens[:5]:  # which Bob has tried all the time
        assert (await api.redeem(alice, token)).status_code == 200


async def test_every_byte_of_a_score_token_counts_and_its_owner_s_stays_good(api, alice, no_brakes, settings):
    settings.SCORE_TOKEN_TTL_SECONDS = 3_600
    issued = await api.issued(alice)
    tried = 0
    for token in spoilt(issued["scoreToken"]):
        with pytest.raises(InvalidToken):
            open_token(token, issued["actionId"])
        tried += 1
    assert tried > 3_000
    for token in list(spoilt(issued["scoreToken"]))[:: max(1, 40_000 // REQUESTS)]:  # some of them by the whole way
        answer = await api.call(
            "POST",
            "/scores/update",
            who=alice,
            headers={b"X-Score-Token": token.encode()},
            json={"actionId": issued["actionId"]},
        )
        assert code(answer) == (400, "INVALID_TOKEN"), token
    assert not await ScoreEntry.objects.aexists()
    assert (await api.redeem(alice, issued)).status_code == 200


async def test_every_byte_of_an_access_token_counts(api, alice):
    access = sign_in.access_for(alice.pk)
    accepted = []
    for token in spoilt(access):
        with contextlib.suppress(Unauthorized):
            sign_in.check_access(token)
            accepted.append(token)
    assert not accepted
    assert sign_in.check_access(access).player_id == alice.pk


# --- Frames -----------------------------------------------------------------------------------------------------------

FRAMES = 400
A_CONNECTION = 15  # frames; more than 20 a second would be a flood


def odd_frame(random: Random) -> str | bytes:
    value = copy.deepcopy(random.choice(VALUES))
    action = random.choice(["ping", "subscribe", "authenticate", "unsubscribe", value])
    message = {"action": action, random.choice(["channel", "token", "period", "x"]): copy.deepcopy(random.choice(VALUES))}
    text = json.dumps(random.choice([message, message, message, value, [message], {"action": {"action": "ping"}}]))
    match random.randint(0, 5):
        case 0:
            at = random.randrange(len(text))
            return text[:at] + random.choice(["", "\x00", '"', "{", "é", "\u2028"]) + text[at + 1 :]
        case 1:
            return random.randbytes(random.choice([0, 1, 20, 5_000]))
        case 2:
            return random.choice([text * 1_000, "[" * 4_000, "", "9" * 4_096, '{"action":' * 400])[:60_000]
    return text


async def test_odd_frames_get_an_error_or_a_close_that_says_why(world, tmp_path):
    random = Random(SEED)
    seen: Counter[str] = Counter()
    with serving(tmp_path) as server:
        for _ in range(FRAMES // A_CONNECTION):
            async with websockets.connect(server.socket_url, proxy=None, max_size=None) as socket:
                try:
                    for frame in [odd_frame(random) for _ in range(A_CONNECTION)]:
                        await socket.send(frame)
                    await socket.send('{"action": "authenticate", "token": "the end"}')
                    async with asyncio.timeout(10):
                        while True:
                            seen[json.loads(await socket.recv())["event"]] += 1
                except websockets.ConnectionClosed:
                    seen[str(socket.close_code)] += 1
        log = server.log.read_text()
    assert set(seen) <= {"leaderboard:initial", "error", "pong", "4401"}, seen
    assert seen["error"] > FRAMES / 4
    assert seen["4401"] == FRAMES // A_CONNECTION  # none was closed by anything else
    assert "Traceback" not in log and '"level": "error"' not in log, log

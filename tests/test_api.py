"""The API's manners: one envelope, strict JSON, one id a request as far as PostgreSQL, every refusal with its code."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django.db
import hypothesis
import jsonschema
import psycopg
import psycopg_pool
import pytest
from asgiref.sync import sync_to_async
from django.contrib.staticfiles.storage import staticfiles_storage
from drf_spectacular.validation import validate_schema
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from actions.models import ActionLog
from leaderboard import healing, moderation, reading, sample_players
from leaderboard.models import ScoreEntry
from scoreboard_project import db, sign_in
from scoreboard_project.asgi import application
from tests.conftest import PASSWORD, Server, code, server_environment, serving
from tests.odd_requests import Odd, send

POSTS = ["/auth/token", "/auth/token/refresh", "/auth/token/revoke", "/actions/start", "/actions/complete", "/scores/update"]
JSON = {"Content-Type": "application/json"}
MOST = 16 * 1024
INTERVAL = 0.1


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A body that httpx sends in chunks, without Content-Length."""
    for part in parts:
        yield part


# --- Envelope, paths, methods -----------------------------------------------------------------------------------------


async def test_an_answer_is_data_in_an_envelope(api):
    answer = await api.call("GET", "/scores/leaderboard")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"success", "data"}
    assert body["success"] is True


async def test_a_refusal_is_an_error_in_an_envelope(api):
    answer = await api.call("POST", "/actions/complete", json={})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    body = answer.json()
    assert body.keys() == {"success", "error"}
    assert body["error"].keys() == {"code", "message", "requestId"}
    assert code(answer) == (401, "UNAUTHORIZED")


UNKNOWN = ["/", "/nope", "/scores", "/scores/leaderboard/", "/auth/token/", "/docs/", "//scores/leaderboard", "/scores/live"]
UNKNOWN += ["/scores/leaderboard%00", "/%0aFAKE", "/%1b%5b31m", "/%ff%fe", "/..%2f..%2fetc/passwd", "/" + "x" * 8_000]


async def test_an_unknown_path_is_answered_in_json(api):
    for path in UNKNOWN:
        for method in ("GET", "POST", "DELETE"):
            answer = await api.call(method, path)
            assert code(answer) == (404, "NOT_FOUND"), path
            assert answer.headers["Content-Type"] == "application/json"


ALLOWED = {
    **dict.fromkeys(POSTS, "POST"),
    "/scores/leaderboard": "GET",
    "/scores/around-me": "GET",
    "/schema": "GET, HEAD",
    "/docs": "GET, HEAD",
}


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "DISPATCH"]


async def test_another_method_is_told_which_are_allowed(api):
    for method, path in ((method, path) for path in ALLOWED for method in METHODS if method not in ALLOWED[path].split(", ")):
        answer = await api.call(method, path, headers={"X-HTTP-Method-Override": ALLOWED[path]})
        assert answer.status_code == 405
        assert answer.headers["Allow"] == ALLOWED[path]
        if method != "HEAD":
            assert code(answer) == (405, "METHOD_NOT_ALLOWED")


async def test_the_api_speaks_json_whatever_is_asked_for(api):
    for accept in ("text/html", "application/xml", "image/png", "nonsense"):
        for path, status in (("/scores/leaderboard", 200), ("/nope", 404), ("/schema", 200)):
            answer = await api.call("GET", path, headers={"Accept": accept})
            assert answer.status_code == status
            assert "json" in answer.headers["Content-Type"]
            answer.json()


# --- Bodies -----------------------------------------------------------------------------------------------------------


async def test_a_body_over_16_kib_is_refused(api, alice):
    for path in POSTS:
        for content in (b" " * (MOST + 1), pieces(*[b" " * 1024] * 16, b" ")):
            answer = await api.call("POST", path, who=alice, content=content, headers=JSON)
            assert code(answer) == (413, "PAYLOAD_TOO_LARGE"), path
            assert answer.headers["Connection"] == "close"


async def test_a_body_of_exactly_16_kib_is_read(api, alice):
    body = json.dumps({"actionType": "level_up"}).encode()
    body += b" " * (MOST - len(body))
    assert (await api.call("POST", "/actions/complete", who=alice, content=body, headers=JSON)).status_code == 200
    in_chunks = pieces(body[:10_000], body[10_000:])
    assert (await api.call("POST", "/actions/complete", who=alice, content=in_chunks, headers=JSON)).status_code == 200
    assert await ActionLog.objects.acount() == 2


async def test_a_body_without_an_end_is_not_read_to_its_end(api, alice):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1024
            yield b" " * 1024

    async with asyncio.timeout(10):
        answer = await api.call("POST", "/actions/complete", who=alice, content=endless(), headers=JSON)
    assert code(answer) == (413, "PAYLOAD_TOO_LARGE")
    assert sent <= MOST + 2048


async def test_a_length_that_is_none_is_refused(api):
    for length in ("-1", "+5", "abc", "1e3", "99999999999999999999"):
        answer = await api.call("POST", "/auth/token", content=b"{}", headers={**JSON, "Content-Length": length})
        assert code(answer) == (413, "PAYLOAD_TOO_LARGE"), length


async def test_a_client_that_leaves_in_the_middle_of_its_body_gets_no_answer_and_changes_nothing(api, alice):
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/actions/complete",
        "raw_path": b"/api/v1/actions/complete",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {sign_in.access_for(alice.pk)}".encode()),
        ],
        "client": ("127.0.0.1", 1),
        "http_version": "1.1",
    }
    coming = [
        {"type": "http.request", "body": b'{"actionType": "level_up"}', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive() -> dict[str, Any]:
        return coming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    assert sent == []
    assert not await ActionLog.objects.aexists()


NO_JSON_TYPES = ["text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "*/*", ""]
NO_JSON_TYPES += ["application/xml", "application/jsonp", "application/merge-patch+json", "application/x-ndjson", "json"]


async def test_a_body_that_is_not_json_by_its_type_is_refused(api, alice):
    for headers in [{}, *({"Content-Type": given_type} for given_type in NO_JSON_TYPES)]:
        for path in POSTS:
            for body in (b"{}", b""):
                answer = await api.call("POST", path, who=alice, content=body, headers=headers)
                assert code(answer) == (415, "UNSUPPORTED_MEDIA_TYPE"), headers


async def test_json_by_any_spelling_of_its_type_is_read(api, alice):
    for given_type in ("application/json", "Application/JSON", "application/json ; charset=utf-8"):
        body = b'{"actionType": "level_up"}'
        answer = await api.call("POST", "/actions/complete", who=alice, content=body, headers={"Content-Type": given_type})
        assert answer.status_code == 200, given_type


NO_JSON = {
    "nothing": b"",
    "white space": b" \r\n\t ",
    "text after it": b"{} x",
    "two values": b"{}{}",
    "no end": b'{"a": [1, 2',
    "a comma too many": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "a comment": b"{} // a",
    "a form": b"actionType=quiz_complete",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "UTF-16 without a mark": "{}".encode("utf-16-le"),
    "UTF-32": "{}".encode("utf-32"),
    "invalid UTF-8": b'{"a": "\xff"}',
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "compressed": bytes.fromhex("1f8b0800000000000003abae050043bfa6a302000000"),
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "1e400": b'{"a": 1e400}',
    "-1e400": b'{"a": [-1e400]}',
    "an integer of 400 digits": b'{"a": %b}' % (b"9" * 400),
    "an integer of 4,000 digits": b'{"a": -%b}' % (b"9" * 4_000),
    "an integer of 10,000 digits": b'{"a": %b}' % (b"9" * 10_000),
    "a leading zero": b'{"a": 01}',
    "a plus sign": b'{"a": +1}',
    "hexadecimal": b'{"a": 0x1}',
    "a key twice": b'{"a": 1, "a": 1}',
    "a key twice, written differently": b'{"a": 1, "\\u0061": 2}',
    "a key twice, deeper": b'{"a": {"b": [{"c": 1, "c": 2}]}}',
    "NUL": b'{"a": "\\u0000"}',
    "NUL in a key": b'{"a": {"\\u0000": 1}}',
    "a raw NUL": b'{"a": "\x00"}',
    "a raw line feed": b'{"a": "\n"}',
    "a lone high surrogate": b'{"a": "\\ud800"}',
    "a lone low surrogate": b'{"a": ["\\udc00"]}',
    "a lone surrogate in a key": b'{"\\ud800": 1}',
    "surrogates in the wrong order": b'{"a": "\\udc00\\ud800"}',
    "20 levels": b'{"a": ' + b"[" * 19 + b"]" * 19 + b"}",
    "1,000 levels": b'{"a": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "1,000 levels of objects": b'{"a":' * 1_000 + b"1" + b"}" * 1_000,
    "8,000 levels": b"[" * 8_000 + b"]" * 8_000,
    "16,000 levels and no end": b"[" * 16_000,
}


@pytest.mark.parametrize("path", POSTS)
async def test_what_is_not_strict_json_is_refused_and_changes_nothing(api, alice, path):
    for name, body in NO_JSON.items():
        for content in (body, pieces(body)):
            answer = await api.call("POST", path, who=alice, content=content, headers=JSON)
            assert code(answer) == (400, "INVALID_JSON"), name
    too_deep = await api.call("POST", path, who=alice, content=b"[" * 100_000, headers=JSON)
    assert code(too_deep) == (413, "PAYLOAD_TOO_LARGE")
    assert not await ActionLog.objects.aexists()


async def test_what_is_strict_json_is_kept_as_it_came(api, alice):
    data = {
        "": "empty key",
        "text": "é 日本 👍 \u202e \u007f \\ \" ' <script>",
        "control": "\x01\x1f",
        "numbers": [0, -1, 2**53 + 1, -(2**63), 10**300, 1.5, 1e-300],
        "others": [True, False, None, [], {}],
        "deep": [[[[[[[[[[1]]]]]]]]]],
        "__proto__": {"constructor": 1},
    }
    answer = await api.complete(alice, actionData=data)
    assert answer.status_code == 200
    assert (await ActionLog.objects.aget()).data == data
    pair = await api.call(
        "POST",
        "/actions/complete",
        who=alice,
        content=b'{"actionType":"level_up","actionData":{"a":"\\ud83d\\udc4d"}}',
        headers=JSON,
    )
    assert (await ActionLog.objects.aget(action_id=pair.json()["data"]["actionId"])).data == {"a": "👍"}


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4),
    max_leaves=12,
)


_BODIES = st.one_of(
    st.binary(),
    st.fixed_dictionaries({"actionType": st.just("level_up") | _ANYTHING, "actionData": _ANYTHING}).map(json.dumps),
    st.fixed_dictionaries({"actionType": st.just("level_up"), "clientTimestamp": _ANYTHING}).map(json.dumps),
    st.fixed_dictionaries({"actionId": _ANYTHING}).map(json.dumps),
    st.fixed_dictionaries({"username": _ANYTHING, "password": _ANYTHING}).map(json.dumps),
    _ANYTHING.map(json.dumps),
)


@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_BODIES)
async def test_nothing_that_can_be_sent_is_answered_with_a_fault_of_ours(api, alice, no_limits, body):
    for path in ("/actions/complete", "/scores/update", "/auth/token"):
        answer = await api.call("POST", path, who=alice, content=body, headers=JSON)
        assert answer.status_code in (200, 400, 401, 403, 413, 429), answer.text
        if answer.status_code != 200:
            code(answer)


# --- The request id ---------------------------------------------------------------------------------------------------

ANSWERS = [
    ("GET", "/api/v1/scores/leaderboard", 200),
    ("GET", "/api/v1/schema", 200),
    ("GET", "/api/v1/docs", 200),
    ("GET", "/api/v1/nope", 404),
    ("DELETE", "/api/v1/scores/leaderboard", 405),
    ("POST", "/api/v1/scores/update", 401),
    ("POST", "/api/v1/auth/token", 415),
    ("GET", "/healthz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/", 200),
    ("GET", "/nope", 404),
    ("GET", "/play/", 302),
    ("POST", "/sign-in/", 403),
    ("GET", "/admin/login/", 200),
]


async def test_a_good_request_id_is_kept_on_every_answer(api):
    for method, path, status in ANSWERS:
        for given_id in ("a", "AZaz09._:-", "0" * 128):
            answer = await api.http.request(method, path, headers={"X-Request-ID": given_id})
            assert answer.status_code == status, path
            assert answer.headers.get_list("X-Request-ID") == [given_id], path
            if path.startswith("/api/v1") and status >= 400:
                assert answer.json()["error"]["requestId"] == given_id


BAD_IDS = [
    b"",
    b"0" * 129,
    b"two words",
    b"a,b",
    b"quote'",
    b"*/ DROP TABLE x; /*",
    b"%0a",
    b"{json}",
    b"\x1b[31mred",
    b"a\nb",
    b"a\n",
    "é".encode(),
    b"0" * 15_000,
]


async def test_a_bad_request_id_is_replaced_by_a_new_one(api):
    made = []
    for given_id in BAD_IDS:
        for method, path, status in (
            ("GET", "/api/v1/scores/leaderboard", 200),
            ("POST", "/api/v1/nope", 404),
            ("GET", "/", 200),
        ):
            answer = await api.http.request(method, path, headers={b"X-Request-ID": given_id})
            assert answer.status_code == status
            made += answer.headers.get_list("X-Request-ID")
    assert len(set(made)) == len(made) == 3 * len(BAD_IDS)
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in made)


async def test_of_two_request_ids_neither_is_believed(api):
    answer = await api.http.get("/api/v1/nope", headers=[("X-Request-ID", "one"), ("X-Request-ID", "two")])
    [made] = answer.headers.get_list("X-Request-ID")
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    assert code(answer) == (404, "NOT_FOUND")


async def test_an_error_page_shows_the_request_id(api):
    page = await api.http.get("/nope", headers={"X-Request-ID": "quote-me"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<code>quote-me</code>" in page.text


async def test_the_request_id_is_on_the_record_of_the_action(api, alice):
    headers = {"X-Request-ID": "r" * 128}
    await api.call("POST", "/actions/complete", who=alice, json={"actionType": "level_up"}, headers=headers)
    assert (await ActionLog.objects.aget()).request_id == "r" * 128


@asynccontextmanager
async def held_up_by(sql: str, *params: Any) -> AsyncIterator[Callable[[], Awaitable[list[tuple[str, str]]]]]:
    """While somebody else's transaction has done `sql`: who waits for a lock in PostgreSQL, as (application_name, query)."""
    url = server_environment(Path())["DATABASE_URL"]
    waiting = "SELECT application_name, query FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with (
        await psycopg.AsyncConnection.connect(url) as other,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as watcher,
    ):
        await other.execute(sql, params)

        async def seen() -> list[tuple[str, str]]:
            return await (await watcher.execute(waiting)).fetchall()

        yield seen
        await other.rollback()


async def until_seen(seen: Callable[[], Awaitable[list[tuple[str, str]]]], *, name: str = "", query: str = "") -> None:
    """Until a statement of a session with that name, or one that begins like that, is held up."""
    async with asyncio.timeout(10):
        while not any((not name or name == is_name) and is_query.startswith(query) for is_name, is_query in await seen()):
            await asyncio.sleep(0.02)


async def test_a_completion_bears_its_request_id_in_postgresql(api, alice):
    await api.issued(alice, "task_finish")
    asked = {"json": {"actionType": "task_finish"}, "headers": {"X-Request-ID": "follow-me:1"}}
    async with held_up_by("SELECT 1 FROM actions_actiontally FOR UPDATE") as seen:
        asking = asyncio.create_task(api.call("POST", "/actions/complete", who=alice, **asked))
        await until_seen(seen, name="follow-me:1")
    assert code(await asking) == (403, "ACTION_NOT_ALLOWED")  # the cooldown


async def test_a_redemption_bears_its_request_id_in_postgresql(api, alice):
    issued = await api.issued(alice)
    headers = {"X-Score-Token": issued["scoreToken"], "X-Request-ID": "follow-me:2"}
    asked = {"json": {"actionId": issued["actionId"]}, "headers": headers}
    same_line = "INSERT INTO leaderboard_scoreentry (player_id, points, score_after, source) VALUES (%s, 1, 1, %s)"
    async with held_up_by(same_line, alice.pk, issued["actionId"]) as seen:
        asking = asyncio.create_task(api.call("POST", "/scores/update", who=alice, **asked))
        await until_seen(seen, name="follow-me:2")
    assert (await asking).status_code == 200


async def test_a_query_of_the_orm_bears_its_request_id_in_postgresql(api, alice):
    refresh = (await sync_to_async(sign_in.begin)(alice))["refresh"]
    bearing = {"X-Request-ID": "follow-me:3"}
    async with held_up_by("LOCK TABLE scoreboard_project_signin IN ACCESS EXCLUSIVE MODE") as seen:
        asking = asyncio.create_task(api.call("POST", "/auth/token/refresh", json={"refresh": refresh}, headers=bearing))
        await until_seen(seen, query="/* request_id=follow-me:3 */ SELECT")
    assert (await asking).status_code == 200
    async with held_up_by("LOCK TABLE django_session IN ACCESS EXCLUSIVE MODE") as seen:
        page = api.http.get("/play/", headers={**bearing, "Cookie": "sessionid=" + "s" * 32})
        asking = asyncio.create_task(page)
        await until_seen(seen, query="/* request_id=follow-me:3 */ SELECT")
    assert (await asking).status_code == 302


# --- GET /scores/leaderboard ------------------------------------------------------------------------------------------


def _seed(count: int) -> None:
    list(sample_players.seed(count))
    healing.rebuild()


async def test_the_board_has_as_many_rows_as_asked_for_and_10_by_default(api):
    await sync_to_async(_seed)(105)
    for query, rows in (("", 10), ("?limit=10", 10), ("?limit=1", 1), ("?limit=99", 99), ("?limit=100", 100)):
        data = (await api.call("GET", f"/scores/leaderboard{query}")).json()["data"]
        assert data.keys() == {"leaderboard", "lastUpdated"}
        assert [row["rank"] for row in data["leaderboard"]] == list(range(1, rows + 1))
        assert all(row.keys() == {"rank", "userId", "username", "score", "avatarUrl"} for row in data["leaderboard"])
        scores = [row["score"] for row in data["leaderboard"]]
        assert scores == sorted(scores, reverse=True)


BAD_QUERIES = """
    limit=0 limit=-1 limit=101 limit=1000000000 limit= limit limit=abc limit=10; limit=5.0 limit=1e1 limit=0x5 limit=1_0
    limit=%2B5 limit=%205 limit=5%0a limit=%00 limit=%ff limit=%EF%BC%91%EF%BC%90 limit=%C2%B2 limit=1&limit=2
    limit=5&limit=5 limit[]=5 LIMIT=5 offset=0 limit=5&offset=0 limit=5&format=api format=json limit=None limit=NaN
    limit=1%20OR%201=1
"""


async def test_any_other_query_is_refused(api):
    for query in [*BAD_QUERIES.split(), f"limit={'0' * 999}5", f"limit={'9' * 5_000}", "x=1&" * 2_000]:
        answer = await api.call("GET", f"/scores/leaderboard?{query}")
        assert code(answer) == (400, "INVALID_QUERY"), query


async def test_a_signed_in_player_learns_where_they_stand(api, alice, bob):
    async def standing(who: Any) -> Any:
        return (await api.call("GET", "/scores/leaderboard?limit=1", who=who)).json()["data"].get("currentUser", "absent")

    assert await standing(alice) == {"rank": None, "score": None}
    await api.earn(bob, "level_up")
    await api.earn(alice, "task_finish")
    assert await standing(alice) == {"rank": 2, "score": 50}
    assert await standing(None) == "absent"


BAD_AUTHORIZATION = ["Bearer", "Bearer ", "Bearer x", "bearer a.b.c", "Basic YTpi", "Bearer a b", "Bearer\ta", "\xe9", ""]


async def test_a_bad_token_is_refused_even_where_none_is_needed(api):
    for header in [*BAD_AUTHORIZATION, "Bearer " + "x" * 20_000]:
        for method, path in (("GET", "/scores/leaderboard"), ("POST", "/actions/complete"), ("POST", "/scores/update")):
            answer = await api.call(method, path, headers={b"Authorization": header.encode("latin-1")})
            assert code(answer) == (401, "UNAUTHORIZED"), header
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_the_board_says_when_it_last_changed(api, alice):
    before = datetime.now(UTC)
    await api.earn(alice)
    data = (await api.call("GET", "/scores/leaderboard?limit=3")).json()["data"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["lastUpdated"])
    changed = datetime.fromisoformat(data["lastUpdated"])
    assert before - timedelta(seconds=1) < changed < datetime.now(UTC) + timedelta(seconds=1)


async def test_a_hidden_or_suspended_player_is_not_shown_and_those_behind_move_up(api, alice, bob, mallory, moderator):
    for who, kind in ((alice, "level_up"), (mallory, "task_finish"), (bob, "daily_login")):
        await api.earn(who, kind)

    async def names() -> list[tuple[int, str]]:
        await asyncio.sleep(INTERVAL)
        rows = (await api.call("GET", "/scores/leaderboard")).json()["data"]["leaderboard"]
        return [(row["rank"], row["username"]) for row in rows]

    assert await names() == [(1, "alice"), (2, "mallory"), (3, "bob")]
    await sync_to_async(moderation.hide)(player_id=alice.pk, moderator=moderator, reason="asked for it")
    assert await names() == [(1, "mallory"), (2, "bob")]
    await sync_to_async(moderation.suspend)(player_id=mallory.pk, moderator=moderator, reason="cheated")
    assert await names() == [(1, "bob")]
    own = (await api.call("GET", "/scores/leaderboard", who=alice)).json()["data"]["currentUser"]
    assert own == {"rank": None, "score": 100}


async def test_the_board_is_at_most_an_interval_old(api, alice):
    assert (await api.call("GET", "/scores/leaderboard?limit=3")).json()["data"]["leaderboard"] == []
    await api.earn(alice)
    await asyncio.sleep(INTERVAL)
    assert len((await api.call("GET", "/scores/leaderboard?limit=3")).json()["data"]["leaderboard"]) == 1


async def test_within_an_interval_the_board_is_read_once_however_many_ask(api, settings, monkeypatch):
    settings.LIVE_INTERVAL_MS = 60_000
    read, top = [], reading.top
    monkeypatch.setattr(reading, "top", lambda *asked: read.append(asked) or top(*asked))
    for _ in range(2):
        answers = await asyncio.gather(*(api.call("GET", "/scores/leaderboard?limit=7") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
    assert read.count((7, None)) == 1


async def test_a_board_that_could_not_be_read_is_read_again_by_the_next(api, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(reading, "top", _raising(psycopg.OperationalError("gone")))
        answers = await asyncio.gather(*(api.call("GET", "/scores/leaderboard?limit=8") for _ in range(3)))
        assert {code(answer) for answer in answers} == {(503, "UNAVAILABLE")}
    assert (await api.call("GET", "/scores/leaderboard?limit=8")).status_code == 200


# --- Headers and hosts ------------------------------------------------------------------------------------------------


async def test_an_api_answer_cannot_be_cached_framed_sniffed_or_run(api):
    for answer in (await api.call("GET", "/scores/leaderboard"), await api.call("GET", "/nope"), await api.http.get("/healthz")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "Set-Cookie" not in answer.headers


def policy(answer: Any) -> dict[str, set[str]]:
    parts = (part.split() for part in answer.headers["Content-Security-Policy"].split(";"))
    return {name: set(sources) for name, *sources in parts}


async def test_a_page_runs_nothing_but_our_own(api):
    for path in ("/", "/sign-in/", "/nope", "/admin/login/"):
        answer = await api.http.get(path)
        rules = policy(answer)
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == {"'none'"}
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == rules["form-action"] == {"'self'"}
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_another_host_is_not_served(api):
    for host in ("evil.example", "localhost.evil.example", "evil@localhost", "localhost:abc", "", "x" * 5_000, "[::1"):
        answer = await api.call("GET", "/scores/leaderboard", headers={"Host": host})
        assert code(answer) == (400, "INVALID_HOST"), host
        page = await api.http.get("/", headers={"Host": host})
        assert page.status_code == 400
        assert page.headers["X-Request-ID"]


async def test_our_own_host_is_served(api):
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:80"):
        headers = {"Host": host, "X-Forwarded-Host": "evil.example"}
        assert (await api.call("GET", "/scores/leaderboard", headers=headers)).status_code == 200, host


PROBED = [
    "/.env",
    "/.git/config",
    "/manage.py",
    "/settings.py",
    "/static/../manage.py",
    "/static/%2e%2e/manage.py",
    "/static/..%2fmanage.py",
]
PROBED += [
    "/debug",
    "/server-status",
    "/wp-login.php",
    "/__debug__/",
    "/static/",
    "/admin/../manage.py",
    "//etc/passwd",
    "/.data/secrets.json",
]


async def test_nothing_is_found_where_scanners_look(api):
    for path in PROBED:
        answer = await send(application, Odd("GET", path, headers=[(b"host", b"localhost")]))
        assert answer.status in (302, 404), path  # 302: to the sign-in of the admin
        assert not answer.values("server") and not answer.values("x-powered-by")
        assert b"DJANGO_SETTINGS" not in answer.body


async def test_a_load_balancer_may_ask_the_probes_by_address(api):
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await api.http.get(path, headers={"Host": "10.1.2.3:8000"})).status_code == 200


# --- The schema and its page ------------------------------------------------------------------------------------------


async def test_the_schema_is_valid_openapi_and_has_every_call_of_the_contract(api):
    schema = (await api.call("GET", "/schema")).json()
    validate_schema(schema)
    assert schema["openapi"].startswith("3.")
    calls = {(method, path.removeprefix("/api/v1")) for path, calls in schema["paths"].items() for method in calls}
    assert calls == {*(("post", path) for path in POSTS), ("get", "/scores/leaderboard"), ("get", "/scores/around-me")}
    assert {path: schema["paths"][f"/api/v1{path}"]["post"].get("security") for path in POSTS} == {
        "/auth/token": None,
        "/auth/token/refresh": None,
        "/auth/token/revoke": None,
        "/actions/start": [{"bearer": []}],
        "/actions/complete": [{"bearer": []}, {"serverKey": []}],
        "/scores/update": [{"bearer": []}],
    }
    assert schema["paths"]["/api/v1/scores/leaderboard"]["get"]["security"] == [{"bearer": []}, {}]


def _checked(schema: dict[str, Any], method: str, path: str, answer: Any) -> None:
    """Whether an answer is what the schema says of it, unknown fields being an error."""

    def strict(node: Any) -> Any:
        if isinstance(node, list):
            return [strict(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {name: strict(value) for name, value in node.items()}
        if node.pop("nullable", False):
            node["type"] = [node["type"], "null"]
        if "properties" in node:
            node["additionalProperties"] = False
        return node

    responses = schema["paths"][f"/api/v1{path}"][method]["responses"]
    described = responses.get(str(answer.status_code), responses["default"])
    promised = described["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), strict({**promised, "components": schema["components"]}))


async def test_what_the_schema_promises_is_what_is_answered(api, alice, bob):
    schema = (await api.call("GET", "/schema")).json()

    async def check(method: str, path: str, status: int, query: str = "", **kwargs: Any) -> Any:
        answer = await api.call(method.upper(), path + query, **kwargs)
        assert answer.status_code == status
        _checked(schema, method, path, answer)
        return answer.json().get("data")

    pair = await check("post", "/auth/token", 200, json={"username": "alice", "password": PASSWORD})
    pair = await check("post", "/auth/token/refresh", 200, json={"refresh": pair["refresh"]})
    await check("post", "/auth/token/revoke", 200, json={"refresh": pair["refresh"]})
    await check("post", "/auth/token", 400, json={})
    issued = await check("post", "/actions/complete", 200, who=alice, json={"actionType": "level_up"})
    await check("post", "/actions/complete", 403, who=alice, json={"actionType": "nope"})
    redeeming = {"json": {"actionId": issued["actionId"]}, "headers": {"X-Score-Token": issued["scoreToken"]}}
    await check("post", "/scores/update", 200, who=alice, **redeeming)
    await check("post", "/scores/update", 409, who=alice, **redeeming)
    await check("get", "/scores/leaderboard", 200)
    await check("get", "/scores/leaderboard", 200, who=alice)
    for query in ("?period=all", "?period=day", "?period=month&at=2026-01-01"):
        await check("get", "/scores/leaderboard", 200, who=alice, query=query)
        await check("get", "/scores/around-me", 200, who=alice, query=query)
    await check("get", "/scores/around-me", 401)
    await check("get", "/scores/leaderboard", 200, who=bob)


class _Links(HTMLParser):
    """Every address that a page loads or leads to, and what it would run or paint inline."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.inline = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset", "poster")]
        self.inline += tag == "script" and "src" not in given
        self.inline += sum(name.startswith("on") for name in given)


async def test_the_documentation_page_loads_nothing_from_another_host(api):
    page = await api.call("GET", "/docs")
    links = _Links(page.text)
    assert links.found
    assert not links.inline
    assert "@import" not in page.text
    assert "url(" not in page.text
    for link in links.found:
        assert re.match(r"/[^/\\]", link), link
        if link.startswith("/static/"):
            assert await sync_to_async(staticfiles_storage.exists)(link.removeprefix("/static/")), link
    for name, sources in policy(page).items():
        assert sources <= {"'none'", "'self'", "data:", "'unsafe-inline'"}, name
    assert policy(page)["script-src"] == policy(page)["connect-src"] == {"'self'"}


async def test_the_documentation_page_shows_our_schema_and_asks_nobody_to_judge_it(api):
    page = await api.call("GET", "/docs")
    [script] = [link for link in _Links(page.text).found if link.startswith("/api/v1/docs?")]
    text = (await api.http.get(script)).text
    [told] = re.findall(r"swaggerSettings = (\{.*?\n\});?", text, re.DOTALL)
    assert json.loads(told)["validatorUrl"] is None  # unset, Swagger UI sends the schema's address to its makers
    assert '"/api/v1/schema"' in text
    assert not re.findall(r"[\"'](?:https?:)?//[^\"']*", text)


# --- Faults of ours, and outages --------------------------------------------------------------------------------------


def _raising(exc: Exception) -> Callable[..., Any]:
    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise exc

    return broken


def _chained(outer: type[Exception], inner: Exception) -> Exception:
    try:
        raise outer("wrapped") from inner
    except outer as exc:
        return exc


async def test_a_fault_of_ours_is_said_without_a_trace(api, monkeypatch, caplog):
    monkeypatch.setattr("leaderboard.views._rows", _raising(RuntimeError("the secret cause")))
    answer = await api.call("GET", "/scores/leaderboard", headers={"X-Request-ID": "find-me"})
    assert code(answer) == (500, "INTERNAL_ERROR")
    assert answer.json()["error"].keys() == {"code", "message", "requestId"}
    for word in ("secret", "Traceback", "RuntimeError", "views.py"):
        assert word not in answer.text
    [line] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (line.msg["event"], line.msg["exc_info"], line.msg["request_id"]) == ("unhandled_error", True, "find-me")


async def test_a_fault_of_ours_on_a_page_is_said_without_a_trace(api, monkeypatch):
    monkeypatch.setattr(reading, "top", _raising(RuntimeError("the secret cause")))
    page = await api.http.get("/", headers={"X-Request-ID": "find-me"})
    assert page.status_code == 500
    assert page.headers["X-Request-ID"] == "find-me"
    for word in ("secret", "Traceback", "RuntimeError", "views.py", "DEBUG"):
        assert word not in page.text


OUTAGES = {
    "psycopg": psycopg.OperationalError("the server closed the connection unexpectedly"),
    "a statement that took too long": psycopg.errors.QueryCanceled("canceling statement due to statement timeout"),
    "a lock that took too long": psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"),
    "an empty pool": psycopg_pool.PoolTimeout("couldn't get a connection after 2.00 sec"),
    "Django": _chained(django.db.OperationalError, psycopg.OperationalError("gone")),
    "a closed connection": _chained(django.db.InterfaceError, psycopg.InterfaceError("the connection is closed")),
}


async def test_while_postgresql_is_away_the_answer_is_to_try_again(api, monkeypatch):
    for name, outage in OUTAGES.items():
        monkeypatch.setattr(sign_in, "refresh", _raising(outage))
        answer = await api.call("POST", "/auth/token/refresh", json={"refresh": "x"})
        assert code(answer) == (503, "UNAVAILABLE"), name
        assert answer.headers["Retry-After"] == "1"


async def test_an_error_in_a_query_is_a_fault_of_ours_and_no_outage(api, monkeypatch):
    monkeypatch.setattr(sign_in, "refresh", _raising(_chained(django.db.IntegrityError, psycopg.errors.UniqueViolation("twice"))))
    assert code(await api.call("POST", "/auth/token/refresh", json={"refresh": "x"})) == (500, "INTERNAL_ERROR")


async def test_a_redemption_without_postgresql_spends_nothing(api, alice, monkeypatch):
    issued = await api.issued(alice)
    gone = _raising(_chained(django.db.OperationalError, psycopg.OperationalError("connection refused")))
    with monkeypatch.context() as away:
        away.setattr(db, "connection", SimpleNamespace(ensure_connection=gone, close=lambda: None))
        for _ in range(3):
            answer = await api.redeem(alice, issued)
            assert code(answer) == (503, "UNAVAILABLE")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert code(await api.complete(alice)) == (503, "UNAVAILABLE")
    assert not await ScoreEntry.objects.aexists()
    assert await ActionLog.objects.acount() == 1
    assert (await api.redeem(alice, issued)).json()["data"]["newScore"] == 100


# --- A real server ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[Server]:
    process = serving(folder)
    yield await asyncio.to_thread(process.__enter__)
    await asyncio.to_thread(process.__exit__, None, None, None)


async def spoken(port: int, said: bytes) -> bytes:
    """What a server answers to these bytes before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            writer.write(said)
            await writer.drain()
            return await reader.read()
    finally:
        writer.close()


async def test_a_server_process_ends_a_connection_that_sends_too_much(world, tmp_path):
    head = b"POST /api/v1/auth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with _server(tmp_path) as server:
        answer = await spoken(server.port, head + b"Content-Length: 1000000000\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"x-request-id: " in answer.lower()
        chunks = b"1000\r\n" + b" " * 4096 + b"\r\n"
        answer = await spoken(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 5)
        assert answer.startswith(b"HTTP/1.1 413 ")
        both = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        for nonsense in (b"GARBAGE\r\n\r\n", head + both, head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"):
            answer = await spoken(server.port, nonsense)
            assert answer.startswith(b"HTTP/1.1 4"), answer
            assert b"html" not in answer.lower()
            assert b"server:" not in answer.lower()

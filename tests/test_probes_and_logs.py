"""What operators see: probes that name what is missing, figures that move, log lines with a request id and no secrets."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from redis.backoff import NoBackoff
from redis.retry import Retry

from leaderboard import healing
from scoreboard_project import db, probes, request_id
from tests.conftest import ROOT, code

# --- Probes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_redis(monkeypatch: Any) -> None:
    monkeypatch.setattr(probes, "client", lambda: redis.Redis(unix_socket_path="/nonexistent", retry=Retry(NoBackoff(), 1)))


@pytest.fixture
def no_postgresql(monkeypatch: Any) -> None:
    monkeypatch.setattr(probes, "connection", SimpleNamespace(cursor=lambda: psycopg.connect(host="/nonexistent").cursor()))


async def readiness(api: Any) -> tuple[int, list[str]]:
    """(status, what fails)."""
    answer = await api.http.get("/readyz")
    if answer.status_code == 200:
        assert answer.json() == {"success": True, "data": {"status": "ready"}}
        return 200, []
    assert code(answer) == (503, "UNAVAILABLE")
    assert answer.headers["Retry-After"] == "1"
    failing = answer.json()["error"]["details"]["failing"]
    assert all(name in answer.json()["error"]["message"] for name in failing)
    return 503, failing


async def test_a_process_with_postgresql_and_redis_is_up_and_ready(api):
    healthy = await api.http.get("/healthz")
    assert (healthy.status_code, healthy.json()) == (200, {"success": True, "data": {"status": "ok"}})
    assert await readiness(api) == (200, [])


async def test_without_redis_it_is_up_but_not_ready(api, no_redis):
    assert await readiness(api) == (503, ["redis"])
    assert (await api.http.get("/healthz")).status_code == 200


async def test_without_postgresql_it_is_up_but_not_ready(api, no_postgresql):
    assert await readiness(api) == (503, ["postgresql"])
    assert (await api.http.get("/healthz")).status_code == 200


async def test_all_that_is_missing_is_named(api, no_postgresql, no_redis, monkeypatch):
    monkeypatch.setattr(probes, "_draining", True)
    assert await readiness(api) == (503, ["draining", "postgresql", "redis"])
    assert (await api.http.get("/healthz")).status_code == 200


async def test_a_frozen_engine_is_named_soon(api, monkeypatch):
    monkeypatch.setattr(db, "PATIENCE", 0.1)
    thaw = threading.Event()
    monkeypatch.setattr(probes, "connection", SimpleNamespace(cursor=thaw.wait))
    try:
        started = time.monotonic()
        assert await readiness(api) == (503, ["postgresql"])
        assert time.monotonic() - started < 1
    finally:
        thaw.set()


async def test_a_process_that_is_stopping_says_so(api, monkeypatch):
    monkeypatch.setattr(probes, "_draining", False)
    probes.start_draining()
    assert await readiness(api) == (503, ["draining"])


async def test_what_is_missing_is_named_without_addresses_or_causes(api, no_postgresql, no_redis):
    text = (await api.http.get("/readyz")).text
    for word in ("nonexistent", "sock", "Error", "Traceback", "connection"):
        assert word not in text


# --- Figures ----------------------------------------------------------------------------------------------------------


async def figures(api: Any) -> Callable[..., float]:
    """`value(name, label=…)` of a scrape; 0 for a series that is not there."""
    scrape = await api.http.get("/metrics")
    assert scrape.status_code == 200
    assert scrape.headers["Content-Type"].startswith("text/plain; version=")
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(scrape.text)
        for sample in family.samples
    }
    return lambda name, **labels: found.get((f"scoreboard_{name}", frozenset(labels.items())), 0)


async def test_the_figures_count_what_happened(api, alice, no_limits):
    before = await figures(api)
    issued = await api.issued(alice, "task_finish")
    await api.redeem(alice, issued)
    await api.redeem(alice, issued)
    await api.complete(alice, "no_such_thing")
    await api.call("GET", "/scores/leaderboard")
    await api.call("GET", "/nope")
    after = await figures(api)

    def moved(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert moved("requests_total", view="CompleteView", status="200") == 1
    assert moved("requests_total", view="CompleteView", status="403") == 1
    assert moved("requests_total", view="UpdateView", status="200") == 1
    assert moved("requests_total", view="UpdateView", status="409") == 1
    assert moved("requests_total", view="LeaderboardView", status="200") == 1
    assert moved("request_seconds_count", view="UpdateView") == 2
    assert 0 < moved("request_seconds_sum", view="UpdateView") < 5
    assert moved("completions_total", action_type="task_finish") == 1
    assert moved("redemptions_total", outcome="PAID") == 1
    assert moved("redemptions_total", outcome="TOKEN_ALREADY_USED") == 1
    assert moved("points_total") == 50
    assert moved("refusals_total", code="ACTION_NOT_ALLOWED") == 1
    assert moved("refusals_total", code="TOKEN_ALREADY_USED") == 1
    assert moved("refusals_total", code="NOT_FOUND") == 1


async def test_nothing_that_a_client_sends_makes_a_new_series(api, alice, mallory):
    await api.issued(alice)
    await api.complete(alice, "invented")
    before = set(re.findall(r"^scoreboard_\S+", (await api.http.get("/metrics")).text, re.M))
    for i in range(5):
        await api.complete(alice, f"invented-{i}")
        await api.complete(mallory, f"invented-{i}")
        await api.call("GET", f"/invented-{i}")
    text = (await api.http.get("/metrics")).text
    assert "invented" not in text
    assert str(alice.pk) not in text
    assert len(set(re.findall(r"^scoreboard_\S+", text, re.M)) - before) == 0


# --- Log lines --------------------------------------------------------------------------------------------------------

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_c"

LOGGING = f"""
import logging, structlog, sys
from scoreboard_project import logs
logs.configure(level="DEBUG", form=sys.argv[1])
token = {TOKEN!r}
log, plain = structlog.get_logger("ours"), logging.getLogger("theirs")
structlog.contextvars.bind_contextvars(request_id="follow-me")
log.info("a token in the event " + token)
log.info("by name", token=token)
log.info("deeper", headers={{"a": [("Authorization", "Bearer " + token)]}}, where=("x", token))
log.info("bytes", headers=[(b"authorization", b"Bearer " + token.encode())])
log.info("in a key", found={{token: 1}})
log.info("GET /live?x=1&token=secret-in-query&y=2")
log.info("quoted", line='{{"url": "/live?token=secret-in-query", "z": 3}}')
plain.warning("%s came with %r", "somebody", token)
plain.info("unusual", extra={{"token": token}})
try:
    raise ValueError("bad token " + token)
except ValueError:
    log.exception("with a trace", cause="token=secret-in-query")
    plain.exception("with a trace")
log.debug("the last")
"""


def written(form: str) -> str:
    """What a process that logs all that has written."""
    done = subprocess.run([sys.executable, "-c", LOGGING, form], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    assert not done.stdout
    return done.stderr


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_token_is_redacted_wherever_in_a_line_it_stands(form):
    text = written(form)
    for part in TOKEN.split("."):
        assert part not in text
    assert "secret-in-query" not in text
    assert text.count("[redacted]") >= 12
    assert "the last" in text
    assert "&y=2" in text  # only the token goes


def test_each_line_is_json_and_bears_the_request_id():
    lines = [json.loads(line) for line in written("json").splitlines()]
    assert len(lines) == 12
    for line in lines:
        assert line["request_id"] == "follow-me"
        assert line["logger"] in ("ours", "theirs")
        assert line["level"] in ("info", "warning", "error", "debug")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
    assert sum("Traceback" in line.get("exception", "") for line in lines) == 2


def test_a_line_stays_one_line_whatever_is_logged():
    forging = "import sys, structlog\nfrom scoreboard_project import logs\nlogs.configure(level='INFO', form='json')\n"
    forging += r"structlog.get_logger('x').info('GET /\n{\"event\": \"forged\"}\r\n', path='\x1b[31m\x00\u2028')"
    done = subprocess.run([sys.executable, "-c", forging], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    [line] = done.stderr.strip().split("\n")
    assert "\x1b" not in line
    assert json.loads(line)["event"].startswith("GET /\n")


async def test_what_a_process_does_by_itself_bears_no_request_s_id(api, monkeypatch):
    seen = asyncio.Event()
    ids, loop = [], asyncio.get_running_loop()

    def heal() -> None:
        ids.append(request_id.current.get())
        loop.call_soon_threadsafe(seen.set)

    monkeypatch.setattr(healing, "heal", heal)
    await api.http.get("/healthz", headers={"X-Request-ID": "the-first-one"})
    async with asyncio.timeout(10):
        await seen.wait()
    assert set(ids) == {""}


async def test_what_a_request_does_in_a_thread_bears_its_id(api, monkeypatch):
    ids = []
    monkeypatch.setattr(probes, "client", lambda: ids.append(request_id.current.get()))
    await api.http.get("/readyz", headers={"X-Request-ID": "follow-me"})
    assert ids == ["follow-me"]

"""/healthz: the process is up. /readyz: PostgreSQL and Redis answer, and it is not stopping. /metrics: Prometheus text."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import prometheus_client
from django.db import connection
from django.http import HttpResponse
from prometheus_client import multiprocess

from scoreboard_project import api, ended_access
from scoreboard_project.db import off_loop
from scoreboard_project.redis_client import client

_draining = False


def start_draining() -> None:
    """From now on /readyz says no, so that the gateway sends nothing new."""
    global _draining
    _draining = True


def _ask_postgresql() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    ended_access.look_first()


def _ask_redis() -> None:
    client().ping()


async def _answers(ask: Callable[[], None]) -> bool:
    try:
        await off_loop(ask)
    except Exception:  # away, refusing, or frozen: then off_loop has lost its patience
        return False
    return True


async def healthz(_request: Any) -> HttpResponse:
    return api.success({"status": "ok"})


async def readyz(_request: Any) -> HttpResponse:
    asked = {"postgresql": _ask_postgresql, "redis": _ask_redis}
    answered = await asyncio.gather(*(_answers(ask) for ask in asked.values()))
    failing = ["draining"] if _draining else []
    failing += [name for name, well in zip(asked, answered, strict=True) if not well]
    if failing:
        return api.failure(503, "UNAVAILABLE", f"Not ready: {', '.join(failing)}.", details={"failing": failing}, retry_after=1)
    return api.success({"status": "ready"})


async def metrics(_request: Any) -> HttpResponse:
    return HttpResponse(await off_loop(_metrics), content_type=prometheus_client.CONTENT_TYPE_LATEST)


def _metrics() -> bytes:
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return prometheus_client.generate_latest()
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return prometheus_client.generate_latest(registry)

"""/healthz: the process is up. /readyz: PostgreSQL and Redis answer, and it is not stopping. /metrics: Prometheus text."""

import os
from typing import Any

import prometheus_client
from django.db import connection
from django.http import HttpResponse
from prometheus_client import multiprocess

from scoreboard_project import api
from scoreboard_project.db import off_loop
from scoreboard_project.redis_client import client

_draining = False


def start_draining() -> None:
    """From now on /readyz says no, so that the gateway sends nothing new."""
    global _draining
    _draining = True


def _failing() -> list[str]:
    failing = ["draining"] if _draining else []
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:
        failing.append("postgresql")
    try:
        client().ping()
    except Exception:
        failing.append("redis")
    return failing


async def healthz(_request: Any) -> HttpResponse:
    return api.success({"status": "ok"})


async def readyz(_request: Any) -> HttpResponse:
    failing = await off_loop(_failing)
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

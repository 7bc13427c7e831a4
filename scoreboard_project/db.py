"""PostgreSQL from where Django's ORM does not reach: one prepared statement a batch, and work off the event loop."""

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
import psycopg_pool
from django.db import DatabaseError, close_old_connections, connection
from psycopg.rows import dict_row

from scoreboard_project.errors import Unavailable

T = TypeVar("T")

# What "PostgreSQL cannot be reached, or not in time" looks like; anything else is a fault of ours.
Outage = (psycopg.OperationalError, psycopg_pool.PoolTimeout, psycopg.InterfaceError)

PATIENCE = 2.5  # seconds
_threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="database")


def run_statement(sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run one statement as one transaction, prepared on the server, on this thread's kept connection.

    Returns: its rows. Raises: `Unavailable` where PostgreSQL is away; then the outcome of a write is unknown, and asking
    again with the same keys must give the true answer.
    """
    for last_try in (False, True):
        try:
            connection.ensure_connection()
            # Not Django's cursor: that one binds on the client, and PostgreSQL would plan the statement anew each time.
            with psycopg.Cursor(connection.connection, row_factory=dict_row) as cursor:
                return cursor.execute(sql, params, prepare=True, binary=True).fetchall()
        except (*Outage, DatabaseError) as exc:
            connection.close()
            if not is_outage(exc):
                raise
            if last_try:
                raise Unavailable from exc
    raise AssertionError("unreachable")


def is_outage(exc: BaseException) -> bool:
    """Whether an error of Django's or psycopg's means that PostgreSQL is away, slow or refusing."""
    return isinstance(exc, Outage) or isinstance(exc.__cause__, Outage)


def read_in_bulk() -> None:
    """For the rest of this transaction: whole tables may be read, without a deadline and with memory for it.

    With PostgreSQL's 4 MB, or a cursor planned for its first rows, a million players were read through their indexes, one by one.
    """
    settings = {"statement_timeout": "0", "work_mem": "128MB", "cursor_tuple_fraction": "1"}
    with connection.cursor() as cursor:
        for name, value in settings.items():
            cursor.execute("SELECT set_config(%s, %s, true)", [name, value])


async def off_loop(work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`in_thread` for a caller who waits.

    Raises: what the work raises; `Unavailable` where it takes longer than `PATIENCE` (it goes on, unseen).
    """
    try:
        return await asyncio.wait_for(in_thread(work, *args, **kwargs), PATIENCE)
    except TimeoutError:
        raise Unavailable from None


async def in_thread(work: Callable[..., T], *args: Any, threads: ThreadPoolExecutor | None = None, **kwargs: Any) -> T:
    """Run blocking work in one of a few threads; its database connection goes back to the pool afterwards.

    The request id goes with it, into log lines and queries. `threads`: others than those that requests share.
    """

    def run() -> T:
        try:
            return work(*args, **kwargs)
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(threads or _threads, contextvars.copy_context().run, run)

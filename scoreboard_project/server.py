"""One web process: `python -m scoreboard_project.server --fd N`, started by `manage.py serve`.

It serves the listening socket that it inherits as N, writes one byte to `--ready-fd` once it accepts, and stops
gracefully on SIGTERM, SIGINT, or when `--parent-fd` (a pipe that only the parent can write to) ends with its parent.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from django.core.exceptions import ImproperlyConfigured

from scoreboard_project.http_protocol import BoundedHttp
from scoreboard_project.websocket_protocol import BoundedWebSocket

CLIENT_MESSAGE_BYTES = 65_536  # more than the contract's 4 KiB, so that the consumer can answer with its own error
SILENT_SECONDS = 0.2
OTHER_DESCRIPTORS = 2_500  # calls under way, PostgreSQL, Redis, files
# No request may wait without bound for PostgreSQL: each would hold one of a few threads and connections. Milliseconds.
# libpq's own variable, so that every connection has it from its first moment on, however it is made. Not in settings.py,
# because management commands (migrations, rebuilding the board) may take long. PGOPTIONS in the environment, even empty,
# goes before it, and so does `options=` in DATABASE_URL: a pgbouncer in front refuses it, say.
PATIENCE_WITH_POSTGRES = "-c statement_timeout=3000 -c lock_timeout=1000 -c idle_in_transaction_session_timeout=5000"


class WebServer(uvicorn.Server):
    """uvicorn, telling its parent when it is ready and /readyz when it drains."""

    def __init__(self, config: uvicorn.Config, *, ready_fd: int | None, on_stop: Callable[[], object]) -> None:
        super().__init__(config)
        self.ready_fd, self.on_stop = ready_fd, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.ready_fd is not None:
            os.write(self.ready_fd, b"1")
            os.close(self.ready_fd)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # Who was accepted a moment ago gets the time to send the request: uvicorn closes silent connections at once.
        await asyncio.sleep(SILENT_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)  # it only sets flags, and must do so whatever the next line does
        self.on_stop()


def configuration() -> uvicorn.Config:
    """How uvicorn runs the application; loads nothing yet."""
    return uvicorn.Config(
        app="scoreboard_project.asgi:application",
        loop="uvloop",
        http=BoundedHttp,
        ws=BoundedWebSocket,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=CLIENT_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        backlog=2048,
    )


def allow_descriptors() -> None:
    """As many open files as sockets are allowed, where the system lets us: its usual 1024 would refuse viewers long before."""
    from django.conf import settings

    wanted = (settings.SOCKETS_PER_PROCESS or 65_536) + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """uvicorn's INFO lines carry each socket's whole query string, tokens included, whatever the log level; and a frame that is
    no UTF-8, which anybody can send, is an error with its trace to it."""
    return record.levelno >= logging.WARNING and not record.getMessage().startswith("Invalid UTF-8")


def stop_with_parent(parent_fd: int) -> None:
    os.read(parent_fd, 1)  # nobody writes: it returns when the last writer, the parent, is gone
    os.kill(os.getpid(), signal.SIGTERM)


def leave(*_: object) -> None:
    """A signal handler for after the graceful stop. Raises SystemExit."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a second one would only interrupt the interpreter's own clean-up
    sys.exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--ready-fd", type=int, help="gets one byte when requests are accepted")
    parser.add_argument("--parent-fd", type=int, help="a pipe whose end means that the parent is gone")
    serve(parser.parse_args())


def serve(options: argparse.Namespace) -> None:
    """Until a signal or the parent's end. Raises SystemExit, with a sentence where a setting is missing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # until it serves there is nothing to finish
    if options.parent_fd is not None:
        threading.Thread(target=stop_with_parent, args=(options.parent_fd,), daemon=True).start()

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scoreboard_project.settings")
    os.environ.setdefault("PGOPTIONS", PATIENCE_WITH_POSTGRES)
    config = configuration()
    try:
        config.load()
    except ImproperlyConfigured as problem:
        sys.exit(str(problem))
    logging.getLogger("uvicorn.error").addFilter(is_worth_a_line)
    from scoreboard_project import probes  # only now: it may need Django's settings

    allow_descriptors()
    # What is loaded by now stays: no collection need look at it again. And requests leave few cycles: with the usual 700 objects
    # between looks, collecting took a tenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)

    server = WebServer(config, ready_fd=options.ready_fd, on_stop=probes.start_draining)
    # After its graceful stop uvicorn raises the signal again, for whoever handled it before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    server.run(sockets=[socket.socket(fileno=options.fd)])


if __name__ == "__main__":
    main()

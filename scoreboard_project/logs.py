"""Structured logs: one line an event, the request id on every line, JSON where nobody watches a terminal."""

import logging
import logging.config
import re
from typing import Any

import structlog

# A token in a line is a leak whatever put it there: JWTs (three base64url parts) and `token=` in a query string.
# It ends before a backslash or an escape, which are the renderers'.
_SECRETS = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=token=)[^&\s\"'\\\x1b]+")


def redact(_logger: Any, _method: str, line: str) -> str:
    """The last processor: in the finished line, so that nothing is nested too deeply to be found."""
    return _SECRETS.sub("[redacted]", line)


def configure(*, level: str, form: str) -> None:
    """Send structlog and the standard library's loggers down one pipe. `form`: `json` or `console`."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if form == "json":
        last: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(), redact]
    else:
        last = [structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer(), redact]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                # uvicorn writes each socket's whole query string at INFO, `?token=` included.
                "uvicorn.error": {"level": "WARNING"},
                "django.request": {"level": "ERROR"},
                # Anybody can send any Host, and each would be an error with its trace.
                "django.security.DisallowedHost": {"level": "CRITICAL"},
                "django.server": {"level": "WARNING"},
                "daphne": {"level": "WARNING"},
                "asyncio": {"level": "WARNING"},
            },
        }
    )

"""Engines for the test session; loaded with `-p tests.engines_plugin`, before pytest-django reads the settings.

Where DATABASE_URL or REDIS_URL is not set, that engine is the embedded one, in a temporary DATA_DIR that is deleted at
the end. Where DATABASE_URL is set, the secrets that are missing are made up for the session. Where REDIS_URL is set, the
tests use its database 15 and EMPTY it, whatever number the URL names. Where the tests are shared out to several processes
(pytest-xdist), each has all of this for itself; the second uses Redis's database 14, and so on.
"""

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from secrets import token_urlsafe
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from scoreboard_project import engines, env

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
TEST_DATABASE_NUMBER = str(15 - int(WORKER.removeprefix("gw")))
_at_the_end = contextlib.ExitStack()


def in_test_database(redis_url: str) -> str:
    """The URL with its database number, in the path or as `?db=`, replaced by TEST_DATABASE_NUMBER."""
    parts = urlsplit(redis_url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "db"]
    if parts.scheme == "unix":
        # Not urlunsplit: it would drop the empty host, and redis-py asks for both slashes.
        return f"unix://{parts.netloc}{parts.path}?{urlencode([*query, ('db', TEST_DATABASE_NUMBER)])}"
    return urlunsplit(parts._replace(path=f"/{TEST_DATABASE_NUMBER}", query=urlencode(query)))


def choose_engines() -> tuple[Path, bool, bool]:
    """Sets the environment; returns DATA_DIR, and whether PostgreSQL and Valkey are the embedded ones."""
    # Directly below /tmp: the names of Unix sockets are short, and macOS's own temporary folder is not.
    folder = Path(tempfile.mkdtemp(prefix="scoreboard-tests-", dir="/tmp"))
    _at_the_end.callback(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(_at_the_end.close)
    os.environ["DATA_DIR"] = str(folder)
    postgres, valkey = not env.text("DATABASE_URL", ""), not env.text("REDIS_URL", "")
    if not valkey:
        os.environ["REDIS_URL"] = in_test_database(env.text("REDIS_URL"))
        os.environ.pop("REDIS_URL_FILE", None)
    if not postgres:
        for name in ("SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS"):
            if not env.text(name, ""):
                os.environ[name] = ("k1:" if name == "SCORE_TOKEN_KEYS" else "") + token_urlsafe(48)
    return folder, postgres, valkey


_data_dir, _postgres, _valkey = choose_engines()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    shares_out = bool(getattr(session.config.option, "dist", "no") != "no") and not hasattr(session.config, "workerinput")
    if (_postgres or _valkey) and not shares_out:
        try:
            _at_the_end.enter_context(engines.running(_data_dir, postgres=_postgres, valkey=_valkey, exclusive=True))
        except engines.EngineRefusal as refusal:
            raise pytest.UsageError(str(refusal)) from refusal


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    _at_the_end.close()

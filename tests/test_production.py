"""Production does not start with what is unsafe, and `check --deploy` names what is unwise."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from scoreboard_project import env

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS")

UNSAFE = {
    "31 bytes": (secrets.token_hex(16)[:31], "is shorter than 32 bytes"),
    "nothing": ("", "is shorter than 32 bytes"),
    "startproject's": ("django-insecure-" + secrets.token_hex(32), "is a placeholder"),
    "an example's": ("CHANGE_ME_CHANGE_ME_CHANGE_ME_0123456789", "is a placeholder"),
    "another example's": ("your-secret-key-goes-here-0123456789-abc", "is a placeholder"),
    "one letter": ("x" * 64, "has fewer than 8 different characters"),
    "one word": ("password" * 8, "has fewer than 8 different characters"),
}


def refusal(**changed) -> str:
    """What a start with this is refused with; empty where it is not."""
    good = {name: secrets.token_urlsafe(48) for name in NAMES}
    debug, hosts = changed.pop("debug", False), changed.pop("hosts", ["play.example.com", ".example.org"])
    try:
        env.refuse_unsafe(good | changed, debug=debug, hosts=hosts)
    except ImproperlyConfigured as problem:
        return str(problem)
    return ""


def test_random_secrets_of_every_common_form_are_fine():
    assert not refusal()
    assert not refusal(SECRET_KEY=secrets.token_hex(16), JWT_SIGNING_KEY=secrets.token_hex(32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", UNSAFE)
def test_a_secret_that_is_none_is_refused_by_name_and_never_shown(name, kind):
    value, fault = UNSAFE[kind]
    said = refusal(**{name: value})
    assert f"{name} {fault}" in said
    assert "token_urlsafe(48)" in said, "says how to make a good one"
    assert not value or value not in said


def test_one_secret_for_two_purposes_is_refused():
    same = secrets.token_urlsafe(48)
    assert "the same" in refusal(SECRET_KEY=same, JWT_SIGNING_KEY=same)


def test_debug_is_refused():
    assert "DEBUG is on" in refusal(debug=True)


@pytest.mark.parametrize("host", ["*", "*.example.com", "play.*"])
def test_a_wildcard_host_is_refused(host):
    assert "ALLOWED_HOSTS has a wildcard" in refusal(hosts=["play.example.com", host])


def test_all_that_is_unsafe_is_said_at_once():
    said = refusal(SECRET_KEY="short", JWT_SIGNING_KEY="x" * 40, debug=True, hosts=["*"])
    assert said.count("\n") == 5


def test_a_key_ring_with_one_kid_twice_is_refused():
    with pytest.raises(ImproperlyConfigured, match="kid appears twice"):
        env.key_ring(f"k1:{'a' * 32},k1:{'b' * 32}")


# --- From the environment and from files ------------------------------------------------------------------------------


def test_a_value_from_a_file_wins_and_an_empty_file_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("A_NAME", "from the environment")
    monkeypatch.setenv("A_NAME_FILE", str(tmp_path / "value"))
    (tmp_path / "value").write_text("  from the file\n")
    assert env.text("A_NAME") == "from the file"
    (tmp_path / "value").write_text("\n")
    assert env.text("A_NAME", "the default") == "the default"
    with pytest.raises(ImproperlyConfigured, match="A_NAME is not set"):
        env.text("A_NAME")


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8 text")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, content, reason):
    monkeypatch.setenv("A_NAME_FILE", str(tmp_path / "value"))
    if content is not None:
        (tmp_path / "value").write_bytes(content)
    with pytest.raises(ImproperlyConfigured, match=f"A_NAME_FILE.*{reason}"):
        env.text("A_NAME")


def production(tmp_path: Path, **changed: str) -> dict[str, str]:
    given = {name: secrets.token_urlsafe(48) for name in NAMES} | {"SCORE_TOKEN_KEYS": f"k1:{secrets.token_urlsafe(48)}"}
    given |= {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    given |= {"ALLOWED_HOSTS": "play.example.com", "DATA_DIR": str(tmp_path / "unused"), "PATH": os.environ["PATH"]}
    return given | changed


def started(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-W", "ignore", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


SERVE = ("manage.py", "serve", "--no-demo")
PROCESS = ("-m", "scoreboard_project.server", "--fd", "0")


@pytest.mark.parametrize("how", [SERVE, PROCESS])
def test_neither_serve_nor_a_web_process_starts_with_them(tmp_path, how):
    weak = tmp_path / "weak"
    weak.write_text("django-insecure-0123456789-0123456789-0123456789\n")
    environment = production(tmp_path, DEBUG="on", ALLOWED_HOSTS="*", SECRET_KEY_FILE=str(weak))
    status, said = started(environment, *how)
    assert status == 1, said
    assert "SECRET_KEY is a placeholder" in said and "DEBUG is on" in said and "wildcard" in said
    assert "Traceback" not in said and "django-insecure" not in said
    assert not (tmp_path / "unused").exists()


def test_the_embedded_default_may_have_debug_on(short_path):
    environment = {"DEBUG": "on", "DATA_DIR": str(short_path / "data"), "PATH": os.environ["PATH"], "ALLOWED_HOSTS": "*"}
    status, said = started(environment, "manage.py", "check")
    assert status == 0, said


# --- check --deploy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def wise(settings):
    """Settings of a sane deployment."""
    settings.HTTPS = settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    settings.SECURE_HSTS_SECONDS, settings.SECURE_HSTS_INCLUDE_SUBDOMAINS, settings.SECURE_HSTS_PRELOAD = 31_536_000, True, True
    settings.TRUSTED_PROXY_HOPS, settings.ALLOWED_HOSTS = 1, ["play.example.com"]
    settings.SECRET_KEY = secrets.token_urlsafe(48)
    return settings


def test_a_sane_deployment_has_nothing_to_be_warned_of(wise):
    call_command("check", deploy=True, fail_level="WARNING")


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        *(
            (name, 0, "scoreboard.W001")
            for name in ("ACTION_RATE_LIMIT", "SCORE_RATE_LIMIT", "SIGN_IN_FAILURE_LIMIT", "SIGN_IN_ADDRESS_LIMIT")
        ),
        *((f"SOCKETS_PER_{what}", 0, "scoreboard.W001") for what in ("PLAYER", "ADDRESS", "PROCESS")),
        ("TRUSTED_PROXY_HOPS", 0, "scoreboard.W002"),
        ("ALLOWED_HOSTS", ["localhost"], "scoreboard.W003"),
        ("CSRF_TRUSTED_ORIGINS", ["http://play.example.com"], "scoreboard.W004"),
        ("SAMPLE_DATA", True, "scoreboard.W005"),
        ("SESSION_COOKIE_SECURE", False, "security.W012"),
    ],
)
def test_what_is_unwise_is_a_warning(wise, name, value, warning):
    setattr(wise, name, value)
    with pytest.raises(SystemCheckError, match=warning):
        call_command("check", deploy=True, fail_level="WARNING")

"""Flags on their way to a webhook and to a mailbox: real receivers, signed, tried again, never lost in silence."""

import base64
import hmac
import http.server
import json
import re
import secrets
import socketserver
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models.functions import Now
from prometheus_client import REGISTRY

from actions import alerts, watch
from actions.models import AlertDelivery, Flag
from scoreboard_project import env
from tests.conftest import Api, serving
from tests.test_watch import gained

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
IS_OURS = re.search(r"```python\n(.+?)```", (Path(__file__).parent.parent / "docs/settings.md").read_text(), re.S)[1]


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it gets. Answers with `statuses` in turn, then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.waits = threading.Event()
        self.waits.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/secret-path"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()} | {":path": self.path}, body))
        self.server.waits.wait(10)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def listening(server: Any) -> Any:
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def receiver(settings, world):
    alerts.stopping.clear()
    with listening(Receiver()) as server:
        settings.ALERT_WEBHOOK_URL = server.url
        settings.ALERT_WEBHOOK_KEY = env.webhook_key("ALERT_WEBHOOK_SECRET", SECRET)
        yield server


def come_due() -> None:
    AlertDelivery.objects.filter(due_at__isnull=False).update(due_at=Now())


def outcomes(outcome: str, channel: str = "webhook") -> float:
    found = REGISTRY.get_sample_value("scoreboard_alert_deliveries_total", {"channel": channel, "outcome": outcome})
    return found or 0


def is_ours(headers: dict[str, str], body: bytes, secret: str = SECRET) -> bool:
    """By the snippet of docs/settings.md."""
    scope: dict[str, Any] = {}
    exec(IS_OURS, scope)  # noqa: S102
    return scope["is_ours"](secret, headers, body)


# --- The webhook ------------------------------------------------------------------------------------------------------


def test_a_new_flag_is_posted_once_signed_and_with_its_evidence(receiver, alice):
    before = outcomes("delivered")
    gained(alice, 1001)
    watch.sweep()
    watch.sweep()
    assert alerts.deliver() == 1
    assert alerts.deliver() == 0
    [(headers, body)] = receiver.got
    told = json.loads(body)
    assert (told["type"], told["data"]["kind"], told["data"]["username"]) == ("flag.raised", "fast_gain", "alice")
    assert told["data"]["evidence"] == {"pointsInAMinute": 1001, "threshold": 1000}
    assert told["data"]["flagId"] == Flag.objects.get().pk
    assert told["timestamp"].endswith("Z")
    assert headers["content-type"] == "application/json" and headers[":path"] == "/hook/secret-path"
    assert is_ours(headers, body)
    delivery = AlertDelivery.objects.get()
    assert (delivery.attempts, delivery.due_at, delivery.error) == (1, None, "")
    assert delivery.delivered_at is not None
    assert outcomes("delivered") == before + 1


def test_what_was_changed_on_its_way_is_not_ours(receiver, alice):
    watch.never_issued(alice.pk, alice.pk)
    alerts.deliver()
    [(headers, body)] = receiver.got
    assert not is_ours(headers, body.replace(b"alice", b"mallo"))
    assert not is_ours(headers | {"webhook-id": "msg_0"}, body)
    assert not is_ours(headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, body)
    assert not is_ours(headers, body, "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())


def test_the_signature_is_the_one_of_the_standard_s_example():
    # From the test vectors of the reference libraries.
    key = env.webhook_key("x", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = alerts.signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert hmac.compare_digest(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")


def test_a_refused_one_is_tried_again_later_with_the_same_id_until_it_is_taken(receiver, alice, caplog):
    receiver.statuses = [500, 404, 302]
    watch.never_issued(alice.pk, alice.pk)
    for attempt, status in enumerate((500, 404, 302), start=1):
        assert alerts.deliver() == 1
        assert alerts.deliver() == 0, "not before its time"
        delivery = AlertDelivery.objects.get()
        assert (delivery.attempts, delivery.delivered_at, delivery.error) == (attempt, None, f"answered {status}")
        pause = delivery.due_at - Flag.objects.get().raised_at
        assert abs(pause - timedelta(seconds=alerts.PAUSES[attempt - 1])) < timedelta(seconds=10)
        come_due()
    assert alerts.deliver() == 1
    assert AlertDelivery.objects.get().delivered_at is not None
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 4, "no redirect was followed"
    assert [record.msg["event"] for record in caplog.records if record.levelname == "WARNING"][1:] == ["alert_not_delivered"] * 3
    assert "secret-path" not in caplog.text and SECRET not in caplog.text


def test_one_that_nobody_takes_is_given_up_aloud(receiver, alice, caplog, settings):
    settings.ALERT_WEBHOOK_URL = "http://127.0.0.1:1/secret-path"  # nobody listens there
    before = outcomes("given_up")
    watch.never_issued(alice.pk, alice.pk)
    for _ in range(len(alerts.PAUSES) + 1):
        come_due()
        assert alerts.deliver() == 1
    come_due()
    assert alerts.deliver() == 0
    delivery = AlertDelivery.objects.get()
    assert (delivery.due_at, delivery.delivered_at, delivery.attempts) == (None, None, len(alerts.PAUSES) + 1)
    assert "ConnectionRefused" in delivery.error
    [line] = [record.msg for record in caplog.records if record.levelname == "ERROR"]
    assert line["event"] == "alert_given_up"
    assert outcomes("given_up") == before + 1
    assert "secret-path" not in caplog.text


def test_a_receiver_that_does_not_answer_is_left_after_a_while(receiver, alice, monkeypatch):
    monkeypatch.setattr(alerts, "SECONDS", 0.2)
    receiver.waits.clear()
    watch.never_issued(alice.pk, alice.pk)
    began = time.monotonic()
    assert alerts.deliver() == 1
    assert time.monotonic() - began < 2
    receiver.waits.set()
    assert AlertDelivery.objects.get().error == "TimeoutError"


def test_what_a_killed_process_had_taken_is_due_again_in_a_minute(receiver, alice, monkeypatch):
    watch.never_issued(alice.pk, alice.pk)
    monkeypatch.setattr(alerts, "_try", lambda _delivery: alerts.stopping.set())  # taken, and never heard of again
    alerts.deliver()
    monkeypatch.undo()
    alerts.stopping.clear()
    assert alerts.deliver() == 0
    left = AlertDelivery.objects.get().due_at - Flag.objects.get().raised_at
    assert timedelta(seconds=55) < left < timedelta(seconds=70)
    come_due()
    assert alerts.deliver() == 1 and len(receiver.got) == 1


def test_several_at_once_send_each_alert_once(receiver, world):
    for number in range(12):
        watch._raise_flags(Flag.Kind.FAILED_REDEMPTIONS, {f"192.0.2.{number}": {}})

    def run() -> None:
        try:
            alerts.deliver()
        finally:
            alerts.connection.close()

    hands = [threading.Thread(target=run) for _ in range(4)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert len(receiver.got) == 12
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 12


def test_where_nothing_is_configured_nothing_is_owed(world, alice):
    watch.never_issued(alice.pk, alice.pk)
    assert Flag.objects.count() == 1 and not AlertDelivery.objects.exists()
    assert alerts.deliver() == 0


def test_a_flag_that_is_not_raised_after_all_is_not_sent(receiver, alice, monkeypatch):
    monkeypatch.setattr(alerts.AlertDelivery.objects, "bulk_create", lambda _rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watch.never_issued(alice.pk, alice.pk)
    assert not Flag.objects.exists(), "the flag and what is owed are one transaction"


async def test_a_server_sends_by_itself_and_answers_while_the_receiver_sleeps(world, alice, tmp_path):
    with listening(Receiver()) as receiver:
        receiver.waits.clear()
        with serving(tmp_path, ALERT_WEBHOOK_URL=receiver.url, ALERT_WEBHOOK_SECRET=SECRET) as server:
            async with server.api() as client:
                api = Api(client)
                for _ in range(11):
                    await api.earn(alice)
                give_up = time.monotonic() + 15
                while not receiver.got and time.monotonic() < give_up:
                    assert (await api.call("GET", "/scores/leaderboard")).status_code == 200
                assert receiver.got, server.log.read_text()
                slowest = 0.0
                for _ in range(20):
                    began = time.monotonic()
                    await api.earn(alice)
                    slowest = max(slowest, time.monotonic() - began)
            receiver.waits.set()
        assert slowest < 1
        headers, body = receiver.got[0]
        assert is_ours(headers, body) and json.loads(body)["data"]["kind"] == "fast_gain"
        log = server.log.read_text()
        assert "secret-path" not in log and SECRET not in log


# --- E-mail -----------------------------------------------------------------------------------------------------------


class _Mailbox(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        def say(line: str) -> None:
            self.wfile.write(line.encode() + b"\r\n")

        say("220 here")
        for line in self.rfile:
            word = line[:4].upper()
            if word == b"DATA":
                say("354 go on")
                mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(mail.decode())  # type: ignore[attr-defined]
                say("250 taken")
            elif word == b"QUIT":
                say("221 bye")
                return
            else:
                say("250 fine")


@pytest.fixture
def mailbox(settings, world):
    alerts.stopping.clear()
    with listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mailbox)) as server:
        server.mails = []
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_USE_TLS = "127.0.0.1", server.server_address[1], False
        settings.ALERT_EMAIL_TO = ["staff@example.com", "night@example.com"]
        yield server


def test_a_new_flag_comes_by_mail(mailbox, alice):
    gained(alice, 1001)
    watch.sweep()
    assert alerts.deliver() == 1
    [mail] = mailbox.mails
    assert "To: staff@example.com, night@example.com" in mail
    assert "alice" in mail and "pointsInAMinute: 1001" in mail
    assert AlertDelivery.objects.get().delivered_at is not None


def test_each_channel_is_tried_for_itself(receiver, mailbox, alice, settings):
    settings.EMAIL_PORT = 1  # nobody listens there
    watch.never_issued(alice.pk, alice.pk)
    assert alerts.deliver() == 2
    by_channel = {delivery.channel: delivery for delivery in AlertDelivery.objects.all()}
    assert by_channel["webhook"].delivered_at and not by_channel["email"].delivered_at
    settings.EMAIL_PORT = mailbox.server_address[1]
    come_due()
    assert alerts.deliver() == 1
    assert len(receiver.got) == len(mailbox.mails) == 1


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "example.com",
        "https:///path",
        "https://a:b@example.com/",
        "https://[x/",
        "http://a b/",
    ],
)
def test_an_address_that_is_none_is_refused_by_name_and_not_repeated(monkeypatch, address):
    monkeypatch.setenv("ALERT_WEBHOOK_URL", address)
    with pytest.raises(ImproperlyConfigured, match=r"^ALERT_WEBHOOK_URL: expected http") as refusal:
        env.http_url("ALERT_WEBHOOK_URL")
    assert address not in str(refusal.value)


def test_good_addresses_are_taken(monkeypatch):
    for address in ("", "https://hooks.example.com/x?y=z", "http://[::1]:9000/"):
        monkeypatch.setenv("ALERT_WEBHOOK_URL", address)
        assert env.http_url("ALERT_WEBHOOK_URL") == address


@pytest.mark.parametrize(
    "raw", ["", "secret", "whsec_", "whsec_MTIz", "whsec_!!!!", base64.b64encode(bytes(32)).decode(), "whsec_" + "A" * 128]
)
def test_a_secret_that_is_too_short_or_no_base64_is_refused_by_name(raw):
    with pytest.raises(ImproperlyConfigured, match=r"^ALERT_WEBHOOK_SECRET: expected whsec_"):
        env.webhook_key("ALERT_WEBHOOK_SECRET", raw)

"""Flags on their way to people who are not looking: to a webhook (Standard Webhooks, signed) and by e-mail.

What is to be sent is a row, written in the transaction that raises the flag; so it is sent after a crash too, perhaps twice,
with the same id. Each server process looks for what is due, in a thread of its own, and takes one at a time: no request waits
for a receiver. A failure is tried again, later each time; after the last try the row stays, with what went wrong.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from actions.models import AlertDelivery, Flag
from scoreboard_project import metrics

log = structlog.get_logger(__name__)

Channel = AlertDelivery.Channel
SECONDS = 5.0  # that a receiver may take to connect, and again to answer
# Seconds to the next try after each failure, as Standard Webhooks has them: 28 hours in all.
PAUSES = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)

stopping = threading.Event()  # set when the process stops: what is under way is ended, nothing new begun

# Whoever takes a row has a minute: a process that is killed meanwhile leaves it to the next. No lock is held while sending.
_TAKE = """
UPDATE actions_alertdelivery SET attempts = attempts + 1, due_at = now() + interval '1 minute' WHERE id = (
    SELECT id FROM actions_alertdelivery WHERE due_at <= now() AND channel = ANY(%s)
    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING id
"""


def channels() -> list[str]:
    """Where alerts go, by the settings."""
    wanted = {Channel.WEBHOOK: settings.ALERT_WEBHOOK_URL, Channel.EMAIL: settings.ALERT_EMAIL_TO}
    return [str(channel) for channel, where in wanted.items() if where]


def owe(flag_ids: Iterable[int]) -> None:
    """Note that new flags are to be sent. Call in the transaction that raises them."""
    wanted = channels()
    AlertDelivery.objects.bulk_create(AlertDelivery(flag_id=id_, channel=channel) for id_ in flag_ids for channel in wanted)


def deliver() -> int:
    """Send what is due, until nothing is. Returns: how many tries that took. Raises: Django's and psycopg's errors."""
    tries, wanted = 0, channels()
    while wanted and not stopping.is_set():
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, [wanted])
            taken = cursor.fetchone()
        if taken is None:
            break
        tries += 1
        _try(AlertDelivery.objects.select_related("flag__player").get(pk=taken[0]))
    return tries


def _try(delivery: AlertDelivery) -> None:
    connection.close()  # a receiver that is slow must not keep one of the few
    send = {Channel.WEBHOOK: _post, Channel.EMAIL: _mail}[Channel(delivery.channel)]
    try:
        send(delivery)
    except Exception as exc:  # whatever it is, the alert must not be lost for it
        _failed(delivery, _sentence(exc))
    else:
        AlertDelivery.objects.filter(pk=delivery.pk).update(delivered_at=Now(), due_at=None, error="")
        metrics.alert_deliveries.labels(delivery.channel, "delivered").inc()


def _failed(delivery: AlertDelivery, error: str) -> None:
    last = delivery.attempts > len(PAUSES)
    due_at = None if last else Now() + timedelta(seconds=PAUSES[delivery.attempts - 1])
    AlertDelivery.objects.filter(pk=delivery.pk).update(due_at=due_at, error=error[:200])
    metrics.alert_deliveries.labels(delivery.channel, "given_up" if last else "failed").inc()
    say = log.error if last else log.warning
    say(
        "alert_given_up" if last else "alert_not_delivered",
        delivery=str(delivery.pk),
        channel=delivery.channel,
        attempts=delivery.attempts,
        error=error,
    )


def _sentence(exc: Exception) -> str:
    """What went wrong, without the address: it may hold a secret."""
    if isinstance(exc, urllib.error.HTTPError):
        return f"answered {exc.code}"
    reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    return f"{type(reason).__name__} {getattr(reason, 'strerror', None) or ''}".strip()


def _told(flag: Flag) -> dict[str, Any]:
    return {
        "flagId": flag.pk,
        "kind": flag.kind,
        "meaning": str(flag.get_kind_display()),
        "subject": flag.subject,
        "username": flag.player and flag.player.username,
        "evidence": flag.evidence,
    }


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None  # then it is an HTTPError: the receiver that was named is the one that gets it


_opener = urllib.request.build_opener(_NoRedirects)


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` of Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _post(delivery: AlertDelivery) -> None:
    raised_at = delivery.flag.raised_at.isoformat().replace("+00:00", "Z")
    body = json.dumps({"type": "flag.raised", "timestamp": raised_at, "data": _told(delivery.flag)}).encode()
    message_id, timestamp = f"msg_{delivery.pk.hex}", str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "scoreboard",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(settings.ALERT_WEBHOOK_KEY, message_id, timestamp, body),
    }
    request = urllib.request.Request(settings.ALERT_WEBHOOK_URL, body, headers)  # noqa: S310 (http and https only: env.http_url)
    _opener.open(request, timeout=SECONDS).close()


def _mail(delivery: AlertDelivery) -> None:
    flag = delivery.flag
    who = flag.player.username if flag.player else flag.subject
    lines = [f"{name}: {value}" for name, value in (_told(flag) | flag.evidence).items() if name != "evidence"]
    lines += [f"raisedAt: {timezone.localtime(flag.raised_at).isoformat()}", "", "Nobody was blocked. See /admin/ → Flags."]
    EmailMessage(
        subject=f"[Scoreboard] {flag.get_kind_display()}: {who}",
        body="\n".join(lines),
        to=settings.ALERT_EMAIL_TO,
        headers={"Message-ID": f"<{delivery.pk.hex}@scoreboard>"},
    ).send()

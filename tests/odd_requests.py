"""Requests as nobody should send them, drawn from the OpenAPI schema: first a valid one, then up to three things wrong with it.

Each is made from its seed and number alone, so that one that did harm can be sent again by itself.
"""

import asyncio
import copy
import json
import random
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

JSON, FORM = b"application/json", b"application/x-www-form-urlencoded"
CSRF = "c" * 32

# What has broken something before is drawn more often.
NASTY = ["\x00", "a\x00b", "\ud800", "9" * 4_999, "\u202e"]
TEXTS = [*NASTY, "", " ", "\udfff\ud800", "\ufeff", "é" * 100, "🏆", "a" * 65, "a" * 5_000, "9" * 40, "٣", "\x1b[31m", "\\"]
TEXTS += ["' OR 1=1 --", "<script>alert(1)</script>", "{{7*7}}", "a\r\nX-Injected: 1", "0" * 32]
TEXTS += "-1 0 1e400 NaN null None true * *day* %00 %s {0} ${7*7} =1+1 ../../etc/passwd //evil.example {urn:uuid}".split()
TEXTS += "2026-11-23T10:30:00Z 0001-01-01T00:00:00+14:00 9999-12-31T23:59:59-14:00 2026-13-01T00:00:00Z".split()
TEXTS += "2026-02-30 0001-01-01 9999-12-31 day week month all 00000000-0000-0000-0000-000000000000".split()
VALUES = [None, True, False, 0, -1, 1.5, 2**31, 2**53, 2**63, -(2**63) - 1, 10**300, [], {}, [[]], [None], {"": {}}, *TEXTS]
BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"{}x",
    b'{"a":1,"a":2}',
    b"NaN",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe",
    b"[" * 9_000,
    b'{"a":' * 2_000,
]
BODIES += [
    "{}".encode("utf-16"),
    b'{"a":1e999}',
    b'{"a":%b}' % (b"9" * 5_000),
    b'{"\\ud800":1}',
    b" " * 16_385,
    b"\x00",
    b"--x\r\n",
]
TYPES = [
    b"",
    b"text/plain",
    FORM,
    b"multipart/form-data; boundary=x",
    b"multipart/form-data",
    b"application/json; charset=utf-16",
]
TYPES += [
    b"APPLICATION/JSON",
    b"application/json;",
    b"application/xml",
    b"*/*",
    b"\xff",
    b"application/json, text/plain",
    b"a" * 3_000,
]
METHODS = ["X" * 300, *"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT PROPFIND get _".split()]
# A server refuses lengths and framing that make no sense before the application sees them: test_transport.
HEADERS = """x-request-id x-forwarded-for x-forwarded-host x-forwarded-proto x-http-method-override x-original-url host origin
referer accept accept-language accept-encoding range if-modified-since cookie if-none-match if-unmodified-since authorization
x-score-token content-encoding expect upgrade te daphne-root-path forwarded x-csrftoken content-type date via""".split()
PAGES = """/ /embed/ /play/ /play/ /play/ /play/ /play/ /play/token /sign-in/ /sign-in/ /sign-out/ /theme/ /admin/ /admin/login/
/admin/jsi18n/ /admin/leaderboard/player/ /admin/actions/actionlog/ /admin/actions/flag/1/change/ /admin/r/1/x/ /admin/nope
/healthz /readyz /metrics /api/v1/docs /api/v1/schema /api/v1/ /api/v1/nope /static/nope.js /static/ /.env /.git/config
/static/../manage.py /static/%2e%2e/manage.py /debug /players/alice/ //evil.example /%""".split()
QUERIES = "view limit span period at theme next token q o p e all format script offset _popup".split()
FIELDS = "username password next theme attemptId start answer-9 points".split()


@dataclass
class Odd:
    """One request, as an ASGI server would hand it on."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    pieces: int = 1
    data: Any = None  # what the body is made of, while it is still a body of JSON

    @property
    def query_string(self) -> bytes:
        return urlencode(self.query, errors="surrogatepass").encode()


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Maker:
    """Draws requests. `known` gives good values for the names of fields and parameters; a list is chosen from."""

    def __init__(self, schema: dict[str, Any], known: dict[str, Any], credentials: dict[str, list[tuple[bytes, bytes]]]):
        self.components = schema["components"]["schemas"]
        self.calls = [(method, path, told) for path, calls in schema["paths"].items() for method, told in calls.items()]
        self.known, self.credentials = known, credentials
        self.mistakes: list[Callable[[Odd], None]] = [
            self.value,
            self.value,
            self.value,
            self.raw,
            self.bytes,
            self.type,
            self.method,
        ]
        self.mistakes += [self.query, self.query, self.header, self.header, self.path, self.who]

    def make(self, seed: int, number: int) -> Odd:
        self.random = random.Random(f"{seed}:{number}")
        odd = self.page() if self.random.random() < 0.25 else self.call()
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            self.random.choice(self.mistakes)(odd)
        if odd.data is not None:
            odd.body = json.dumps(odd.data, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        odd.pieces = self.random.choice([1, 1, 1, 2, 5])
        return odd

    def text(self) -> str:
        return self.random.choice(NASTY if self.random.random() < 0.25 else TEXTS)

    # --- Valid ones ---------------------------------------------------------------------------------------------------

    def call(self) -> Odd:
        method, path, told = self.random.choice(self.calls)
        group = self.random.choice(list(zip(*self.known.values(), strict=True)))  # values that belong together
        self.good = dict(zip(self.known, group, strict=True))
        odd = Odd(method.upper(), path, headers=[(b"host", b"localhost"), *self.credentials["player"]])
        if content := told.get("requestBody", {}).get("content"):
            odd.headers.append((b"content-type", JSON))
            odd.data = self.valid(content["application/json"]["schema"])
        for parameter in told.get("parameters", []):
            value = str(self.valid(parameter["schema"], parameter["name"]))
            if parameter["in"] == "header":
                odd.headers.append((parameter["name"].lower().encode(), value.encode()))
            elif self.random.random() < 0.6:
                odd.query.append((parameter["name"], value))
        return odd

    def valid(self, schema: dict[str, Any], name: str = "") -> Any:
        if name in self.good:
            return self.good[name]
        if "$ref" in schema:
            schema = self.components[schema["$ref"].rpartition("/")[2]]
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            wanted = {key: part for key, part in schema.get("properties", {}).items() if self.random.random() < 0.9}
            return {key: self.valid(part, key) for key, part in wanted.items()} or {
                "a": copy.deepcopy(self.random.choice(VALUES))
            }
        if kind in ("integer", "number"):
            return self.random.randint(schema.get("minimum", 0), schema.get("maximum", 1000))
        if kind == "boolean":
            return self.random.random() < 0.5
        known = {"date": "2026-11-23", "date-time": "2026-11-23T10:30:00Z", "uuid": "00000000-0000-0000-0000-000000000001"}
        return known.get(schema.get("format", ""), self.random.choice(string.ascii_letters) * 5)

    def page(self) -> Odd:
        odd = Odd(self.random.choice(["GET", "GET", "POST"]), self.random.choice(PAGES), headers=[(b"host", b"localhost")])
        who = self.random.choice(list(self.credentials.values()))
        if odd.path == "/play/":
            who, odd.method = self.credentials["suspended"], "POST"
        odd.headers += who
        if odd.path.startswith("/admin") and who:  # what staff sends is theirs to send: looking is enough
            odd.method = "GET"
        for _ in range(self.random.randint(0, 3)):
            odd.query.append((self.random.choice(QUERIES), self.text()))
        if odd.method == "POST":
            chosen = self.random.sample(FIELDS, self.random.randint(0, 5))
            pairs = [(name, self.text()) for name in chosen]
            if odd.path == "/play/":
                pairs += [("actionType", self.random.choice(self.known["actionType"])), ("attemptId", self.text())]
                pairs += [(f"answer-{self.text()}", self.text()), ("answer-1", self.text())]
            odd.body = urlencode([("csrfmiddlewaretoken", CSRF), *pairs], errors="surrogatepass").encode()
            odd.headers += [(b"content-type", FORM), (b"content-length", b"%d" % len(odd.body))]
        return odd

    # --- Mistakes -----------------------------------------------------------------------------------------------------

    def value(self, odd: Odd) -> None:
        """Somewhere in the body: another value, one too few, one too many."""
        place = odd.data
        while isinstance(place, dict) and place:
            key = self.random.choice(list(place))
            if isinstance(place[key], dict) and place[key] and self.random.random() < 0.5:
                place = place[key]
                continue
            match self.random.randint(0, 4):
                case 0:
                    del place[key]
                case 1:
                    place[self.random.choice([*TEXTS, "points", "score", "userId", "is_staff", "__proto__"])] = 999_999
                case _:
                    place[key] = copy.deepcopy(self.random.choice(VALUES))
            return
        if odd.data is not None:
            odd.data = copy.deepcopy(self.random.choice(VALUES))

    def raw(self, odd: Odd) -> None:
        odd.data, odd.body = None, self.random.choice(BODIES)

    def bytes(self, odd: Odd) -> None:
        """A byte more, less or other, somewhere in the body."""
        if odd.data is not None:
            odd.data, odd.body = None, json.dumps(odd.data).encode()
        at = self.random.randint(0, len(odd.body))
        odd.body = odd.body[:at] + self.random.randbytes(self.random.randint(0, 3)) + odd.body[at + self.random.randint(0, 2) :]

    def type(self, odd: Odd) -> None:
        odd.headers = [pair for pair in odd.headers if pair[0] != b"content-type"]
        odd.headers.append((b"content-type", self.random.choice(TYPES)))

    def method(self, odd: Odd) -> None:
        if not odd.path.startswith("/admin"):
            odd.method = self.random.choice(METHODS)

    def query(self, odd: Odd) -> None:
        name = self.random.choice([*QUERIES, *(name for name, _ in odd.query), *TEXTS[:8]])
        odd.query.append((name, self.text()))

    def header(self, odd: Odd) -> None:
        text = self.random.choice(
            [self.random.choice(TEXTS), "x" * 20_000, "bytes=0-", "Bearer x", "Api-Key sbk_x", "sessionid=x; a"]
        )
        value = text.encode("utf-8", "surrogatepass").replace(b"\r", b"").replace(b"\n", b"").replace(b"\x00", b"").strip()
        name = self.random.choice(HEADERS).encode()
        if self.random.random() < 0.5:
            odd.headers = [pair for pair in odd.headers if pair[0] != name]
        odd.headers.append((name, value))

    def path(self, odd: Odd) -> None:
        at = self.random.randint(0, len(odd.path))
        odd.path = (
            odd.path[:at]
            + self.random.choice(["/", "//", "%00", "%0a", "%ff", "%2e%2e/", ";", "é", "%", "x" * 3_000])
            + odd.path[at:]
        )
        if not odd.path.startswith("/"):
            odd.path = "/" + odd.path

    def who(self, odd: Odd) -> None:
        """The caller's credentials with a byte changed, or none."""
        kept = [pair for pair in odd.headers if pair[0] != b"authorization"]
        given = [value for name, value in odd.headers if name == b"authorization"]
        if given and self.random.random() < 0.8:
            at = self.random.randrange(len(given[0]))
            changed = given[0][:at] + bytes([self.random.choice(b"AZaz09-_.= \xff")]) + given[0][at + 1 :]
            kept.append((b"authorization", changed))
        odd.headers = kept


async def send(application: Any, odd: Odd) -> Answer:
    """What the application answers. Raises: what it raises."""
    raw_path = quote(odd.path, safe="/%;:@!$&'()*+,=~-._").encode()
    size = max(1, -(-len(odd.body) // odd.pieces))
    parts = [odd.body[at : at + size] for at in range(0, len(odd.body), size)] or [b""]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": odd.method,
        "scheme": "http",
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "root_path": "",
        "query_string": odd.query_string,
        "headers": odd.headers,
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    started = time.perf_counter()
    await application(scope, receive, keep)
    head = next(message for message in sent if message["type"] == "http.response.start")
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in head["headers"]]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(head["status"], headers, body, time.perf_counter() - started)

"""The API's manners: strict JSON in, one envelope out, every refusal with its status and code. Knows no rules of the game.

`ApiView` is a DRF view without the parts that cost time and decide nothing here (one parser, one renderer, no negotiation),
with async handlers, answering a finished `HttpResponse`.
"""

import json
import math
import sys
import time
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.validators import ProhibitNullCharactersValidator
from django.http import Http404, HttpResponse
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import exceptions, serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.validators import ProhibitSurrogateCharactersValidator
from rest_framework.views import APIView

from scoreboard_project import errors, metrics, request_id
from scoreboard_project.db import is_outage
from scoreboard_project.sign_in import BearerAuthentication, Caller

log = structlog.get_logger(__name__)

DEEPEST = 16  # levels of nesting in a body

STATUS = {
    errors.Invalid: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.Conflict: 409,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
}
# Sent with every API answer (`api_handler` adds them): it is data, for the one who asked.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    **({"Strict-Transport-Security": f"max-age={settings.SECURE_HSTS_SECONDS}"} if settings.SECURE_HSTS_SECONDS else {}),
}


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encoded(data: Any) -> bytes:
    return _encoder.encode(data).encode()


def json_response(body: bytes, status: int = 200) -> HttpResponse:
    return HttpResponse(body, status=status, content_type="application/json")


def success(data: Any) -> HttpResponse:
    return json_response(b'{"success":true,"data":%b}' % encoded(data))


def failure(status: int, code: str, message: str, *, details: Any = None, retry_after: float | None = None) -> HttpResponse:
    """The error envelope. `retry_after`: seconds, rounded up to whole ones."""
    error = {"code": code, "message": message, "details": details, "requestId": request_id.current.get()}
    if details is None:
        del error["details"]
    response = json_response(encoded({"success": False, "error": error}), status)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    metrics.refusals.labels(code).inc()
    return response


def refused(refusal: errors.Refusal) -> HttpResponse:
    status = next(code for kind, code in STATUS.items() if isinstance(refusal, kind))
    return failure(status, refusal.code, refusal.message, details=refusal.details, retry_after=refusal.retry_after)


def answer_to(exc: Exception, invalid_code: str) -> HttpResponse:
    """The answer to whatever a view raised. `invalid_code`: for a body or query of the wrong shape."""
    match exc:
        case errors.Refusal():
            return refused(exc)
        case serializers.ValidationError():
            return failure(400, invalid_code, "The request is not valid; see details.", details={"fields": exc.detail})
        case exceptions.ParseError():
            return failure(400, "INVALID_JSON", str(exc.detail))
        case exceptions.UnsupportedMediaType():
            return failure(415, "UNSUPPORTED_MEDIA_TYPE", "Send JSON, with Content-Type: application/json.")
        case exceptions.MethodNotAllowed():
            return failure(405, "METHOD_NOT_ALLOWED", "Use a method that Allow names.")
        case SuspiciousOperation():  # Django's word for a thousand fields, and the like
            return failure(400, invalid_code, "The request is not valid.")
        case Http404():
            return failure(404, "NOT_FOUND", "There is nothing here.")
    if is_outage(exc):
        return refused(errors.Unavailable())
    log.exception("unhandled_error")
    return failure(500, "INTERNAL_ERROR", "Something went wrong on our side. Nothing was changed if you see this.")


def page_answer_to(exc: Exception, _context: Any) -> HttpResponse:
    """The same for the views that are DRF's own (its EXCEPTION_HANDLER)."""
    response = answer_to(exc, "INVALID_REQUEST")
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any, depth: int = 0) -> None:
    """Refuse what PostgreSQL or a careful reader would choke on: depth, NUL, lone surrogates, numbers without end."""
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels deep")
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("a string contains NUL")
        value.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, int | float) and abs(value) > sys.float_info.max:
        raise ValueError("a number is out of range")


_decoder = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def strict_json(body: bytes) -> Any:
    """Raises: DRF's `ParseError`, saying why."""
    try:
        value = _decoder.decode(body.decode())
        _check(value)
    except RecursionError:
        raise exceptions.ParseError(f"The body is not valid JSON: more than {DEEPEST} levels deep.") from None
    except ValueError as exc:
        raise exceptions.ParseError(f"The body is not valid JSON: {exc}.") from None
    return value


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return strict_json(stream.read())


class OneParser(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        return parsers[0] if is_json(request.content_type) else None

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


def is_json(content_type: str | None) -> bool:
    return (content_type or "").partition(";")[0].strip().lower() == StrictJSONParser.media_type


class Text(serializers.CharField):
    """A string as it was sent: DRF's own takes numbers for strings, and trims."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)
        # `strict_json` has refused these two already, in strings of every depth.
        known = (ProhibitNullCharactersValidator, ProhibitSurrogateCharactersValidator)
        self.validators = [validator for validator in self.validators if not isinstance(validator, known)]

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return data


class Body(serializers.Serializer):
    """A JSON object that has these fields and no others."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            raise serializers.ValidationError({name[:64]: ["Unknown field."] for name in unknown[:10]})
        return super().to_internal_value(data)


class ApiView(APIView):
    """One call of the API: async handlers that return an `HttpResponse` (usually `success(…)`) or raise a refusal."""

    http_method_names = ["get", "post"]
    authentication_classes = [BearerAuthentication]
    parser_classes = [StrictJSONParser]
    invalid_code = "INVALID_REQUEST"
    needs_player = False  # whether a valid access token is required

    async def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        started = time.perf_counter()
        try:
            response = await self._answer(request, *args, **kwargs)
        except Exception as exc:
            response = answer_to(exc, self.invalid_code)
        answers, seconds = _meters(type(self).__name__, response.status_code)
        answers.inc()
        seconds.observe(time.perf_counter() - started)
        return response

    async def _answer(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        handler: Callable | None = getattr(self, request.method.lower(), None)
        if handler is None or request.method.lower() not in self.http_method_names:
            allowed = ", ".join(self.allowed_methods)
            response = failure(405, "METHOD_NOT_ALLOWED", f"Use {allowed}.")
            response.headers["Allow"] = allowed
            return response
        # Who asks, and the body, are read without DRF's detours; and it takes a body of no length for {}.
        self.request = Request(request)
        self.caller: Caller | None = self._caller(request)
        if self.caller is None and self.needs_player:
            raise errors.Unauthorized
        return await handler(self.request, *args, **kwargs)

    def _caller(self, request: Any) -> Any:
        for authenticator in self.get_authenticators():
            found = authenticator.authenticate(request)
            if found is not None:
                return found[0]
        return None

    @property
    def player_id(self) -> uuid.UUID:
        """Who asks, where `needs_player` is set."""
        assert self.caller is not None
        return self.caller.player_id

    def read(self, body: type[Body]) -> dict[str, Any]:
        """The request's body, checked. Raises what `answer_to` knows."""
        request = self.request._request
        content_type = request.META.get("CONTENT_TYPE")
        if not is_json(content_type):
            raise exceptions.UnsupportedMediaType(content_type or "")
        return _checker(body).run_validation(strict_json(request.body))


@cache
def _meters(view: str, status: int) -> tuple[Any, Any]:
    return metrics.requests.labels(view, status), metrics.request_seconds.labels(view)


@cache
def _checker(body: type[Body]) -> Body:
    """One instance for all requests: DRF copies every field for each new one, which was a fifth of a request's time."""
    return body()


class BearerInSchema(OpenApiAuthenticationExtension):
    target_class = BearerAuthentication
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


def wrap_schema_in_envelope(result: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
    """drf-spectacular hook: what a view declares is the `data` of the envelope; every operation may answer with an error."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = {
        "type": "object",
        "required": ["success", "error"],
        "properties": {
            "success": {"type": "boolean", "enum": [False]},
            "error": {
                "type": "object",
                "required": ["code", "message", "requestId"],
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "details": {"type": "object"},
                    "requestId": {"type": "string"},
                },
            },
        },
    }
    for operations in result["paths"].values():
        for operation in operations.values():
            for media in (media for answer in operation["responses"].values() for media in answer.get("content", {}).values()):
                media["schema"] = {
                    "type": "object",
                    "required": ["success", "data"],
                    "properties": {"success": {"type": "boolean", "enum": [True]}, "data": media["schema"]},
                }
            error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            operation["responses"]["default"] = {"description": "A refusal, with its code.", "content": error}
    return result

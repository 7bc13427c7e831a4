"""What every page is told, the pages for what went wrong, and the API's schema and documentation."""

import math
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_replace, csp_update
from django.conf import settings
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from scoreboard_project.api import OneParser, failure
from scoreboard_project.db import is_outage
from scoreboard_project.sign_in import SignInForm

THEME_COOKIE, THEMES = "theme", ("light", "dark")


def site(request: HttpRequest) -> dict[str, Any]:
    """Template context of every page."""
    theme = request.COOKIES.get(THEME_COOKIE)
    return {
        "sample_data": settings.SAMPLE_DATA,
        "sign_up_open": settings.SIGN_UP == "open",
        "theme": theme if theme in THEMES else "",
        "request_id": request.scope.get("request_id", "") if hasattr(request, "scope") else "",
    }


def error_page(status: int) -> Callable[..., HttpResponse]:
    """The view for answers of that status. Django's own give a template neither the request id nor, for some, anything."""

    def page(request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:
        return render(request, f"{status}.html", status=status)

    return page


forbidden, not_found = error_page(403), error_page(404)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Mostly an unknown host. The schema is data, although it takes the pages' way."""
    if request.path == "/api/v1/schema":
        return failure(400, "INVALID_HOST", "This host name is not served here.")
    return error_page(400)(request)


def too_many(request: HttpRequest, wait: float) -> HttpResponse:
    """The answer to a form that was sent too often. `wait`: seconds."""
    seconds = math.ceil(wait)
    answer = render(request, "429.html", {"seconds": seconds, "minutes": math.ceil(seconds / 60)}, status=429)
    answer["Retry-After"] = str(seconds)
    return answer


def server_error(request: HttpRequest) -> HttpResponse:
    """Called while the exception is being handled: an outage is a 503, anything else our own fault."""
    problem = sys.exc_info()[1]
    return error_page(503 if problem is not None and is_outage(problem) else 500)(request)


@csrf_exempt  # the worst another site can do with it is to choose somebody's colours; so no page needs a cookie for the form
@require_POST
def choose_theme(request: HttpRequest) -> HttpResponse:
    """Remembers light or dark for a year; anything else goes back to what the device prefers. Leads back to `next`."""
    back = request.POST.get("next", "")
    here = url_has_allowed_host_and_scheme(back, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    answer = HttpResponseRedirect(back if here else "/", status=303)
    theme = request.POST.get("theme")
    if theme in THEMES:
        answer.set_cookie(THEME_COOKIE, theme, max_age=timedelta(days=365), secure=settings.HTTPS, httponly=True, samesite="Lax")
    else:
        answer.delete_cookie(THEME_COOKIE)
    return answer


class Schema(SpectacularJSONAPIView):
    """The OpenAPI schema."""

    http_method_names = ["get", "head"]
    authentication_classes = []
    content_negotiation_class = OneParser


class SignInPage(LoginView):
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        """Where `next` leads, unless it leads here: Django answers that loop with a 500."""
        url = super().get_redirect_url()
        return url if url != self.request.path else ""


@method_decorator(csp_update({"style-src": [UNSAFE_INLINE]}), name="dispatch")
@method_decorator(csp_replace({"img-src": [SELF, "data:"]}), name="dispatch")
class DocsPage(SpectacularSwaggerSplitView):
    """Swagger UI from our own host; it sets styles on elements, which nothing else here may."""

    http_method_names = ["get", "head"]
    authentication_classes = []
    permission_classes = []
    content_negotiation_class = OneParser

"""What every page is told, and the API's documentation page."""

from typing import Any

from csp.decorators import csp_update
from django.conf import settings
from django.http import HttpRequest
from django.utils.decorators import method_decorator
from drf_spectacular.views import SpectacularSwaggerSplitView


def site(request: HttpRequest) -> dict[str, Any]:
    """Template context of every page."""
    return {
        "sample_data": settings.SAMPLE_DATA,
        "request_id": request.scope.get("request_id", "") if hasattr(request, "scope") else "",
    }


@method_decorator(csp_update({"style-src": ["'unsafe-inline'"]}), name="dispatch")
class DocsPage(SpectacularSwaggerSplitView):
    """Swagger UI from our own host; it sets styles on elements, which nothing else here may."""

    authentication_classes = []
    permission_classes = []

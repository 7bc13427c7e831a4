"""Every address."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import csrf_exempt
from django.views.i18n import set_language

from leaderboard.consumers import LiveConsumer
from scoreboard_project import pages, probes, sign_in_api
from scoreboard_project.sign_in import StaffSignInForm

admin.site.login_form = StaffSignInForm
admin.site.site_header = admin.site.site_title = _("Scoreboard")

urlpatterns = [
    path("", include("leaderboard.urls")),
    path("", include("actions.urls")),
    path("api/v1/auth/token", sign_in_api.TokenView.as_view()),
    path("api/v1/auth/token/refresh", sign_in_api.RefreshView.as_view()),
    path("api/v1/auth/token/revoke", sign_in_api.RevokeView.as_view()),
    path("api/v1/schema", pages.Schema.as_view(), name="schema"),
    path("api/v1/docs", pages.DocsPage.as_view(url_name="schema"), name="docs"),
    path("healthz", probes.healthz),
    path("readyz", probes.readyz),
    path("metrics", probes.metrics),
    # As with colours: another site could choose somebody's language, and nothing worse; so no page needs a cookie for the form.
    path("language/", csrf_exempt(set_language), name="set_language"),
    path("theme/", pages.choose_theme, name="theme"),
    path("sign-in/", pages.SignInPage.as_view(), name="login"),
    path("sign-out/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]

handler400, handler403, handler404, handler500 = pages.bad_request, pages.forbidden, pages.not_found, pages.server_error

sockets = {"/api/v1/scores/live": LiveConsumer.as_asgi()}

"""Pages on which people look after their own account: sign up, profile, password. Plain forms, complete without JavaScript."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.forms import BaseUserCreationForm, PasswordChangeForm, UsernameField
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import PasswordChangeView
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse, reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.generic import FormView

from leaderboard import avatars, profiles, reading
from leaderboard.models import Player, Score
from scoreboard_project import limits
from scoreboard_project.pages import too_many
from scoreboard_project.sign_in import SIGN_IN_WINDOW_SECONDS, caller, too_many_tries

SIGN_UP_WINDOW_SECONDS = 3600


class NameField(UsernameField):
    """A name runs in its own direction, whatever the page's."""

    def widget_attrs(self, widget: Any) -> dict[str, Any]:
        return super().widget_attrs(widget) | {"dir": "auto"}


class SignUpForm(BaseUserCreationForm):
    """Name and password. No e-mail address: whether one is known here would be told to whoever asks."""

    class Meta:
        model = Player
        fields = ("username",)
        field_classes = {"username": NameField}


@method_decorator([never_cache, sensitive_post_parameters("password1", "password2")], name="dispatch")
class SignUpPage(FormView):
    """A new account, signed in at once. Each try counts for its address, good or bad: a try asks whether a name is taken."""

    template_name = "registration/sign_up.html"
    form_class = SignUpForm

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if settings.SIGN_UP != "open":
            raise Http404
        if request.user.is_authenticated:
            return HttpResponseRedirect(reverse("account"))
        return super().dispatch(request, *args, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        wait = limits.take([limits.Take("sign-up", caller(request), settings.SIGN_UP_LIMIT, SIGN_UP_WINDOW_SECONDS)])[0]
        return too_many(request, wait) if wait else super().post(request, *args, **kwargs)

    def form_valid(self, form: SignUpForm) -> HttpResponse:
        try:
            with transaction.atomic():
                player = form.save()
        except IntegrityError:  # somebody was quicker between the check and here
            form.add_error("username", _("A player with that name exists already."))
            return self.form_invalid(form)
        login(self.request, player)
        messages.success(self.request, _("Welcome! Your account is ready."))
        return HttpResponseRedirect(reverse("play"))


class PasswordForm(PasswordChangeForm):
    """Django's own; but a session that somebody got hold of is no place to guess the password at."""

    def clean_old_password(self) -> str:
        most = settings.SIGN_IN_FAILURE_LIMIT
        wish = limits.Take("password", self.user.pk.hex, most, SIGN_IN_WINDOW_SECONDS)
        wait = limits.take([wish])[0]
        if wait:
            raise too_many_tries(wait)
        password = super().clean_old_password()
        limits.give_back([wish])
        return password


@method_decorator(never_cache, name="dispatch")
class PasswordPage(PasswordChangeView):
    """Ends all other access (docs/sign-in.md); this session goes on."""

    template_name = "registration/password.html"
    form_class = PasswordForm
    success_url = reverse_lazy("account")

    def form_valid(self, form: Any) -> HttpResponse:
        messages.success(self.request, _("Your password is changed. Everywhere else you are signed out."))
        return super().form_valid(form)


class ProfileForm(forms.ModelForm):
    avatar_url = forms.URLField(
        label=gettext_lazy("Address of a picture"), required=False, max_length=500, empty_value=None, assume_scheme="https"
    )
    avatar_url.widget.attrs["dir"] = "ltr"
    opted_out = forms.BooleanField(
        label=gettext_lazy("Keep me off all public boards"),
        required=False,
        help_text=gettext_lazy("You go on earning points, and only you see them. You can come back at any time."),
    )

    class Meta:
        model = Player
        fields = ("username", "avatar_url")
        field_classes = {"username": NameField}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].label = _("Name")
        self.fields["username"].help_text = _(
            "You can change capitals and accents. You sign in with the name as it is written here."
        )
        if not settings.AVATAR_HOSTS and not self.instance.avatar_url:
            del self.fields["avatar_url"]
        else:
            self.fields["avatar_url"].help_text = self._picture_help()

    def _picture_help(self) -> str:
        if not settings.AVATAR_HOSTS or "*" in settings.AVATAR_HOSTS:
            return _("Leave it empty for your own pattern.")
        hosts = ", ".join(settings.AVATAR_HOSTS)
        return _("At one of these hosts: %(hosts)s. Leave it empty for your own pattern.") % {"hosts": hosts}

    def clean_username(self) -> str:
        name = self.cleaned_data["username"]
        profiles.check_spelling(self.instance, name)
        return name


@method_decorator(never_cache, name="dispatch")
class AccountPage(LoginRequiredMixin, FormView):
    """What a player sees and decides about themselves."""

    template_name = "account.html"
    form_class = ProfileForm
    success_url = reverse_lazy("account")

    def _player(self) -> Player:
        return Player.objects.select_related("score").get(pk=str(self.request.user.pk))

    def get_form_kwargs(self) -> dict[str, Any]:
        player = self._player()
        return super().get_form_kwargs() | {"instance": player, "initial": {"opted_out": player.score.opted_out}}

    def form_valid(self, form: ProfileForm) -> HttpResponse:
        profiles.change(form.instance, opted_out=form.cleaned_data["opted_out"])
        messages.success(self.request, _("Saved."))
        return super().form_valid(form)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        player = self._player()  # as it is kept, whatever a refused form says
        rank, points = reading.standing(player.pk)
        about: dict[str, Any] = {"player": player, "rank": rank, "points": points or 0, "score": _switches(player.score)}
        return super().get_context_data(**kwargs) | about | {"identicon": avatars.identicon(player.pk)}


def _switches(score: Score) -> dict[str, bool]:
    return {"suspended": score.suspended, "hidden": score.hidden, "opted_out": score.opted_out, "listed": score.listed}

"""Staff's desk: lists to look at, and acts of moderation that ask for a reason. History and scores cannot be edited."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminIntegerFieldWidget, AdminTextareaWidget
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from leaderboard import moderation
from leaderboard.models import ModerationAct, Player, Score, ScoreEntry
from scoreboard_project.errors import Refusal
from scoreboard_project.models import SignIn


class ReadOnly(admin.ModelAdmin):
    """To be looked at, not touched."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=500,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
        help_text=_("Goes into the audit."),
    )


class AdjustForm(ReasonForm):
    points = forms.IntegerField(
        label=_("Points"), widget=AdminIntegerFieldWidget, help_text=_("To add; below zero to take away.")
    )
    field_order = ["points", "reason"]


class ActsWithReason(ReadOnly):
    """Runs an act of moderation on what is selected, once a reason has been given."""

    def has_moderate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("leaderboard.moderate_score")

    def ask_and_do(
        self, request: HttpRequest, queryset: QuerySet, act: Any, title: Any, form_class: type[ReasonForm] = ReasonForm
    ) -> HttpResponse | None:
        """First a page that asks; then `act(object, moderator=…, **form)` for each, and a message that says what came of it."""
        form = form_class(request.POST if "confirm" in request.POST else None)
        if not form.is_valid():
            context = self.admin_site.each_context(request) | {
                "title": title,
                "form": form,
                "objects": queryset,
                "action": request.POST["action"],
                "opts": self.model._meta,
            }
            return TemplateResponse(request, "admin/leaderboard/reason.html", context)
        done = 0
        for obj in queryset:
            try:
                act(obj, moderator=request.user, **form.cleaned_data)
                done += 1
            except Refusal as refusal:
                self.message_user(request, f"{obj}: {refusal.message}", messages.ERROR)
        if done:
            self.message_user(request, ngettext("%d done.", "%d done.", done) % done, messages.SUCCESS)
        return None


@admin.register(Score)
class ScoreAdmin(ActsWithReason):
    list_display = ["player", "total_score", "suspended", "hidden", "opted_out", "reached_at", "revision"]
    list_filter = ["suspended", "hidden", "opted_out"]
    search_fields = ["player__username", "player__email"]
    ordering = ["-total_score", "reached_at"]
    list_select_related = ["player"]
    show_full_result_count = False
    actions = ["suspend", "reinstate", "hide", "show", "adjust"]

    @admin.action(description=_("Suspend…"), permissions=["moderate"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Score]) -> HttpResponse | None:
        return self._switch(request, queryset, moderation.suspend, _("Suspend these players?"))

    @admin.action(description=_("Reinstate…"), permissions=["moderate"])
    def reinstate(self, request: HttpRequest, queryset: QuerySet[Score]) -> HttpResponse | None:
        return self._switch(request, queryset, moderation.reinstate, _("Reinstate these players?"))

    @admin.action(description=_("Hide from the board…"), permissions=["moderate"])
    def hide(self, request: HttpRequest, queryset: QuerySet[Score]) -> HttpResponse | None:
        return self._switch(request, queryset, moderation.hide, _("Hide these players from the board?"))

    @admin.action(description=_("Show on the board…"), permissions=["moderate"])
    def show(self, request: HttpRequest, queryset: QuerySet[Score]) -> HttpResponse | None:
        return self._switch(request, queryset, moderation.show, _("Show these players on the board?"))

    @admin.action(description=_("Adjust the score…"), permissions=["moderate"])
    def adjust(self, request: HttpRequest, queryset: QuerySet[Score]) -> HttpResponse | None:
        return self._switch(request, queryset, moderation.adjust, _("Adjust these scores?"), AdjustForm)

    def _switch(
        self,
        request: HttpRequest,
        queryset: QuerySet[Score],
        act: Any,
        title: Any,
        form_class: type[ReasonForm] = ReasonForm,
    ) -> HttpResponse | None:
        return self.ask_and_do(
            request, queryset, lambda score, **given: act(player_id=score.player_id, **given), title, form_class
        )


@admin.register(ScoreEntry)
class ScoreEntryAdmin(ActsWithReason):
    list_display = ["id", "player", "points", "score_after", "created_at", "act", "reversed"]
    list_filter = [("act", admin.EmptyFieldListFilter), "created_at"]
    search_fields = ["player__username", "=source"]
    list_select_related = ["player", "act__player", "reversal"]
    show_full_result_count = False
    actions = ["reverse"]

    @admin.display(boolean=True, description=_("reversed"))
    def reversed(self, entry: ScoreEntry) -> bool:
        return hasattr(entry, "reversal")

    @admin.action(description=_("Reverse…"), permissions=["moderate"])
    def reverse(self, request: HttpRequest, queryset: QuerySet[ScoreEntry]) -> HttpResponse | None:
        title = _("Take these awards back?")
        return self.ask_and_do(request, queryset, lambda entry, **given: moderation.reverse(entry=entry, **given), title)


@admin.register(ModerationAct)
class ModerationActAdmin(ReadOnly):
    list_display = ["created_at", "verb", "player", "moderator", "reason"]
    list_filter = ["verb", "created_at"]
    search_fields = ["player__username", "moderator__username", "reason"]
    list_select_related = ["player", "moderator"]


@admin.register(Player)
class PlayerAdmin(UserAdmin):
    """Accounts. Scores are moderated on the score's own page."""

    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Profile"), {"fields": ("email", "avatar_url")}),
        (_("Permissions"), {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    list_display = ("username", "email", "is_active", "is_staff", "date_joined")
    list_filter = ("is_active", "is_staff")
    search_fields = ("username", "email")
    show_full_result_count = False
    readonly_fields = ("last_login", "date_joined")

    def save_model(self, request: HttpRequest, obj: Player, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and {"username", "avatar_url"} & set(form.changed_data):
            moderation.profile_changed(player_id=obj.pk)


@admin.register(SignIn)
class SignInAdmin(ReadOnly):
    """Who is signed in through the API. The tokens themselves are not stored."""

    list_display = ["player", "created_at", "expires_at", "ended_at"]
    list_filter = [("ended_at", admin.EmptyFieldListFilter), "created_at"]
    search_fields = ["player__username"]
    list_select_related = ["player"]
    show_full_result_count = False
    actions = ["end"]

    def has_moderate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("leaderboard.moderate_score")

    @admin.action(description=_("End"), permissions=["moderate"])
    def end(self, request: HttpRequest, queryset: QuerySet[SignIn]) -> None:
        ended = queryset.filter(ended_at=None).update(ended_at=timezone.now())
        self.message_user(request, ngettext("%d ended.", "%d ended.", ended) % ended, messages.SUCCESS)

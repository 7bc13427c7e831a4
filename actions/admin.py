"""Staff's view of the catalogue, of completed actions, and of what looked wrong."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from actions import server_keys
from actions.kinds import KINDS
from actions.models import ActionLog, ActionTally, ActionType, AlertDelivery, Flag, Question, QuizAttempt, ServerKey
from actions.quiz import Quiz
from leaderboard.admin import ReadOnly


class ActionTypeForm(forms.ModelForm):
    """Offers the kinds that there are, and lets the chosen one check the type."""

    verification = forms.ChoiceField(
        choices=lambda: [(kind.kind, kind.label) for kind in KINDS.values()],
        help_text=_("What it takes to be believed. docs/actions.md says what each kind does and which settings it has."),
    )

    class Meta:
        model = ActionType
        fields = [
            "slug",
            "label",
            "description",
            "points",
            "enabled",
            "verification",
            "settings",
            "cooldown_seconds",
            "daily_cap",
        ]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            proposed = ActionType(**cleaned)
            KINDS[proposed.verification].check(proposed)
            cleaned["settings"] = proposed.settings
        return cleaned


class QuestionForm(forms.ModelForm):
    class Meta:
        model = Question
        fields = ["action_type", "text", "right", "wrong"]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        wrong = Question(wrong=cleaned.get("wrong", "")).wrong_answers
        if not 1 <= len(wrong) <= 7 or len({*wrong, cleaned.get("right")}) != len(wrong) + 1:
            raise forms.ValidationError(_("One to seven wrong answers, each different from the others and from the right one."))
        return cleaned


class QuestionInline(admin.StackedInline):
    model = Question
    form = QuestionForm
    extra = 0


@admin.register(ActionType)
class ActionTypeAdmin(admin.ModelAdmin):
    form = ActionTypeForm
    list_display = ["label", "slug", "points", "enabled", "verification", "cooldown_seconds", "daily_cap"]
    list_filter = ["enabled", "verification"]
    search_fields = ["slug", "label"]

    def get_readonly_fields(self, request: HttpRequest, obj: ActionType | None = None) -> list[str]:
        return ["slug"] if obj else []  # completions name it

    def get_inlines(self, request: HttpRequest, obj: ActionType | None) -> list[Any]:
        return [QuestionInline] if obj and obj.verification == Quiz.kind else []


@admin.register(Question)
class QuestionAdmin(admin.ModelAdmin):
    form = QuestionForm
    list_display = ["text", "right", "action_type"]
    list_filter = ["action_type"]
    search_fields = ["text"]
    list_select_related = ["action_type"]


@admin.register(ServerKey)
class ServerKeyAdmin(admin.ModelAdmin):
    """Made here, shown once, revoked here; never edited otherwise, so that a key means today what it meant when it was given."""

    fields = ["name", "action_types", "hint", "created_at", "revoked_at"]
    list_display = ["name", "hint", "created_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter)]
    search_fields = ["name", "=hint"]
    actions = ["revoke"]

    def get_readonly_fields(self, request: HttpRequest, obj: ServerKey | None = None) -> list[str]:
        return ["hint", "created_at", "revoked_at", *(["name", "action_types"] if obj else [])]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        by_server = [kind.kind for kind in KINDS.values() if kind.by_server]
        kwargs["queryset"] = ActionType.objects.filter(verification__in=by_server)
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ServerKey, form: Any, change: bool) -> None:
        if not change:
            obj.made_key = server_keys.new()  # type: ignore[attr-defined]  # for this request only
            obj.hint, obj.key_hash = server_keys.columns(obj.made_key).values()  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Shows the key on the answer itself: as a message it would lie readable in a cookie, or in the session's table."""
        message = _("The key, shown this once: %(key)s") % {"key": obj.made_key}
        context = self.admin_site.each_context(request) | {"title": self.opts.verbose_name_plural, "message": message}
        return TemplateResponse(request, "admin/actions/serverkey/made.html", context)

    @admin.action(description=_("Revoke"), permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ServerKey]) -> None:
        revoked = server_keys.revoke(queryset)
        self.message_user(request, _("%(count)d revoked.") % {"count": revoked})


@admin.register(ActionLog)
class ActionLogAdmin(ReadOnly):
    list_display = ["created_at", "player", "action_type", "points", "occurrence", "server_key", "expires_at", "request_id"]
    list_filter = ["action_type", "created_at"]
    search_fields = ["player__username", "=action_id", "=request_id"]
    list_select_related = ["player", "action_type", "server_key"]
    show_full_result_count = False


@admin.register(QuizAttempt)
class QuizAttemptAdmin(ReadOnly):
    list_display = ["player", "action_type", "started_at", "answered_at", "expires_at"]
    list_filter = ["action_type", "started_at"]
    search_fields = ["player__username", "=id"]
    list_select_related = ["player", "action_type"]
    show_full_result_count = False


@admin.register(ActionTally)
class ActionTallyAdmin(ReadOnly):
    list_display = ["player", "action_type", "day", "count", "last_at"]
    search_fields = ["player__username"]
    list_select_related = ["player", "action_type"]
    show_full_result_count = False


@admin.register(Flag)
class FlagAdmin(ReadOnly):
    list_display = ["raised_at", "kind", "player", "subject", "evidence", "closed_at", "closed_by"]
    list_filter = [("closed_at", admin.EmptyFieldListFilter), "kind"]
    search_fields = ["subject", "player__username"]
    list_select_related = ["player", "closed_by"]
    actions = ["close"]

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("actions.close_flag")

    @admin.action(description=_("Close"), permissions=["close"])
    def close(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        closed = queryset.filter(closed_at=None).update(closed_at=timezone.now(), closed_by=request.user)
        self.message_user(request, _("%(count)d closed.") % {"count": closed})


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnly):
    """Which alerts reached whom, and what went wrong with the others."""

    list_display = ["flag", "channel", "attempts", "due_at", "delivered_at", "error"]
    list_filter = ["channel", ("delivered_at", admin.EmptyFieldListFilter)]
    list_select_related = ["flag"]
    show_full_result_count = False

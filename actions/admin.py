"""Staff's view of the catalogue, of completed actions, and of what looked wrong."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from actions.models import ActionLog, ActionTally, ActionType, Flag
from leaderboard.admin import ReadOnly


@admin.register(ActionType)
class ActionTypeAdmin(admin.ModelAdmin):
    list_display = ["label", "slug", "points", "enabled", "cooldown_seconds", "daily_cap"]
    list_filter = ["enabled"]
    search_fields = ["slug", "label"]

    def get_readonly_fields(self, request: HttpRequest, obj: ActionType | None = None) -> list[str]:
        return ["slug"] if obj else []  # completions name it


@admin.register(ActionLog)
class ActionLogAdmin(ReadOnly):
    list_display = ["created_at", "player", "action_type", "points", "expires_at", "request_id"]
    list_filter = ["action_type", "created_at"]
    search_fields = ["player__username", "=action_id", "=request_id"]
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

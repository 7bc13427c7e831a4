from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

MODERATORS = "Moderators"


def _make_moderators(using: str, **_kwargs: Any) -> None:
    """The group for staff who moderate. Permissions exist only after migrating, so no migration can grant them."""
    from django.contrib.auth.models import Group, Permission

    group, new = Group.objects.using(using).get_or_create(name=MODERATORS)
    if new:
        names = ["moderate_score", "close_flag", "view_score", "view_scoreentry", "view_moderationact", "view_player"]
        names += ["view_flag", "view_alertdelivery", "view_signin", "view_actionlog", "view_actiontally", "view_actiontype"]
        # Not questions and attempts, which show the right answers: moderators play too.
        names += ["view_serverkey"]
        group.permissions.set(Permission.objects.using(using).filter(codename__in=names))


class ActionsConfig(AppConfig):
    name = "actions"

    def ready(self) -> None:
        # Last of the apps, so that all permissions are there.
        post_migrate.connect(_make_moderators, sender=self)

"""What players decide about themselves: how their name is spelled, their picture, and whether public boards show them."""

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from leaderboard import ledger, names
from leaderboard.models import Player, Score


@transaction.atomic
def change(player: Player, *, opted_out: bool) -> None:
    """Save a player whose name or picture was edited and checked, and show it at once. Joins the caller's transaction.

    Being hidden or suspended by moderators stays as it is: `opted_out` is a switch of its own.
    """
    score = Score.objects.select_for_update().get(player_id=player.pk)
    player.save(update_fields=["username", "name_skeleton", "avatar_url"])
    ledger.change(score, opted_out=opted_out)


def check_spelling(player: Player, name: str) -> None:
    """A name may be respelled, never exchanged: nobody can take over what others know another name by.

    Raises: `ValidationError`.
    """
    if names.skeleton(name) != player.name_skeleton:
        raise ValidationError(_("Only the spelling can change, such as capitals and accents."), code="name_other")

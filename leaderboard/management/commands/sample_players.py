"""python manage.py sample_players: what `serve` calls before it starts."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from leaderboard import ledger, sample_players
from leaderboard.models import ModerationAct, Player
from scoreboard_project import engines

COUNT = 40


class Command(BaseCommand):
    help = "Make the sample players, and one sample sign-in for a player and one for a member of staff (embedded engines only)."

    def handle(self, *args: Any, **options: Any) -> None:
        players = sample_players.make(sample_players.names(COUNT))
        self._sign_ins()
        new = [player for player in players if not player.entries.exists()]
        clerk, _ = Player.objects.get_or_create(username="seeding", defaults={"is_active": False, "password": "!"})
        # Close together, so that a single action moves somebody into the top 10; earned over weeks, so that boards have a past.
        shares = [sample_players.shares(1_000 + 3 * number, seed=number) for number in range(len(new))]
        now = timezone.now()
        with transaction.atomic():
            for round_, days_ago in enumerate(sample_players.DAYS_AGO):
                at = now - timedelta(days=days_ago)
                acts = {
                    ModerationAct(
                        verb="adjust", player=player, moderator=clerk, reason="score of a sample player", created_at=at
                    ): share[round_]
                    for player, share in zip(new, shares, strict=True)
                    if share[round_]
                }
                if acts:
                    ModerationAct.objects.bulk_create(acts)
                    ledger.open_accounts([(act.player_id, act.id, points) for act, points in acts.items()], at)

    def _sign_ins(self) -> None:
        if not settings.EMBEDDED_POSTGRES:
            return  # nobody's own database gets an account that they did not ask for
        secrets = engines.secrets(settings.DATA_DIR)
        for name, key, staff in (("sample", "SAMPLE_PLAYER_PASSWORD", False), ("staff", "SAMPLE_STAFF_PASSWORD", True)):
            player, new = Player.objects.get_or_create(username=name, defaults={"is_staff": staff})
            if new or not player.check_password(secrets[key]):
                player.set_password(secrets[key])
                player.save()
            if staff:
                player.groups.add(Group.objects.get(name="Moderators"))

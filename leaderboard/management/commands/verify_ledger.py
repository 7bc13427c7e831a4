"""python manage.py verify_ledger"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from leaderboard import board, healing
from leaderboard.models import Score, ScoreEntry
from scoreboard_project.redis_client import Down


class Command(BaseCommand):
    help = "Exit 1 with a list where a score is not the sum of its ledger, or the Redis leaderboard disagrees."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if board.watermark() is None:  # nobody serves, so nobody has built it yet
                healing.rebuild()
            wrong = healing.disagreements()
        except Down as exc:
            raise CommandError(f"Redis does not answer ({type(exc).__name__}): start it, then ask again.") from exc
        for sentence in wrong:
            self.stdout.write(sentence)
        lines, players = ScoreEntry.objects.count(), Score.objects.count()
        if wrong:
            raise CommandError(f"{len(wrong)} disagreements in {lines:,} ledger lines of {players:,} players")
        self.stdout.write(f"{lines:,} ledger lines of {players:,} players: every score and every rank is right")

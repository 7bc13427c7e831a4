"""python manage.py mint_tokens --players 1000 > tokens.jsonl"""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from leaderboard import sample_players
from scoreboard_project import sign_in


class Command(BaseCommand):
    help = "Print access tokens of N sample players, made if missing, as JSON lines (for load tools)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--players", type=int, required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        for player in sample_players.make([f"load-{number}" for number in range(options["players"])]):
            token = sign_in.access_for(player.pk, player.access_epoch)
            line = {"userId": str(player.pk), "username": player.username, "token": token}
            self.stdout.write(json.dumps(line))

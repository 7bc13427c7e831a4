"""python manage.py seed_players --players 100000"""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from leaderboard import healing, sample_players


class Command(BaseCommand):
    help = "Make N sample players with scores, in bulk, in PostgreSQL and Redis."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--players", type=int, required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.perf_counter()
        for done in sample_players.seed(options["players"]):
            self.stdout.write(f"\r{done:,} players", ending="")
            self.stdout.flush()
        healing.rebuild()
        self.stdout.write(f"\r{options['players']:,} players made and on the board, in {time.perf_counter() - started:.1f} s")

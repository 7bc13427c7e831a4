"""python manage.py rebuild_leaderboard"""

import time
from typing import Any

from django.core.management.base import BaseCommand

from leaderboard import healing


class Command(BaseCommand):
    help = "Make the Redis leaderboard anew from the ledger's scores and swap it in, while it is being served."

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.perf_counter()
        count = healing.rebuild()
        self.stdout.write(f"{count:,} players on the board, in {time.perf_counter() - started:.1f} s")

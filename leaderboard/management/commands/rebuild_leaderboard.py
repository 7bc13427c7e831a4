"""python manage.py rebuild_leaderboard"""

import time
from typing import Any

from django.core.management.base import BaseCommand

from leaderboard import closing, healing


class Command(BaseCommand):
    help = "Count the periods anew from the ledger, make the Redis boards from SQL and swap them in, all while serving."

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.perf_counter()
        if miscounted := closing.recount():
            self.stdout.write(f"{miscounted:,} players' points of the latest day, week or month were counted anew")
        count = healing.rebuild()
        self.stdout.write(f"{count:,} players on the board, in {time.perf_counter() - started:.1f} s")

"""python manage.py rebuild_leaderboard"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection

from leaderboard import closing, healing


class Command(BaseCommand):
    help = "Count the periods anew from the ledger, make the Redis boards from SQL and swap them in, all while serving."

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.perf_counter()
        # PostgreSQL counts while this process writes. Mostly all is right; else they are made once more.
        with ThreadPoolExecutor(max_workers=1) as beside:
            counting = beside.submit(_needs_recount)
            count = healing.rebuild()
            wrong = counting.result()
        if wrong:
            miscounted = closing.recount()
            count = healing.rebuild()
            self.stdout.write(f"{miscounted:,} players' points of the latest day, week or month were counted anew")
        self.stdout.write(f"{count:,} players on the board, in {time.perf_counter() - started:.1f} s")


def _needs_recount() -> bool:
    try:
        return closing.needs_recount()
    finally:
        connection.close()

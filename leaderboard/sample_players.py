"""Players who are nobody: for a first look, for load tools, for measuring growth."""

import random
import uuid
from collections.abc import Iterator

from django.contrib.auth.hashers import make_password
from django.db import connection, transaction

from leaderboard import ledger
from leaderboard.models import ModerationAct, Player
from leaderboard.names import skeleton

_FIRST = [
    "Amber",
    "Bold",
    "Calm",
    "Deep",
    "Eager",
    "Fair",
    "Glad",
    "Hazel",
    "Iris",
    "Jolly",
    "Keen",
    "Lunar",
    "Merry",
    "Noble",
    "Opal",
    "Proud",
    "Quick",
    "Ruby",
    "Swift",
    "Tidal",
]
_LAST = [
    "Badger",
    "Comet",
    "Dolphin",
    "Ember",
    "Falcon",
    "Gecko",
    "Heron",
    "Ibis",
    "Jaguar",
    "Kestrel",
    "Lynx",
    "Marten",
    "Newt",
    "Otter",
    "Puffin",
    "Raven",
]


def names(count: int) -> list[str]:
    """`count` different names, the same ones each time."""
    pairs = [f"{first}{last}" for first in _FIRST for last in _LAST]
    random.Random(7).shuffle(pairs)
    return pairs[:count]


def make(usernames: list[str]) -> list[Player]:
    """These players, made where missing. They have no usable password."""
    unusable = make_password(None)
    Player.objects.bulk_create(
        [Player(username=name, name_skeleton=skeleton(name), password=unusable) for name in usernames],
        ignore_conflicts=True,
        batch_size=1_000,
    )
    found = {player.username: player for player in Player.objects.filter(username__in=usernames)}
    return [found[name] for name in usernames]


def seed(count: int, *, prefix: str = "seed") -> Iterator[int]:
    """Make players with scores, in bulk; each score is one line of the ledger, with an act that says where it came from.

    Yields: how many are done so far.
    """
    clerk, _ = Player.objects.get_or_create(username="seeding", defaults={"is_active": False, "password": make_password(None)})
    rng = random.Random(11)
    size = 5_000
    for start in range(0, count, size):
        rows = [
            (
                uuid.uuid4(),
                uuid.uuid4(),
                f"{prefix}-{start + i}-{uuid.uuid4().hex[:6]}",
                int(rng.paretovariate(1.2) * 100) % 2**40,
            )
            for i in range(min(size, count - start))
        ]
        with transaction.atomic():
            Player.objects.bulk_create(
                [Player(id=player, username=name, name_skeleton=skeleton(name), password="!") for player, _, name, _ in rows]
            )
            ModerationAct.objects.bulk_create(
                [
                    ModerationAct(id=act, verb="adjust", player_id=player, moderator=clerk, reason="seeded sample score")
                    for player, act, _, _ in rows
                ]
            )
            ledger.open_accounts([(player, act, points) for player, act, _, points in rows])
        yield start + len(rows)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE leaderboard_player, leaderboard_score, leaderboard_scoreentry")

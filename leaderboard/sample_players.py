"""Players who are nobody: for a first look, for load tools, for measuring growth."""

import random
import uuid
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.hashers import make_password
from django.db import connection, models, transaction

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


DAYS_AGO = (80, 50, 35, 20, 9, 6, 3, 1, 0)  # when sample players have played


def shares(total: int, *, seed: int) -> list[int]:
    """That many points, spread over `DAYS_AGO`; little or nothing of it today, where there is to be room for what happens now."""
    rng = random.Random(seed)
    today = rng.choice([0, 0, 10, 50, 60])
    weights = [rng.randint(0, 9) for _ in DAYS_AGO[:-1]]
    points = [(total - today) * weight // (sum(weights) or 1) for weight in weights]
    points[0] += total - today - sum(points)
    return [*points, today]


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
            # Accounts first (foreign keys are checked at the end): the trigger that gives each player a score then finds it.
            ledger.open_accounts([(player, act, points) for player, act, _, points in rows])
            players, acts, usernames, _points = map(list, zip(*rows, strict=True))
            skeletons = [skeleton(name) for name in usernames]
            _insert_many(Player(password="!"), id=players, username=usernames, name_skeleton=skeletons)
            _insert_many(ModerationAct(verb="adjust", moderator=clerk, reason="seeded sample score"), id=acts, player_id=players)
        yield start + len(rows)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE leaderboard_player, leaderboard_score, leaderboard_scoreentry")


def _insert_many(like: models.Model, **varying: list[Any]) -> None:
    """Rows that differ in some columns only, in one statement: `bulk_create` takes ten times the CPU for as many objects."""
    fields = {str(field.column): field for field in like._meta.concrete_fields if not field.has_db_default()}
    fixed = [name for name in fields if name not in varying]
    values = [fields[name].get_db_prep_save(fields[name].pre_save(like, True), connection) for name in fixed]
    types = {name: str(field.db_type(connection)) for name, field in fields.items()}
    sql = (
        f"INSERT INTO {like._meta.db_table} ({', '.join((*varying, *fixed))}) "  # noqa: S608 (names from the model)
        f"SELECT many.*, {', '.join(f'%s::{types[name]}' for name in fixed)} "
        f"FROM unnest({', '.join(f'%s::{types[name]}[]' for name in varying)}) AS many"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [*values, *varying.values()])

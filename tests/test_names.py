"""Names: readable, of one script, and not to be mistaken for another player's."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from leaderboard import names
from leaderboard.models import Player
from tests.conftest import make_player


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "Ada_Lovelace",
        "x-1.2",
        "Zoë",
        "Ωραία",
        "Мария",
        "山田たろう",
        "김철수",
        "علي",
        "スーパー",
        "佐々木",
        "o" * 32,
        "नमस्ते",
    ],
)
def test_a_name_in_any_one_script_is_fine(name):
    assert names.clean(name)


@pytest.mark.parametrize(
    ("name", "code"),
    {
        "": "name_length",
        "x" * 33: "name_length",
        "two words": "name_characters",
        "tab\tbed": "name_characters",
        "line\nbreak": "name_characters",
        "zero\u200bwidth": "name_characters",
        "turned\u202earound": "name_characters",
        "nul\x00": "name_characters",
        "esc\x1b[31m": "name_characters",
        "emoji\U0001f600": "name_characters",
        "<img>": "name_characters",
        "=1+1": "name_characters",
        "{{7*7}}": "name_characters",
        "'; DROP": "name_characters",
        ".": "name_ends",
        "..": "name_ends",
        "-x": "name_ends",
        "x_": "name_ends",
        "Z" + "\u0317\u0324\u032c" * 3: "name_marks",
        "\u3164": "name_invisible",
        "\u115f": "name_invisible",
        "ali\u034fce": "name_invisible",
        "alice\ufe0f": "name_invisible",
        "al\U000e0100ice": "name_invisible",
        "ali\u17b4ce": "name_invisible",
        "ꓮꓡꓲꓚꓰ": "name_scripts",  # Lisu, whose letters are Latin capitals
        "ᴀᴅᴀ": "name_scripts",
        "pаypal": "name_scripts",  # with a Cyrillic а
        "Ωlive": "name_scripts",
        "admin": "name_reserved",
        "ADMIN": "name_reserved",
        "ａｄｍｉｎ": "name_reserved",  # full width: NFKC makes it plain
        "adm1n": "name_reserved",
        "Modérator": "name_reserved",
    }.items(),
)
def test_every_other_name_is_refused_with_what_to_change(name, code):
    with pytest.raises(ValidationError) as refused:
        names.clean(name)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("alice", "ALICE"),
        ("Alice", "AIice"),
        ("ace", "асе"),
        ("l0ve", "love"),
        ("zoe", "Zoë"),
        ("mint", "rnint"),
        ("wow", "vvovv"),
    ],
)
def test_a_name_that_looks_like_another_s_is_refused_by_the_database(world, name, twin):
    make_player(name)
    with pytest.raises(IntegrityError, match="name_skeleton"), transaction.atomic():
        make_player(twin)


def test_a_form_says_why(world):
    make_player("alice")
    with pytest.raises(ValidationError, match="looks too much like"):
        Player(username="AIice", password="x").full_clean()


def test_a_name_is_kept_in_its_normal_form(world):
    assert make_player("ｆｕｌｌ").username == "full"

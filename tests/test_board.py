"""The Redis copy: PostgreSQL's order exactly, guarded by revision, `seq` only upwards; thrown away and made again."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderboard import board, board_rebuild, healing, ledger, reading
from leaderboard.models import MAX_SCORE, Player, Score
from scoreboard_project.redis_client import client
from tests.conftest import make_player

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
ALICE, BOB, CAROL = (uuid.UUID(int=number) for number in (1, 2, 3))


def standing(
    player: uuid.UUID, points: int, *, revision: int = 1, at: datetime = NOON, listed: bool = True, name: str = ""
) -> board.Standing:
    return board.Standing(player, revision, points, at, listed, name or f"p{player.int}", None)


@pytest.fixture
def empty(world):
    return None


def order() -> list[tuple[uuid.UUID, int]]:
    return [(uuid.UUID(row["userId"]), row["score"]) for row in board.top(100).rows]


def test_a_late_old_revision_changes_nothing(empty):
    board.place([standing(ALICE, 20, revision=2)])
    placed = board.place([standing(ALICE, 10, revision=1)])
    assert order() == [(ALICE, 20)]
    assert not placed.changed
    assert placed.ranks == [1]


def test_of_equal_scores_the_earlier_one_ranks_first_then_the_smaller_id(empty):
    later = NOON + timedelta(microseconds=1)
    board.place([standing(CAROL, 50), standing(BOB, 50), standing(ALICE, 50, at=later)])
    assert [player for player, _ in order()] == [BOB, CAROL, ALICE]


def test_scores_are_exact_up_to_what_a_double_holds(empty):
    board.place([standing(ALICE, MAX_SCORE - 1), standing(BOB, MAX_SCORE), standing(CAROL, 1)])
    assert order() == [(BOB, MAX_SCORE), (ALICE, MAX_SCORE - 1), (CAROL, 1)]


def test_a_player_who_is_not_listed_is_nowhere_to_be_seen(empty):
    board.place([standing(ALICE, 50), standing(BOB, 40)])
    placed = board.place([standing(ALICE, 50, revision=2, listed=False)])
    assert placed.changed
    assert placed.ranks == [None]
    assert order() == [(BOB, 40)]
    assert board.standings([ALICE, BOB, CAROL]) == [(None, 50), (1, 40), (None, None)]


def test_seq_rises_with_every_change_of_the_top_10_and_with_no_other(empty):
    players = [uuid.UUID(int=number) for number in range(10, 22)]
    first = board.place([standing(player, 1000 - number) for number, player in enumerate(players)])
    outside = board.place([standing(players[11], 900, revision=2)])
    assert (outside.changed, outside.seq, outside.ranks) == (False, first.seq, [12])
    inside = board.place([standing(players[11], 2000, revision=3)])
    assert inside.changed
    assert inside.seq > first.seq
    assert inside.ranks == [1]


def test_a_new_name_is_a_change_of_the_picture(empty):
    first = board.place([standing(ALICE, 50, name="old name")])
    renamed = board.place([standing(ALICE, 50, revision=2, name='new "näme" with spaces')])
    assert renamed.changed
    assert renamed.seq > first.seq
    assert board.top().rows[0]["username"] == 'new "näme" with spaces'


def test_ranks_are_those_after_the_whole_batch(empty):
    placed = board.place([standing(ALICE, 10), standing(BOB, 30), standing(CAROL, 20)])
    assert placed.ranks == [3, 1, 2]


def test_without_its_watermark_the_board_is_cold_and_nothing_is_written_to_it(empty):
    client().flushdb()
    for use in (lambda: board.place([standing(ALICE, 1)]), board.top, lambda: board.standings([ALICE])):
        with pytest.raises(board.Cold):
            use()
    assert client().keys("{board}*") == []


def test_seq_never_falls_not_even_across_a_flush_or_a_rebuild(empty):
    seen = [board.place([standing(ALICE, 1)]).seq]
    seen.append(board_rebuild.rebuild([[standing(ALICE, 1)]], NOON))
    client().flushdb()
    seen.append(board_rebuild.rebuild([[standing(ALICE, 1)]], NOON))
    seen += [board.place([standing(ALICE, revision, revision=revision)]).seq for revision in range(2, 50)]
    assert seen == sorted(set(seen))


def test_a_rebuild_replaces_everything_at_once_and_leaves_nothing_behind(empty):
    board.place([standing(ALICE, 10)])
    board_rebuild.rebuild([[standing(BOB, 5)], [standing(CAROL, 7)]], NOON)
    assert order() == [(CAROL, 7), (BOB, 5)]
    assert board.watermark() == board.microseconds(NOON)
    assert sorted(key.decode() for key in client().keys("{board}*")) == sorted(board.KEYS)
    assert client().ttl(board.ORDER) == client().ttl(board.PLAYERS) == -1


def test_a_script_flush_or_a_restarted_server_is_survived(empty):
    board.place([standing(ALICE, 1)])
    client().script_flush()
    assert board.place([standing(ALICE, 2, revision=2)]).changed


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.sampled_from([0, 1, 50, 100, MAX_SCORE]), st.integers(0, 3), *[st.booleans()] * 3), max_size=14)
)
def test_redis_has_the_order_of_the_sql_index_ties_included(empty, rows):
    Player.objects.all().delete()
    for number, (points, second, *switches) in enumerate(rows):
        player = make_player(f"player{number}")
        fields = dict(zip(("hidden", "suspended", "opted_out"), switches, strict=True))
        Score.objects.filter(player=player).update(
            total_score=points, revision=1, reached_at=NOON + timedelta(seconds=second), **fields
        )
    healing.rebuild()
    listed = Score.objects.filter(total_score__gt=0, hidden=False, suspended=False, opted_out=False)
    in_sql = list(listed.order_by("-total_score", "reached_at", "player_id").values_list("player_id", "total_score"))
    assert order() == in_sql
    placed = board.place(
        [ledger.standing(score) for score in Score.objects.select_related("player")] or [standing(ALICE, 0, listed=False)]
    )
    assert not placed.changed
    for rank, (player_id, points) in enumerate(in_sql, start=1):
        assert board.standings([player_id]) == [(rank, points)]


def test_while_redis_is_cold_postgresql_gives_the_same_answers(alice, bob, mallory):
    for player, points in ((alice, 30), (bob, 30), (mallory, 50)):
        Score.objects.filter(player=player).update(total_score=points, revision=1)
    healing.rebuild()
    everyone = (alice, bob, mallory, make_player("newcomer"))
    from_redis = reading.top(10).rows, [reading.standing(player.pk) for player in everyone]
    client().flushdb()
    from_sql = reading.top(10).rows, [reading.standing(player.pk) for player in everyone]
    assert from_redis == from_sql
    assert from_redis[1][3] == (None, None)

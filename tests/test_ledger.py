"""The ledger: append-only, exact, the sum of it being the score; staff's corrections as new lines with a reason."""

import uuid

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actions.models import ActionType
from leaderboard import board, healing, ledger, moderation
from leaderboard.models import MAX_SCORE, ModerationAct, Player, Score, ScoreEntry
from scoreboard_project.errors import Conflict
from scoreboard_project.redis_client import client
from tests.conftest import EMPTYING_GUARDS

WHY = "a good reason"
_AWARD = ledger.award_statement(
    "SELECT 1 AS i, %(source)s::uuid AS source, %(player)s::uuid AS player_id, %(points)s AS points, NULL::text AS refusal"
)


def award(player: Player, points: int, source: uuid.UUID | None = None) -> ledger.Line:
    return ledger.award(_AWARD, {"source": source or uuid.uuid4(), "player": player.pk, "points": points}, ["test"])[1]


def total(player: Player) -> int:
    return Score.objects.get(player=player).total_score


def test_every_player_has_a_score_from_the_first_moment_on(alice):
    assert (alice.score.total_score, alice.score.revision) == (0, 0)
    [player] = Player.objects.bulk_create([Player(username="in-bulk", password="!")])
    assert Score.objects.filter(player=player).exists()


def test_an_award_is_a_line_and_a_score_and_a_place_on_the_board(alice, bob):
    award(bob, 500)
    line = award(alice, 100)
    assert (line.verdict, line.points, line.score_after, line.rank) == ("paid", 100, 100, 2)
    entry = ScoreEntry.objects.get(player=alice)
    assert (entry.points, entry.score_after, entry.act, entry.reverses) == (100, 100, None, None)
    score = Score.objects.get(player=alice)
    assert (score.total_score, score.revision, score.reached_at) == (100, 1, entry.created_at)
    assert board.standings([alice.pk]) == [(2, 100)]


def test_one_source_pays_once_for_ever(alice):
    source = uuid.uuid4()
    assert award(alice, 100, source).verdict == "paid"
    again = award(alice, 100, source)
    assert (again.verdict, again.points, again.score_after) == ("used", 100, 100)
    with pytest.raises(IntegrityError, match="entry_source_counts_once"):
        ScoreEntry.objects.create(player=alice, points=1, score_after=101, source=source)


@pytest.mark.parametrize("table", ["leaderboard_scoreentry", "leaderboard_moderationact"])
@pytest.mark.parametrize("change", ["UPDATE {} SET player_id = player_id", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_history_cannot_be_rewritten_not_even_in_sql(alice, moderator, table, change):
    award(alice, 100)
    moderation.adjust(player_id=alice.pk, points=5, moderator=moderator, reason=WHY)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        for guarded, trigger in EMPTYING_GUARDS:
            cursor.execute(f"ALTER TABLE {guarded} ENABLE TRIGGER {trigger}")
        cursor.execute(change.format(table))
    assert ScoreEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("constraint", "fields"),
    [
        ("entry_is_award_reversal_or_adjustment", {"points": 0}),
        ("entry_is_award_reversal_or_adjustment", {"points": -5}),
        ("entry_score_after_is_exact", {"points": 5, "score_after": -1}),
        ("entry_score_after_is_exact", {"points": 5, "score_after": MAX_SCORE + 1}),
    ],
)
def test_the_database_refuses_a_line_that_makes_no_sense(alice, constraint, fields):
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        ScoreEntry.objects.create(**{"player": alice, "source": uuid.uuid4(), "score_after": 5, **fields})


@pytest.mark.parametrize("score", [-1, MAX_SCORE + 1])
def test_the_database_refuses_a_score_that_no_double_holds_exactly(alice, score):
    with pytest.raises(IntegrityError, match="score_is_exact_and_not_negative"), transaction.atomic():
        Score.objects.filter(player=alice).update(total_score=score)


@pytest.mark.parametrize("points", [0, 10_001])
def test_an_action_pays_between_1_and_10000(world, points):
    with pytest.raises(IntegrityError, match="action_type_pays_1_to_10000"), transaction.atomic():
        ActionType.objects.create(slug="x", label="x", points=points)


def test_an_act_without_a_reason_or_of_an_unknown_verb_is_refused(alice, moderator):
    for constraint, fields in (("act_has_a_reason", {"reason": "  "}), ("act_verb_is_known", {"verb": "bless"})):
        values = {"verb": "suspend", "player": alice, "moderator": moderator, "reason": WHY, **fields}
        with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
            ModerationAct.objects.create(**values)
    for own in (moderation.suspend, moderation.reinstate, moderation.hide, moderation.show):
        with pytest.raises((moderation.OwnScore, moderation.NothingToDo)):
            own(player_id=moderator.pk, moderator=moderator, reason=WHY)
    with pytest.raises(moderation.OwnScore):
        moderation.adjust(player_id=moderator.pk, points=5, moderator=moderator, reason=WHY)
    with pytest.raises(moderation.ReasonMissing):
        moderation.suspend(player_id=alice.pk, moderator=moderator, reason=" \n")
    assert not Score.objects.get(player=alice).suspended


def test_an_award_is_reversed_once_with_a_line_that_says_so(alice, moderator):
    award(alice, 100)
    award(alice, 50)
    entry = ScoreEntry.objects.get(points=100)
    reversal = moderation.reverse(entry=entry, moderator=moderator, reason=WHY)
    assert (reversal.points, reversal.score_after, reversal.reverses) == (-100, 50, entry)
    assert (reversal.act.verb, reversal.act.reason, reversal.act.moderator) == ("reverse", WHY, moderator)
    assert board.standings([alice.pk]) == [(1, 50)]
    with pytest.raises(ledger.AlreadyReversed):
        moderation.reverse(entry=entry, moderator=moderator, reason=WHY)
    with pytest.raises(Conflict):
        moderation.reverse(entry=reversal, moderator=moderator, reason=WHY)
    assert (ModerationAct.objects.count(), total(alice)) == (1, 50)


def test_a_correction_goes_neither_below_zero_nor_above_the_limit(alice, moderator):
    award(alice, 100)
    with pytest.raises(ledger.BelowZero):
        moderation.adjust(player_id=alice.pk, points=-101, moderator=moderator, reason=WHY)
    with pytest.raises(Conflict):
        moderation.adjust(player_id=alice.pk, points=MAX_SCORE, moderator=moderator, reason=WHY)
    with pytest.raises(Conflict):
        moderation.adjust(player_id=alice.pk, points=0, moderator=moderator, reason=WHY)
    assert (total(alice), ModerationAct.objects.count()) == (100, 0)
    moderation.adjust(player_id=alice.pk, points=-100, moderator=moderator, reason=WHY)
    assert total(alice) == 0
    assert board.top().rows == []


def test_suspending_hiding_and_their_opposites_move_the_board_and_keep_the_points(alice, bob, moderator):
    award(alice, 100)
    award(bob, 50)
    for off, on in ((moderation.suspend, moderation.reinstate), (moderation.hide, moderation.show)):
        off(player_id=alice.pk, moderator=moderator, reason=WHY)
        assert [row["username"] for row in board.top().rows] == ["bob"]
        with pytest.raises(moderation.NothingToDo):
            off(player_id=alice.pk, moderator=moderator, reason=WHY)
        on(player_id=alice.pk, moderator=moderator, reason=WHY)
        assert [row["username"] for row in board.top().rows] == ["alice", "bob"]
    assert total(alice) == 100
    assert list(ModerationAct.objects.values_list("verb", flat=True).order_by("created_at")) == [
        "suspend",
        "reinstate",
        "hide",
        "show",
    ]


def test_a_hidden_player_goes_on_earning_unseen(alice, moderator):
    award(alice, 100)
    moderation.hide(player_id=alice.pk, moderator=moderator, reason=WHY)
    line = award(alice, 10)
    assert (line.verdict, line.score_after, line.rank) == ("paid", 110, None)


def test_points_are_safe_while_redis_is_away(alice, monkeypatch):
    def away(*_args, **_kwargs):
        raise redis.ConnectionError("away")

    monkeypatch.setattr(board, "script", lambda _lua: away)
    line = award(alice, 100)
    assert (line.verdict, line.score_after, line.rank) == ("paid", 100, None)
    monkeypatch.undo()
    assert board.standings([alice.pk]) == [(None, None)]
    assert healing.heal() == 1
    assert board.standings([alice.pk]) == [(1, 100)]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["award", "reverse", "adjust", "suspend", "reinstate", "flush"]), st.integers(-300, 300)),
        max_size=15,
    )
)
def test_whatever_happens_a_score_is_the_sum_of_its_ledger_and_the_board_agrees(alice, moderator, steps):
    for step, number in steps:
        try:
            if step == "award":
                award(alice, abs(number) + 1)
            elif step == "reverse" and (entry := ScoreEntry.objects.filter(player=alice, act=None).order_by("?").first()):
                moderation.reverse(entry=entry, moderator=moderator, reason=WHY)
            elif step == "adjust":
                moderation.adjust(player_id=alice.pk, points=number, moderator=moderator, reason=WHY)
            elif step in ("suspend", "reinstate"):
                getattr(moderation, step)(player_id=alice.pk, moderator=moderator, reason=WHY)
            elif step == "flush":
                client().flushdb()
                healing.heal()
        except Conflict:
            pass
    assert healing.disagreements() == []
    assert total(alice) == sum(ScoreEntry.objects.filter(player=alice).values_list("points", flat=True))


def test_verify_ledger_finds_a_score_that_is_not_its_ledger_and_a_board_that_lies(alice, bob, capsys):
    award(alice, 100)
    award(bob, 50)
    call_command("verify_ledger")
    Score.objects.filter(player=alice).update(total_score=101)
    with pytest.raises(CommandError):
        call_command("verify_ledger")
    assert "alice: score 101, but the ledger adds up to 100" in capsys.readouterr().out
    Score.objects.filter(player=alice).update(total_score=100)
    client().zadd(board.ORDER, {f"{0:016x}{bob.pk.hex}": -10_000})
    with pytest.raises(CommandError):
        call_command("verify_ledger")
    call_command("rebuild_leaderboard")
    call_command("verify_ledger")


def test_sample_players_come_with_a_ledger_and_a_place(world, capsys):
    call_command("seed_players", players=250)
    call_command("sample_players")
    call_command("sample_players")  # again: nothing twice
    call_command("rebuild_leaderboard")
    call_command("verify_ledger")
    assert Score.objects.filter(total_score__gt=0).count() == 250 + 40
    call_command("mint_tokens", players=3)
    assert capsys.readouterr().out.count('"token": "eyJ') == 3

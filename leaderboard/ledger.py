"""The only writer of points. A score is the sum of its ledger lines; what this module returns is committed.

Awards come in batches, one statement a batch (`award`); corrections by staff one at a time (`correct`). After either the
board is told and the sockets hear of it; if Redis is away, the reconciler does so later, and nobody's request fails.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Greatest, Now

from leaderboard import board, closing, live
from leaderboard.models import MAX_SCORE, BestRank, ModerationAct, Player, Score, ScoreEntry
from leaderboard.periods import KINDS, containing, start_in_sql
from scoreboard_project import metrics
from scoreboard_project.db import run_statement
from scoreboard_project.errors import Conflict
from scoreboard_project.redis_client import Down

# {claims} yields: i, source, player_id, points, refusal (NULL: may be paid). One line a player and batch: `held` locks the
# players' scores, leaving out those that another transaction holds (they are "busy", and so is a player's second line),
# because waiting for one player would make everybody wait. Only the line whose `turn` it was is told "paid": the same source may
# be asked for twice in a batch. ON CONFLICT is the last guard: no source ever counts twice.
# A player's lines are never stamped earlier than the one before, though a batch that began first may get its locks last: so
# what was earned in the latest day, week and month is kept in the score's own row, and these only ever move on.
# The request id becomes the transaction's application_name, for pg_stat_activity and PostgreSQL's own log.
_AWARD = """
WITH claim AS MATERIALIZED ({claims}),
named AS MATERIALIZED (SELECT set_config('application_name', %(request_id)s, true)),
held AS MATERIALIZED (
    SELECT player_id, total_score, suspended, reached_at FROM leaderboard_score
    WHERE player_id = ANY (ARRAY(SELECT player_id FROM claim WHERE refusal IS NULL))
    ORDER BY player_id FOR NO KEY UPDATE SKIP LOCKED
),
judged AS MATERIALIZED (
    SELECT c.i, c.source, c.player_id, c.points, h.total_score, greatest(now(), h.reached_at) AS stamp, p.username, p.avatar_url,
           e.points AS used_points, e.score_after AS used_score, e.created_at AS used_at,
           CASE WHEN c.refusal IS NOT NULL THEN c.refusal
                WHEN e.source IS NOT NULL THEN 'used'
                WHEN NOT p.is_active THEN 'inactive'
                WHEN h.player_id IS NULL THEN 'busy'
                WHEN h.suspended THEN 'suspended'
                WHEN h.total_score + c.points > {max_score} THEN 'full'
           END AS refusal
    FROM named, claim c
    LEFT JOIN leaderboard_player p ON p.id = c.player_id
    LEFT JOIN leaderboard_scoreentry e ON e.source = c.source
    LEFT JOIN held h ON h.player_id = c.player_id
),
turn AS MATERIALIZED (SELECT DISTINCT ON (player_id) * FROM judged WHERE refusal IS NULL ORDER BY player_id, i),
entry AS (
    INSERT INTO leaderboard_scoreentry (player_id, points, score_after, source, created_at)
    SELECT player_id, points, total_score + points, source, stamp FROM turn
    ON CONFLICT (source) DO NOTHING
    RETURNING player_id, points, score_after, source, created_at
),
moved AS (
    UPDATE leaderboard_score s
    SET total_score = entry.score_after, revision = s.revision + 1, reached_at = entry.created_at, updated_at = now(),
        earned_at = entry.created_at, {in_periods}
    FROM entry WHERE s.player_id = entry.player_id
    RETURNING s.player_id, s.revision, s.hidden OR s.opted_out AS unlisted, s.day_points, s.week_points, s.month_points
)
SELECT j.i, j.player_id, j.username, j.avatar_url, m.revision, m.unlisted, m.day_points, m.week_points, m.month_points,
       CASE WHEN n.source IS NOT NULL THEN 'paid' ELSE coalesce(j.refusal, 'busy') END AS verdict,
       coalesce(n.points, j.used_points) AS points,
       coalesce(n.score_after, j.used_score) AS score_after,
       coalesce(n.created_at, j.used_at) AS created_at
FROM judged j LEFT JOIN turn t ON t.i = j.i LEFT JOIN entry n ON n.source = t.source
LEFT JOIN moved m ON m.player_id = n.player_id
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one claim.

    Attributes:
        verdict: `paid`; `used` (this source was paid before: the other fields say what for); `busy` (ask again);
            `inactive`, `suspended`, `full`; or the refusal that the claims query gave.
        points, score_after, created_at: of the ledger line, where there is one.
        rank: the place on the public board now; None where the board does not show or does not know it.
    """

    verdict: str
    player_id: uuid.UUID
    points: int = 0
    score_after: int = 0
    created_at: datetime | None = None
    rank: int | None = None


class BelowZero(Conflict):
    """A correction may not take more points than the player has."""

    message = "That would take the score below zero."


class AlreadyReversed(Conflict):
    """A ledger line is reversed once."""

    message = "This award has already been reversed."


def award_statement(claims: str) -> str:
    """The one statement that pays a batch. `claims`: a SELECT of i, source, player_id, points, refusal."""
    return _AWARD.format(claims=claims, max_score=MAX_SCORE, in_periods=_added_in_periods("entry.points", "entry.created_at"))


def _added_in_periods(points: str, stamp: str) -> str:
    """SQL that adds points of that moment to what `s` has in its latest periods: it goes on in the same one, or begins anew."""
    return ", ".join(
        f"{kind}_points = {points} + CASE WHEN s.earned_at >= {start_in_sql(kind, stamp)} THEN s.{kind}_points ELSE 0 END"
        for kind in KINDS
    )


def award(statement: str, params: Mapping[str, Any], request_ids: Sequence[str]) -> dict[int, Line]:
    """Pay a batch: one transaction, one statement; then the board and the sockets.

    Args:
        statement: made once by `award_statement`.
        params: for its claims.
        request_ids: of the requests in this batch.

    Returns: the lines by `i`; a claim that the query did not yield is not in it. Raises: `Unavailable`.
    """
    name = request_ids[0] if len(request_ids) == 1 else f"{request_ids[0][:50]}+{len(request_ids) - 1}"
    rows = run_statement(statement, {**params, "request_id": name})
    paid = [row for row in rows if row["verdict"] == "paid"]
    shown = _show([_standing(row) for row in paid], [row["points"] for row in paid]) if paid else []
    ranks = dict(zip([row["i"] for row in paid], shown, strict=True))
    return {
        row["i"]: Line(
            verdict=row["verdict"],
            player_id=row["player_id"],
            points=row["points"] or 0,
            score_after=row["score_after"] or 0,
            created_at=row["created_at"],
            rank=ranks.get(row["i"]),
        )
        for row in rows
    }


def correct(*, act: ModerationAct, points: int, reverses: ScoreEntry | None = None) -> ScoreEntry:
    """Add a staff member's line and move the score. Joins the caller's transaction.

    Args:
        act: the saved act that says who and why; its id is the line's source.
        points: to add; below zero to take away.
        reverses: the award that this line takes back.

    Raises: `BelowZero`, `AlreadyReversed`.
    """
    score = Score.objects.select_for_update().annotate(stamp=Greatest(Now(), "reached_at")).get(player_id=act.player_id)
    if reverses is not None and ScoreEntry.objects.filter(reverses=reverses).exists():
        raise AlreadyReversed
    after = score.total_score + points
    if not 0 <= after <= MAX_SCORE:
        raise BelowZero if after < 0 else Conflict("That would take the score above what it can hold.")
    stamp: datetime = score.stamp
    entry = ScoreEntry.objects.create(
        player_id=act.player_id, points=points, score_after=after, source=act.id, act=act, reverses=reverses, created_at=stamp
    )
    counts_at = stamp if reverses is None else reverses.created_at
    in_periods = _in_periods(score, points, counts_at)
    if reverses is None:
        in_periods["earned_at"] = stamp
    else:
        closing.take_back(reverses.player_id, points, counts_at)
    if points < 0:  # a place that was reached with points that were not due is nothing to be proud of
        BestRank.objects.filter(player_id=act.player_id).delete()
    change(score, gained=points, total_score=after, reached_at=stamp, **in_periods)
    return entry


def _in_periods(score: Score, points: int, counts_at: datetime) -> dict[str, Any]:
    """The fields that change with a line that counts at that moment: the latest day, week and month, where it lies in them."""
    fields: dict[str, Any] = {}
    for kind in KINDS:
        name = f"{kind}_points"
        latest = containing(kind, score.earned_at) if score.earned_at else None
        if latest is None or counts_at >= latest.end:
            fields[name] = points
        elif counts_at >= latest.start:
            fields[name] = getattr(score, name) + points
    return fields


def change(score: Score, *, gained: int = 0, **fields: Any) -> None:
    """Write to a score that is locked (`select_for_update`), and show it once that is committed."""
    Score.objects.filter(pk=score.pk).update(**fields, revision=F("revision") + 1, updated_at=Now())

    def show() -> None:
        _show([standing(Score.objects.select_related("player").get(pk=score.pk))], [gained])

    transaction.on_commit(show, robust=True)


def open_accounts(opening: Sequence[tuple[uuid.UUID, uuid.UUID, int]], at: datetime | None = None) -> None:
    """A ledger line each, in bulk, for sample players: (player, act, points above 0). The board is not told.

    The players are there, or are made later in the same transaction; so are the acts.

    Args:
        at: when the points are to have been earned, later than any line of these players; None: now.
    """
    columns = [list(column) for column in zip(*opening, strict=True)]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO leaderboard_scoreentry (player_id, act_id, source, points, score_after, created_at) "
            "SELECT o.player, o.act, o.act, o.points, coalesce(s.total_score, 0) + o.points, coalesce(%s, statement_timestamp()) "
            "FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS o (player, act, points) "
            "LEFT JOIN leaderboard_score s ON s.player_id = o.player",
            [at, *columns],
        )
        cursor.execute(
            "INSERT INTO leaderboard_score AS s (player_id, total_score, revision, reached_at, earned_at, "
            "day_points, week_points, month_points) "
            "SELECT player_id, score_after, 1, created_at, created_at, points, points, points "
            "FROM leaderboard_scoreentry WHERE source = ANY (%s) "
            "ON CONFLICT (player_id) DO UPDATE SET total_score = excluded.total_score, revision = s.revision + 1, "
            "reached_at = excluded.reached_at, updated_at = now(), earned_at = excluded.earned_at, "
            + _added_in_periods("excluded.day_points", "excluded.earned_at"),
            [columns[1]],
        )


def standings(scores: QuerySet[Score]) -> Iterator[board.Standing]:
    """What the board is to show of many scores, in no order; read past the models, which took twice as long."""
    columns = ["player_id", "revision", "total_score", "reached_at", "suspended", "hidden", "opted_out", "earned_at"]
    columns += ["day_points", "week_points", "month_points", "player__username", "player__avatar_url"]
    for row in scores.values_list(*columns).iterator():
        player_id, revision, points, reached_at, suspended, hidden, opted_out, earned_at, *earned, username, avatar_url = row
        public = not (suspended or hidden or opted_out)
        yield board.Standing(player_id, revision, points, reached_at, public, username, avatar_url, earned_at, tuple(earned))


def standing(score: Score) -> board.Standing:
    """What the board is to show of a score (its `player` already fetched)."""
    player: Player = score.player
    return board.Standing(
        score.player_id,
        score.revision,
        score.total_score,
        score.reached_at,
        score.public,
        player.username,
        player.avatar_url,
        score.earned_at,
        (score.day_points, score.week_points, score.month_points),
    )


def _standing(row: dict[str, Any]) -> board.Standing:
    return board.Standing(
        row["player_id"],
        row["revision"],
        row["score_after"],
        row["created_at"],
        not row["unlisted"],
        row["username"],
        row["avatar_url"],
        row["created_at"],
        (row["day_points"], row["week_points"], row["month_points"]),
    )


def _show(standings: Sequence[board.Standing], gained: Sequence[int]) -> list[int | None]:
    """The new ranks; all None while the board is away or cold. The points are safe by now: nothing here may raise."""
    try:
        placed = board.place(standings)
    except (Down, board.Cold) as exc:
        metrics.board_missed.labels(type(exc).__name__).inc(len(standings))
        placed = board.Placed(seq=0, changed=False, ranks=[None] * len(standings))
    gains = [
        live.Gain(standing.player_id, standing.points, points, rank)
        for standing, points, rank in zip(standings, gained, placed.ranks, strict=True)
        if points
    ]
    # Whoever gains nothing was moderated or renamed: that changes boards of which the answer says nothing.
    live.announce(changed=placed.changed or 0 in gained, gains=gains)
    return placed.ranks

"""What a player earned in their latest day, week and month, kept beside the score; and the standings of periods that are over."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

from leaderboard.periods import start_in_sql

# For scores that were there before: what the ledger says of the day, the week and the month of each player's latest line.
_COUNT = f"""
UPDATE leaderboard_score s
SET earned_at = counted.earned_at, day_points = counted.day, week_points = counted.week, month_points = counted.month
FROM (
    SELECT e.player_id, l.earned_at,
           coalesce(sum(e.points + coalesce(r.points, 0)) FILTER (WHERE e.created_at >= l.day), 0) AS day,
           coalesce(sum(e.points + coalesce(r.points, 0)) FILTER (WHERE e.created_at >= l.week), 0) AS week,
           coalesce(sum(e.points + coalesce(r.points, 0)) FILTER (WHERE e.created_at >= l.month), 0) AS month
    FROM leaderboard_scoreentry e
    JOIN (
        SELECT player_id, max(created_at) AS earned_at, {start_in_sql("day", "max(created_at)")} AS day,
               {start_in_sql("week", "max(created_at)")} AS week, {start_in_sql("month", "max(created_at)")} AS month
        FROM leaderboard_scoreentry WHERE reverses_id IS NULL GROUP BY player_id
    ) l ON l.player_id = e.player_id AND e.created_at >= least(l.week, l.month)
    LEFT JOIN (SELECT reverses_id, points FROM leaderboard_scoreentry WHERE reverses_id IS NOT NULL) r ON r.reverses_id = e.id
    WHERE e.reverses_id IS NULL
    GROUP BY e.player_id, l.earned_at
) counted
WHERE counted.player_id = s.player_id
"""


class Migration(migrations.Migration):
    dependencies = [("leaderboard", "0003_access_epoch")]
    operations = [
        migrations.AddField(
            "score",
            "earned_at",
            models.DateTimeField(null=True, help_text="The last award or adjustment; a reversal does not count."),
        ),
        migrations.AddField("score", "day_points", models.BigIntegerField(default=0, db_default=0)),
        migrations.AddField("score", "week_points", models.BigIntegerField(default=0, db_default=0)),
        migrations.AddField("score", "month_points", models.BigIntegerField(default=0, db_default=0)),
        migrations.CreateModel(
            name="PastPeriod",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=5)),
                ("start", models.DateTimeField()),
                ("end", models.DateTimeField()),
                ("closed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("kind", "start"), name="period_is_closed_once"),
                    models.CheckConstraint(
                        condition=models.Q(("kind__in", ["day", "week", "month"])), name="period_kind_is_known"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="PastScore",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "period_id", "player_id", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("points", models.BigIntegerField()),
                ("reached_at", models.DateTimeField(help_text="Of equal scores, the earlier one ranks first.")),
                (
                    "period",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="scores",
                        to="leaderboard.pastperiod",
                    ),
                ),
                (
                    "player",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="past_scores",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        models.F("period"),
                        models.OrderBy(models.F("points"), descending=True),
                        models.F("reached_at"),
                        models.F("player"),
                        condition=models.Q(("points__gt", 0)),
                        name="past_score_board_order",
                    )
                ],
            },
        ),
        migrations.RunSQL(_COUNT, migrations.RunSQL.noop, elidable=True),
    ]

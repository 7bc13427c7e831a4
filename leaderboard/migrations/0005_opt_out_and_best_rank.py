"""A player's own wish to be on no public board, beside the moderators' switch; the best place each player was seen at."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import leaderboard.avatars


class Migration(migrations.Migration):
    dependencies = [("leaderboard", "0004_periods")]
    operations = [
        migrations.AddField(
            "score",
            "opted_out",
            models.BooleanField(
                db_default=False,
                default=False,
                help_text="The player's own wish to be shown nowhere; moderators decide on `hidden`.",
            ),
        ),
        migrations.CreateModel(
            name="BestRank",
            fields=[
                (
                    "player",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="best_rank",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("rank", models.PositiveIntegerField()),
                ("reached_at", models.DateTimeField()),
            ],
        ),
        migrations.AlterField(
            "player",
            "avatar_url",
            models.URLField(
                blank=True, max_length=500, null=True, validators=[leaderboard.avatars.validate], verbose_name="avatar"
            ),
        ),
    ]

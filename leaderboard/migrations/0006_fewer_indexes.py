"""`entry_by_player` covers it. Dropped in SQL: Django's own way would also check every line's foreign key anew, under lock."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

INDEX = "leaderboard_scoreentry_player_id_b51930d1"


class Migration(migrations.Migration):
    dependencies = [("leaderboard", "0005_opt_out_and_best_rank")]
    operations = [
        migrations.RunSQL(
            f"DROP INDEX {INDEX}",
            f"CREATE INDEX {INDEX} ON leaderboard_scoreentry (player_id)",
            state_operations=[
                migrations.AlterField(
                    model_name="scoreentry",
                    name="player",
                    field=models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="entries",
                        to=settings.AUTH_USER_MODEL,
                    ),
                )
            ],
        )
    ]

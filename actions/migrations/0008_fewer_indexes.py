"""What others cover, or nobody reads. Dropped in SQL: Django's own way would also check every foreign key anew, under lock."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

DROPPED = {
    "actions_actionlog_player_id_c8d5a498": "actions_actionlog (player_id)",
    "actions_actionlog_action_type_id_3cfa1be0": "actions_actionlog (action_type_id)",
    "actions_actionlog_action_type_id_3cfa1be0_like": "actions_actionlog (action_type_id varchar_pattern_ops)",
    "actions_actionlog_server_key_id_6ab9abf9": "actions_actionlog (server_key_id)",
    "actions_actiontally_player_id_14a8d7eb": "actions_actiontally (player_id)",
}
PROTECT, CASCADE = django.db.models.deletion.PROTECT, django.db.models.deletion.CASCADE
PLAYER = settings.AUTH_USER_MODEL


class Migration(migrations.Migration):
    dependencies = [
        ("actions", "0007_completions_stay_as_they_are"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]
    operations = [
        migrations.RunSQL(
            [f"DROP INDEX {name}" for name in DROPPED],
            [f"CREATE INDEX {name} ON {what}" for name, what in DROPPED.items()],
            state_operations=[
                migrations.AlterField(
                    "actionlog",
                    "player",
                    models.ForeignKey(PLAYER, PROTECT, db_index=False, related_name="actions"),
                ),
                migrations.AlterField(
                    "actionlog",
                    "action_type",
                    models.ForeignKey("actions.actiontype", PROTECT, db_index=False, related_name="completions"),
                ),
                migrations.AlterField(
                    "actionlog",
                    "server_key",
                    models.ForeignKey("actions.serverkey", PROTECT, db_index=False, null=True, related_name="+"),
                ),
                migrations.AlterField(
                    "actiontally",
                    "player",
                    models.ForeignKey(PLAYER, CASCADE, db_index=False, related_name="+"),
                ),
            ],
        ),
        migrations.AddIndex(
            "actionlog",
            models.Index(condition=models.Q(("server_key__isnull", False)), fields=["server_key"], name="action_by_server_key"),
        ),
    ]

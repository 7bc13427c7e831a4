"""The three actions that every board starts with."""

from django.db import migrations

CATALOGUE = [
    ("quiz_complete", "Quiz", "Finish a quiz.", 100, None),
    ("task_finish", "Task", "Finish a task.", 50, None),
    ("daily_login", "Daily check-in", "Once a day (UTC).", 10, 1),
]


def fill(apps, _schema_editor):
    action_type = apps.get_model("actions", "ActionType")
    for slug, label, description, points, cap in CATALOGUE:
        action_type.objects.get_or_create(
            slug=slug, defaults={"label": label, "description": description, "points": points, "daily_cap": cap}
        )


class Migration(migrations.Migration):
    dependencies = [("actions", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]

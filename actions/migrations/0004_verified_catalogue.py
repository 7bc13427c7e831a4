"""How the starting catalogue is verified, and some questions to begin with. What staff have changed since stays."""

from django.db import migrations

VERIFICATION = {
    "quiz_complete": {"verification": "quiz", "daily_cap": 20},
    "task_finish": {"verification": "cooldown", "cooldown_seconds": 2, "daily_cap": 100},
    "daily_login": {"verification": "once_per_day", "daily_cap": None},
}

# They are in a public repository: a board that means it brings its own, in admin.
QUESTIONS = [
    ("Which planet is closest to the Sun?", "Mercury", ["Venus", "Mars", "Earth"]),
    ("How many sides has a hexagon?", "Six", ["Five", "Seven", "Eight"]),
    ("What do bees collect from flowers?", "Nectar", ["Resin", "Dew", "Sap"]),
    ("Which ocean lies between Africa and Australia?", "The Indian Ocean", ["The Atlantic", "The Pacific", "The Arctic Ocean"]),
    ("How many players of one team are on the field in football (soccer)?", "11", ["9", "10", "12"]),
    ("At how many degrees Celsius does water freeze at sea level?", "0", ["4", "32", "-10"]),
    ("Which instrument has 88 keys?", "The piano", ["The organ", "The accordion", "The harpsichord"]),
    ("What is 12 times 12?", "144", ["124", "132", "154"]),
    ("Which gas do plants take in to grow?", "Carbon dioxide", ["Oxygen", "Nitrogen", "Hydrogen"]),
    ("Which is the longest bone of the human body?", "The thigh bone", ["The shin bone", "The upper arm bone", "The collarbone"]),
    ("In which direction does the Sun rise?", "East", ["West", "North", "South"]),
    ("How many minutes has a day?", "1440", ["1240", "1400", "2400"]),
    ("Which animal is the largest alive?", "The blue whale", ["The elephant", "The giant squid", "The whale shark"]),
    ("What is the square root of 81?", "9", ["7", "8", "18"]),
    ("Which metal is liquid at room temperature?", "Mercury", ["Lead", "Tin", "Zinc"]),
]  # fmt: skip


def fill(apps, schema_editor):
    action_type = apps.get_model("actions", "ActionType")
    for slug, fields in VERIFICATION.items():
        action_type.objects.filter(slug=slug, verification="cooldown", cooldown_seconds=0).update(**fields)
    for quiz in action_type.objects.filter(slug="quiz_complete", verification="quiz", questions=None):
        for text, right, wrong in QUESTIONS:
            quiz.questions.create(text=text, right=right, wrong="\n".join(wrong))
    # Who checked in today, before occurrences were kept, is not to do so twice.
    schema_editor.execute("""
        UPDATE actions_actionlog SET occurrence = to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
        WHERE action_id IN (
            SELECT DISTINCT ON (player_id) action_id FROM actions_actionlog
            WHERE action_type_id = 'daily_login' AND created_at >= date_trunc('day', now(), 'UTC') ORDER BY player_id, created_at
        )
    """)


class Migration(migrations.Migration):
    dependencies = [("actions", "0003_verification")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]

"""`python -m benchmarks.players COUNT [--top]`: access tokens as JSON lines, of players drawn from all, or of the first ones."""

import argparse
import json
import os

import django


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--top", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scoreboard_project.settings")
    django.setup()
    from leaderboard.models import Score
    from scoreboard_project import sign_in

    scores = Score.objects.filter(total_score__gt=0, suspended=False).order_by("-total_score" if options.top else "?")
    for player_id in scores.values_list("player_id", flat=True)[: options.count]:
        print(json.dumps({"id": str(player_id), "token": sign_in.access_for(player_id)}))


if __name__ == "__main__":
    main()

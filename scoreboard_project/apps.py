from django.apps import AppConfig


class ScoreboardConfig(AppConfig):
    name = "scoreboard_project"

    def ready(self) -> None:
        from scoreboard_project import checks  # noqa: F401 (registers them)

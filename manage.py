#!/usr/bin/env python
"""Django's command line. A command that needs the embedded engines finds those of a running `serve`, or starts them."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext

# `serve` owns the engines itself, `sample_play` plays against a running `serve`; the others need no database.
WITHOUT_ENGINES = {
    *("serve", "sample_play", "help", "version", "check", "makemigrations", "collectstatic", "spectacular"),
    *("startapp", "diffsettings", "compilemessages", "makemessages"),
}


def engines_for(arguments: list[str]) -> AbstractContextManager[object]:
    """Around the command that `arguments` (without the program) names. Raises EngineRefusal on the way in."""
    if not arguments or arguments[0] in WITHOUT_ENGINES or {"-h", "--help", "--version"} & set(arguments):
        return nullcontext()
    from django.conf import settings

    from scoreboard_project import engines

    if not (settings.EMBEDDED_POSTGRES or settings.EMBEDDED_REDIS):
        return nullcontext()
    return engines.running(
        settings.DATA_DIR,
        postgres=settings.EMBEDDED_POSTGRES,
        valkey=settings.EMBEDDED_REDIS,
        say=lambda line: print(line, file=sys.stderr),
    )


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "scoreboard_project.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    from scoreboard_project.engines import EngineRefusal

    try:
        with engines_for(sys.argv[1:]):
            execute_from_command_line(sys.argv)
    except EngineRefusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)
    except ImproperlyConfigured as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as problem:
        if problem.name not in {"django", "psutil", "psycopg"}:
            raise
        sys.exit(f"The packages are not installed here ({problem}). Start with: python3 run.py")
    except KeyboardInterrupt:
        sys.exit(130)

"""The action types, remembered for some seconds, so that a completion need not ask which kind it is.

What is remembered only chooses how a completion is verified. The statement that records it looks at the type itself, and
refuses one that was verified by another kind; then the caller forgets and asks anew.
"""

import time

from actions.models import ActionType
from scoreboard_project.db import off_loop

FRESH_SECONDS = 5.0

_types: dict[str, ActionType] = {}
_read_at = 0.0


async def find(slug: str) -> ActionType | None:
    """The type of this name, switched on or not; None where there is none."""
    global _types, _read_at
    if time.monotonic() - _read_at > FRESH_SECONDS or not _types:
        _types = await off_loop(_read)
        _read_at = time.monotonic()
    return _types.get(slug)


def forget() -> None:
    _types.clear()


def _read() -> dict[str, ActionType]:
    return {action_type.slug: action_type for action_type in ActionType.objects.all()}

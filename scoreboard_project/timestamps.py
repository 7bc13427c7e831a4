"""How moments look on the wire."""

from datetime import datetime


def timestamp(moment: datetime) -> str:
    """UTC, ISO 8601 to the millisecond, with `Z`. `moment` is in UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

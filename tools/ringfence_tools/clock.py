"""Times as the tables hold them."""

from __future__ import annotations

from datetime import UTC, datetime


def micros(moment: datetime) -> int:
    """Microseconds since the epoch of an aware time."""
    return int(moment.timestamp() * 1_000_000)


def moment(microseconds: int) -> datetime:
    """The aware UTC time."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)

"""Settings of a server under which an acknowledged entry can still be lost."""

from __future__ import annotations

from sqlalchemy import Connection, text

_MUST_BE_ON = {
    "fsync": "a power cut can lose or damage what was acknowledged",
    "full_page_writes": "a power cut can damage pages that were being written",
}


def weaknesses(connection: Connection) -> list[str]:
    """One line for each; none on a file, whose durability is Ringfence's own to set."""
    if connection.dialect.name != "postgresql":
        return []
    shown = {name: connection.execute(text(f"SHOW {name}")).scalar() for name in _MUST_BE_ON}
    return [f"{name} is off: {why}" for name, why in _MUST_BE_ON.items() if shown[name] != "on"]

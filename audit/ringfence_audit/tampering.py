"""Tampering with a copy of a log, to show that verification finds it. Never touches the log itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def copy_with_one_byte_changed(source: Path, copy: Path) -> int:
    """A consistent copy of a SQLite log in which one letter of the first outcome differs; the entry's position."""
    query = "SELECT position, entry FROM audit_entries WHERE CAST(entry AS TEXT) LIKE ? ORDER BY position LIMIT 1"
    with sqlite3.connect(source) as live, sqlite3.connect(copy) as target:
        live.backup(target)
        position, entry = target.execute(query, ("%call.outcome%",)).fetchone()
        changed = bytes(entry).replace(b"call.outcome", b"call.0utcome", 1)
        target.execute("UPDATE audit_entries SET entry = ? WHERE position = ?", (changed, position))
    return int(position)

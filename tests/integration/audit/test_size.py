"""How much the log takes on disk beyond the entries themselves."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ringfence_audit.events import Event, Kind
from tests.integration.audit.logs import open_log, write


def test_a_log_takes_at_most_a_fifth_more_than_its_entries(tmp_path: Path) -> None:
    calls = [
        Event(
            Kind.INTENT, "agent:r", {"command": f"{number:06d}" * 92, "digest": f"{number:064x}"}, f"r{number // 300}"
        )
        for number in range(8_000)
    ]
    with open_log(tmp_path / "log.db") as store:
        write(store, calls)
    with closing(sqlite3.connect(tmp_path / "log.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (entry_bytes,) = database.execute("SELECT sum(length(entry)) FROM audit_entries").fetchone()
        # Of the log alone: the file holds the empty tables of every room that the suite has imported by now.
        pages = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%audit%'"
        (stored_bytes,) = database.execute(pages).fetchone()
    assert 600 < entry_bytes / 8_000 < 900
    assert stored_bytes / entry_bytes <= 1.20

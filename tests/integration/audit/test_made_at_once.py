"""Processes that meet at a state folder which none of them has used before."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from sqlalchemy.exc import OperationalError

from ringfence_audit.sqlite import SqliteDatabase

TIMES = 60
AT_ONCE = 3


def test_writers_that_open_a_new_file_at_the_same_moment_wait_for_each_other(tmp_path: Path) -> None:
    refused: list[Exception] = []

    def one(path: Path, start: threading.Barrier) -> None:
        database = SqliteDatabase(path)
        start.wait(30)
        try:
            session = database.session()
            session.connection.exec_driver_sql("SELECT 1")
            session.close()
        except (sqlite3.Error, OperationalError) as error:
            refused.append(error)
        finally:
            database.close()

    for n in range(TIMES):
        start = threading.Barrier(AT_ONCE)
        threads = [threading.Thread(target=one, args=(tmp_path / f"{n}.db", start)) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert refused == []

"""The log in a SQLite file: WAL, synchronous=FULL, one write lock, checkpoints of the WAL off the hot path."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from ringfence_audit.database import Appended, Head
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.prepared import insert_rows
from ringfence_audit.session import WRITERS_KEPT_S, EvidenceSession, statements
from ringfence_audit.wakeups import FileWakeups, file_wakeups

_BUSY_S = 30.0
_PAGE_BYTES = 8_192
"""Of a file that is made. Entries of 600 to 1,000 bytes leave a fifth of SQLite's usual 4,096 empty, and 6% of this."""
_WAL_SOFT_BYTES = 1_000_000
"""1 MB: from here on the keeper moves the WAL into the file while writers go on. So early because a commit that
overwrites what the WAL held costs half of one that makes it longer: the file system has no new blocks to record."""
_WAL_HARD_BYTES = 128_000_000
"""128 MB: the writer waits for the move, so that a steady load cannot grow the WAL without end."""
_STORAGE_CODES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    }
)


class SqliteSession(EvidenceSession):
    """See `database.Session`."""

    TEXT = statements("?", "unixepoch()")
    _driver: sqlite3.Connection
    _has_savepoint = False

    def begin(self, known: int, streams: Sequence[str]) -> Head:
        self._driver.execute("BEGIN IMMEDIATE")
        found = self._rows("head")
        return Head(found[0][0], found[0][1]) if found else Head(0, b"")

    def now(self) -> datetime | None:
        return None

    @property
    def is_hopeful(self) -> bool:
        return True

    def roll_back(self) -> None:
        self._has_savepoint = False
        self._driver.execute("ROLLBACK")

    def enter(self) -> None:
        self._driver.execute("SAVEPOINT job")
        self._has_savepoint = True

    def leave(self) -> None:
        self._require_open()
        if self._has_savepoint:
            self._driver.execute("RELEASE job")
            self._has_savepoint = False

    def undo(self) -> bool:
        if not self._driver.in_transaction:
            return False
        self._driver.execute("ROLLBACK TO job")
        self.leave()
        return True

    @property
    def is_lost(self) -> bool:
        return False

    def is_storage_failure(self, error: Exception) -> bool:
        return not self._driver.in_transaction or is_storage_failure(error)

    def confirm(self) -> None:
        self._driver.execute("ROLLBACK")

    def _append_entries(self, appended: Appended) -> None:
        insert_rows(self._driver, self.TEXT["add_entry"], list(enumerate(appended.entries, appended.first)))
        streams = [(head.stream, head.length, head.head) for head in appended.streams]
        insert_rows(self._driver, self.TEXT["set_stream"], streams)

    def commit(self) -> None:
        self._require_open()
        self._driver.execute("COMMIT")

    def _require_open(self) -> None:
        """Outside a transaction each statement would be kept by itself, with no entry beside it."""
        if not self._driver.in_transaction:
            raise LogUnavailable("the batch's transaction was ended from inside a job")


def is_storage_failure(error: Exception) -> bool:
    """Whether the file, not the statement, is to blame."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _STORAGE_CODES


class SqliteDatabase:
    """See `database.Database`. `path` is the file; it is made readable to its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise LogUnavailable(f"cannot open the log at {path}: {error.strerror}") from error
        options = {"check_same_thread": False, "isolation_level": None, "timeout": _BUSY_S, "cached_statements": 512}
        self._writers = create_engine(f"sqlite:///{path}", poolclass=NullPool, connect_args=options)
        self._readers = create_engine(
            f"sqlite:///{path}", poolclass=QueuePool, pool_size=4, max_overflow=4, connect_args=options
        )
        event.listen(self._writers, "connect", _prepare_writer)
        event.listen(self._readers, "connect", _prepare_reader)
        event.listen(self._readers, "begin", _begin_reading)

    def session(self) -> SqliteSession:
        return SqliteSession(self._writers.connect())

    def read(self) -> Connection:
        return self._readers.connect()

    def is_failure(self, error: Exception) -> bool:
        return is_storage_failure(error)

    def wakeups(self) -> AbstractAsyncContextManager[FileWakeups]:
        return file_wakeups(self._path, self._announced)

    def _announced(self) -> int:
        with self.read() as connection:
            return connection.exec_driver_sql(SqliteSession.TEXT["announced"]).scalar() or 0

    def alter(self, work: Callable[[Connection], None]) -> None:
        with self._writers.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            work(connection)
            connection.exec_driver_sql("COMMIT")

    def tend(self) -> None:
        try:
            size_bytes = Path(f"{self._path}-wal").stat().st_size
        except FileNotFoundError:
            return
        if size_bytes < _WAL_SOFT_BYTES:
            return
        mode = "PASSIVE" if size_bytes < _WAL_HARD_BYTES else "RESTART"
        with self._writers.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").all()
            connection.exec_driver_sql(SqliteSession.TEXT["forget_writers"], (WRITERS_KEPT_S,))

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()


def _prepare_writer(raw: sqlite3.Connection, _: object) -> None:
    raw.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    _turn_to_wal(raw)
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    raw.execute("PRAGMA cache_size = -65536")


def _turn_to_wal(raw: sqlite3.Connection) -> None:
    """SQLite's own patience does not cover this change, and two processes may make the file at the same moment."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _prepare_reader(raw: sqlite3.Connection, _: object) -> None:
    raw.execute("PRAGMA query_only = ON")
    raw.execute("PRAGMA mmap_size = 268435456")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")

"""The log in a SQLite file: WAL, synchronous=FULL, one write lock, checkpoints of the WAL off the hot path."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from ringfence_audit.database import STORAGE_ERRORS, Appended, Head, Noted, StreamHead
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.merkle import HASH_SIZE, TILE_WIDTH, leaf_hash, root_of

_BUSY_S = 30.0
_WAL_PAGES_SOFT = 4_000
"""16 MB: from here on the keeper moves the WAL into the file while writers go on."""
_WAL_PAGES_HARD = 32_000
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


class SqliteSession:
    """See `database.Session`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Any: SQLAlchemy types the driver's connection so; it is a sqlite3.Connection.
        driver: Any = connection.connection.driver_connection
        self._raw: sqlite3.Connection = driver

    @property
    def connection(self) -> Connection:
        return self._connection

    def begin(self) -> Head:
        self._raw.execute("BEGIN IMMEDIATE")
        row = self._raw.execute("SELECT size, token FROM audit_head WHERE one = 1").fetchone()
        return Head(0, b"") if row is None else Head(row[0], row[1])

    def now(self) -> datetime | None:
        return None

    def enter(self) -> None:
        self._raw.execute("SAVEPOINT job")

    def leave(self) -> None:
        self._raw.execute("RELEASE job")

    def undo(self) -> bool:
        if not self._raw.in_transaction:
            return False
        self._raw.execute("ROLLBACK TO job")
        self._raw.execute("RELEASE job")
        return True

    def is_storage_failure(self, error: Exception) -> bool:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        return not self._raw.in_transaction or (code is not None and code & 0xFF in _STORAGE_CODES)

    def stream(self, stream: str) -> StreamHead:
        found = self._raw.execute("SELECT length, head FROM audit_streams WHERE stream = ?", (stream,)).fetchone()
        return StreamHead(stream, 0, b"") if found is None else StreamHead(stream, found[0], found[1])

    def newest_note(self) -> Noted | None:
        found = self._raw.execute("SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        return None if found is None else Noted(found[0], found[1])

    def edge_rows(self, size: int) -> Sequence[Sequence[bytes]]:
        rows: list[list[bytes]] = []
        first = size - size % TILE_WIDTH
        bodies = self._raw.execute("SELECT entry FROM audit_entries WHERE position >= ? ORDER BY position", (first,))
        rows.append([leaf_hash(body) for (body,) in bodies])
        if len(rows[0]) != size % TILE_WIDTH:
            raise LogUnavailable(f"the log says {size} entries, but its last tile holds {len(rows[0])}: run verify")
        above, level = size // TILE_WIDTH, 1
        while above:
            rows.append(self._tops(level, above))
            above, level = above // TILE_WIDTH, level + 1
        return rows

    def _tops(self, level: int, count: int) -> list[bytes]:
        """Roots of the tiles of `level - 1` that no full tile of `level` holds yet."""
        first = count - count % TILE_WIDTH
        found = self._raw.execute(
            "SELECT hashes FROM audit_tiles WHERE level = ? AND position >= ? AND position < ? ORDER BY position",
            (level - 1, first, count),
        ).fetchall()
        if len(found) != count - first:
            raise LogUnavailable(f"tiles of level {level - 1} are missing: run verify")
        return [root_of([row[i : i + HASH_SIZE] for i in range(0, len(row), HASH_SIZE)]) for (row,) in found]

    def append(self, appended: Appended) -> None:
        raw = self._raw
        if appended.entries:
            raw.executemany(
                "INSERT INTO audit_entries (position, entry) VALUES (?, ?)",
                list(enumerate(appended.entries, appended.first)),
            )
            raw.executemany(
                "INSERT INTO audit_streams (stream, length, head) VALUES (?, ?, ?) "
                "ON CONFLICT (stream) DO UPDATE SET length = excluded.length, head = excluded.head",
                [(head.stream, head.length, head.head) for head in appended.streams],
            )
        for tile in appended.tiles:
            raw.execute(
                "INSERT INTO audit_tiles (level, position, hashes) VALUES (?, ?, ?)",
                (tile.level, tile.index, tile.hashes),
            )
        if appended.note is not None:
            raw.execute(
                "INSERT OR IGNORE INTO audit_checkpoints (size, note) VALUES (?, ?)",
                (appended.note.size, appended.note.note),
            )
        raw.execute(
            "INSERT INTO audit_head (one, size, token) VALUES (1, ?, ?) "
            "ON CONFLICT (one) DO UPDATE SET size = excluded.size, token = excluded.token",
            (appended.head.size, appended.head.token),
        )

    def commit(self) -> None:
        if not self._raw.in_transaction:
            raise LogUnavailable("the batch's transaction was ended from inside a job")
        self._raw.execute("COMMIT")

    def close(self) -> None:
        # Closing the file undoes what is uncommitted, also where a ROLLBACK would meet the same broken disk.
        with suppress(*STORAGE_ERRORS):
            self._connection.invalidate()
            self._connection.close()


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

    def create_schema(self, metadata: MetaData) -> None:
        with self._writers.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            metadata.create_all(connection)
            connection.exec_driver_sql("COMMIT")

    def tend(self) -> None:
        try:
            pages = Path(f"{self._path}-wal").stat().st_size // 4096
        except FileNotFoundError:
            return
        if pages < _WAL_PAGES_SOFT:
            return
        mode = "PASSIVE" if pages < _WAL_PAGES_HARD else "RESTART"
        with self._writers.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").all()

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()


def _prepare_writer(raw: sqlite3.Connection, _: object) -> None:
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute("PRAGMA wal_autocheckpoint = 0")
    raw.execute("PRAGMA cache_size = -65536")


def _prepare_reader(raw: sqlite3.Connection, _: object) -> None:
    raw.execute("PRAGMA query_only = ON")
    raw.execute("PRAGMA mmap_size = 268435456")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")

"""The log in PostgreSQL: psycopg 3, one advisory lock that lets one batch of all processes at a time append.

A session begins, takes the lock, and only then reads the head, so that it sees what the writer before it committed
(READ COMMITTED gives each statement a new snapshot). The lock is the transaction's: it ends with it, also where the
client is gone. The commit that lets go of it does not wait for the disk; a second, empty one does, so that the writers
wait for the disk together and not one after another. Nobody is told before that, and whoever builds on what he read
meanwhile waits for a later flush himself, which covers both. A client that stops in the middle (SIGSTOP, a dead
network) would keep everyone else waiting, so the server ends such a transaction by itself after a few seconds, and the
commit that comes later fails.

Connect to the server itself or through a pooler in session mode: settings of the session are relied upon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, ClassVar

import psycopg
from psycopg.abc import Buffer
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumper
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from ringfence_audit.database import Appended, Head, Noted, Seen, StreamHead
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.session import CATCH_UP, WRITERS_KEPT_S, EvidenceSession, complete, statements
from ringfence_audit.wakeups import CHANNEL, ServerWakeups, server_wakeups

APPEND_LOCK = 0x52464C4F47  # "RFLOG"
SCHEMA_LOCK = APPEND_LOCK + 1
_WAIT_MS = 30_000
_PAUSE_MS = 10_000
"""How long a transaction may stand still between two statements before the server ends it."""
_CONNECT = {
    "connect_timeout": 10,
    "target_session_attrs": "read-write",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "client_encoding": "utf8",
    "application_name": "ringfence",
}
_FLUSH = "SELECT pg_logical_emit_message(true, 'ringfence', '')"
"""A commit of its own that waits for the disk, and with it for everything that was committed before."""
_STOOD_ON_NUL = "\N{SYMBOL FOR NULL}"


class PostgresSession(EvidenceSession):
    """See `database.Session`."""

    TEXT: ClassVar[Mapping[str, str]] = {
        **statements("%s", "extract(epoch FROM clock_timestamp())::bigint"),
        "announce": f"NOTIFY {CHANNEL}",
    }
    _driver: psycopg.Connection[Any]

    def __init__(self, connection: Connection, *, is_clock: bool) -> None:
        super().__init__(connection)
        self._is_clock = is_clock
        self._now: datetime | None = None
        self._has_savepoint = False
        self._appended: Appended | None = None
        self._news: Seen | None = None

    def begin(self, known: int, streams: Sequence[str]) -> Head:
        self._has_savepoint, self._appended, self._news = False, None, None
        with self._driver.pipeline():  # one round trip; each statement still sees what was committed before it
            self._driver.execute("BEGIN")
            self._driver.execute("SET LOCAL synchronous_commit = off")
            self._driver.execute("SELECT pg_advisory_xact_lock(%s)", (APPEND_LOCK,))
            clock = self._driver.execute("SELECT clock_timestamp()")
            heads = self._driver.execute(self.TEXT["head"])
            answer = self._ask(known, known + CATCH_UP, streams) if known >= 0 else None
            (self._now,) = clock.fetchall()[0]
            found = heads.fetchall()
            self._news = None if answer is None else answer()
        return Head(found[0][0], found[0][1]) if found else Head(0, b"")

    def now(self) -> datetime | None:
        return None if self._now is None or not self._is_clock else self._now.astimezone(UTC)

    @property
    def is_hopeful(self) -> bool:
        return True

    def roll_back(self) -> None:
        self._driver.execute("ROLLBACK")

    def enter(self) -> None:
        self._driver.execute("RELEASE job; SAVEPOINT job" if self._has_savepoint else "SAVEPOINT job")
        self._has_savepoint = True

    def leave(self) -> None:
        if self._driver.info.transaction_status is not TransactionStatus.INTRANS:
            raise _SwallowedError("a statement failed in this transaction and the failure was passed over")

    def undo(self) -> bool:
        if self._driver.info.transaction_status not in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            return False
        self._driver.execute("ROLLBACK TO job")
        return True

    @property
    def is_lost(self) -> bool:
        return self._driver.broken or self._driver.closed

    def is_storage_failure(self, error: Exception) -> bool:
        return self.is_lost or is_storage_failure(error)

    def commit(self) -> None:
        if self._driver.info.transaction_status is not TransactionStatus.INTRANS:
            raise LogUnavailable("the batch's transaction was ended from inside a job")
        with self._driver.pipeline():
            if self._appended is not None:
                super().append(self._appended)
            done = self._driver.execute("COMMIT")
            self._driver.execute(_FLUSH)
        if done.statusmessage != "COMMIT":
            raise LogUnavailable(f"the server answered the commit with {done.statusmessage}")

    def confirm(self) -> None:
        self._driver.execute("COMMIT")
        self._driver.execute(_FLUSH)

    def _append_entries(self, appended: Appended) -> None:
        if not appended.entries:
            return
        self._driver.execute(
            "INSERT INTO audit_entries (position, entry) "
            "SELECT %s + n - 1, entry FROM unnest(%s::bytea[]) WITH ORDINALITY AS batch (entry, n)",
            (appended.first, list(appended.entries)),
        )
        streams, lengths, heads = _columns(appended)
        self._driver.execute(
            "INSERT INTO audit_streams (stream, length, head) "
            "SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bytea[]) "
            "ON CONFLICT (stream) DO UPDATE SET length = excluded.length, head = excluded.head",
            (streams, lengths, heads),
        )

    def append(self, appended: Appended) -> None:
        self._appended = appended  # goes out together with the commit: one round trip

    def look(self, first: int, end: int, streams: Sequence[str]) -> Seen:
        seen, self._news = self._news, None  # good for one look, at the log as this batch found it
        told = {} if seen is None else {head.stream: head for head in seen.streams}
        missing = [stream for stream in streams if stream not in told]
        if seen is None or missing:
            with self._driver.pipeline():
                asked = self._ask(first, end, missing)()
            seen = asked if seen is None else seen
            told |= {head.stream: head for head in asked.streams}
        leaves = complete(list(seen.leaves), first, end) if end > first else ()
        return Seen(leaves, seen.note, [told[stream] for stream in streams])

    def _ask(self, first: int, end: int, streams: Sequence[str]) -> Callable[[], Seen]:
        """Send the questions; the answer is there when the pipeline around it was synchronised."""
        hashed = self._driver.execute(
            "SELECT sha256('\\x00'::bytea || entry) FROM audit_entries "
            "WHERE position >= %s AND position < %s AND entry IS NOT NULL ORDER BY position",
            (first, end),
        )
        noted = self._driver.execute(self.TEXT["note"])
        heads = self._driver.execute(
            "SELECT stream, length, head FROM audit_streams WHERE stream = ANY(%s)", (list(streams),)
        )

        def answer() -> Seen:
            leaves = [leaf for (leaf,) in hashed.fetchall()]
            note = noted.fetchone()
            found = {stream: StreamHead(stream, length, head) for stream, length, head in heads.fetchall()}
            ends = [found.get(stream, StreamHead(stream, 0, b"")) for stream in streams]
            return Seen(leaves, None if note is None else Noted(*note), ends)

        return answer


class _SwallowedError(Exception):
    """A job went on after a failed statement; PostgreSQL refuses all that follows. A fault of the job."""


def _columns(appended: Appended) -> tuple[list[str], list[int], list[bytes]]:
    streams: Sequence[Any] = appended.streams
    return [s.stream for s in streams], [s.length for s in streams], [s.head for s in streams]


def is_storage_failure(error: Exception) -> bool:
    """Whether the server or the way to it, not the statement, is to blame."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg.errors.InFailedSqlTransaction):
        return False
    return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError)


class PostgresDatabase:
    """See `database.Database`. `url` names the server; a password in it is never told on.

    Without `is_clock` the injected clock rules as it does on SQLite: for tests that drive the time.
    """

    def __init__(self, url: URL, *, is_clock: bool = True) -> None:
        # What both tell of when a connection breaks is raised to us as well; nobody's terminal needs it twice.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        self._is_clock = is_clock
        self._address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        address = url.set(drivername="postgresql+psycopg")
        options = {name: value for name, value in _CONNECT.items() if name not in url.query}
        self._writers = create_engine(
            address, poolclass=NullPool, connect_args=options, isolation_level="AUTOCOMMIT", hide_parameters=True
        )
        self._readers = create_engine(
            address,
            poolclass=QueuePool,
            pool_size=2,
            max_overflow=6,
            pool_pre_ping=True,
            connect_args=options,
            isolation_level="REPEATABLE READ",
            hide_parameters=True,
        )
        event.listen(self._writers, "connect", _prepare_writer)
        event.listen(self._readers, "connect", _prepare_reader)

    def session(self) -> PostgresSession:
        return PostgresSession(self._writers.connect(), is_clock=self._is_clock)

    def read(self) -> Connection:
        return self._readers.connect()

    def is_failure(self, error: Exception) -> bool:
        return is_storage_failure(error)

    def wakeups(self) -> AbstractAsyncContextManager[ServerWakeups]:
        return server_wakeups(self._address)

    def alter(self, work: Callable[[Connection], None]) -> None:
        with self._writers.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (APPEND_LOCK,))
            work(connection)
            connection.exec_driver_sql("COMMIT")

    def tend(self) -> None:
        with self._writers.connect() as connection:
            connection.exec_driver_sql(PostgresSession.TEXT["forget_writers"], (WRITERS_KEPT_S,))

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()


class _NulFree(StrDumper):
    """PostgreSQL's text cannot hold U+0000, which models and tools do write: it is kept as the sign for it."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", _STOOD_ON_NUL) if "\0" in obj else obj)


def _prepare(raw: psycopg.Connection[Any], *settings: str) -> None:
    raw.adapters.register_dumper(str, _NulFree)
    was, raw.autocommit = raw.autocommit, True
    for setting in settings:
        raw.execute(setting)
    raw.autocommit = was


def _prepare_writer(raw: psycopg.Connection[Any], _: object) -> None:
    (level,) = raw.execute("SHOW synchronous_commit").fetchone() or ("",)
    _prepare(
        raw,
        f"SET lock_timeout = {_WAIT_MS}",
        f"SET idle_in_transaction_session_timeout = {_PAUSE_MS}",
        "SET default_transaction_isolation = 'read committed'",
        # What was acknowledged is on disk; a setting that waits for standbys too is left as it is.
        "SET synchronous_commit = on" if level in ("off", "local") else "SELECT 1",
    )


def _prepare_reader(raw: psycopg.Connection[Any], _: object) -> None:
    _prepare(raw, "SET default_transaction_read_only = on")

"""The writer's database session: one open connection that a batch of transactions is applied to and committed by.

`Session` is the port that the writer depends on, so that tests can fail any call before or after it took effect.
Durability: `commit` returns once the batch is on disk. A session that raised is thrown away and opened anew; what a
cut-off commit left behind is told by the last token of its writer. Concurrency: one thread; other processes are kept
out from `begin` to `commit` (SQLite: the write lock; PostgreSQL: an advisory lock).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ringfence_audit.errors import AuditError
from ringfence_audit.merkle import Tile
from ringfence_audit.port import Wakeups

STORAGE_ERRORS = (sqlite3.Error, psycopg.Error, SQLAlchemyError, OSError, AuditError)
"""What a session may raise; anything else is a fault of ours."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the committed log ends."""

    size: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """What one batch adds to the evidence."""

    first: int
    entries: Sequence[bytes]
    tiles: Sequence[Tile]
    streams: Sequence[StreamHead]
    head: Head
    writer: bytes
    """Who appends: its last token is looked up where a commit was cut off, whatever others have appended since."""
    note: Noted | None = None
    """A checkpoint over entries committed before this batch, to be stored with it."""
    is_news: bool = False
    """Whether those who wait for news are to be woken once the batch is durable."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A signed checkpoint and the size that it covers."""

    size: int
    note: str


@dataclass(frozen=True, slots=True)
class StreamHead:
    stream: str
    length: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """Leaf hashes in order, the newest stored checkpoint, and a head for each stream (length 0 where it is new)."""

    leaves: Sequence[bytes]
    note: Noted | None
    streams: Sequence[StreamHead]


class Session(Protocol):
    """One write connection."""

    @property
    def connection(self) -> Connection:
        """What jobs are given."""

    def begin(self, known: int, streams: Sequence[str]) -> Head:
        """Open the batch's transaction, alone against every other writer, and say where the log ends.

        `known` is the size of the log that this writer has in mind (below 0 for none) and `streams` are those that it
        is likely to ask for: a server may tell their news in the same answer, for `look`.
        """

    def now(self) -> datetime | None:
        """The database's clock (aware UTC), or None where the injected clock rules (SQLite)."""

    @property
    def is_hopeful(self) -> bool:
        """Whether jobs are first run without the means to undo one alone: where that costs a question to the server
        for each job, a batch in which one fails is better rolled back, and run again with care."""

    def roll_back(self) -> None:
        """Undo the whole batch; `begin` starts the next."""

    def enter(self) -> None:
        """Start one job that `undo` may have to take back."""

    def leave(self) -> None:
        """Keep what the job did."""

    def undo(self) -> bool:
        """Take back what the job did, and only that; False where the whole batch is already lost."""

    def is_storage_failure(self, error: Exception) -> bool:
        """Whether an error raised inside a job means that the database, not the job, failed."""

    @property
    def is_lost(self) -> bool:
        """Whether the connection itself is gone, so that a new session may do better."""

    def last_token(self, writer: bytes) -> bytes | None:
        """The token of the last batch that this writer committed."""

    def look(self, first: int, end: int, streams: Sequence[str]) -> Seen:
        """What was committed behind this writer's back, asked at once: the entries first ≤ position < end, and where
        these streams end. Raises `LogUnavailable` where an entry is missing."""

    def newest_note(self) -> Noted | None:
        """The newest stored checkpoint."""

    def edge_rows(self, size: int) -> Sequence[Sequence[bytes]]:
        """Per tile level, the hashes right of the full tiles in a log of `size` entries."""

    def append(self, appended: Appended) -> None:
        """Write the batch's evidence and the new head."""

    def commit(self) -> None:
        """Make the batch durable."""

    def confirm(self) -> None:
        """End the transaction without effect; on return all that it could see is on disk."""

    def close(self) -> None:
        """Undo what is uncommitted and let the connection go; does not raise a storage error."""


class Database(Protocol):
    """Opens sessions and read connections."""

    def session(self) -> Session:
        """A new write session."""

    def read(self) -> Connection:
        """A read-only connection from a pool; close it to give it back. It sees all that is committed."""

    def is_failure(self, error: Exception) -> bool:
        """Whether an error on a read connection means that storage failed, not the statement."""

    def wakeups(self) -> AbstractAsyncContextManager[Wakeups]:
        """Listen for announcements from the moment it is entered; see `port.Wakeups`."""

    def alter(self, work: Callable[[Connection], None]) -> None:
        """Change the tables: run `work` in a transaction, alone against every other process that does so."""

    def tend(self) -> None:
        """Upkeep off the hot path (SQLite: move the write-ahead log into the database)."""

    def close(self) -> None:
        """Close every connection."""

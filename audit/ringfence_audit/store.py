"""The one database behind `port.Store`: transactions in groups through one writer, reads in a small pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from ringfence_audit import tables
from ringfence_audit.database import Database
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.keys import Signer
from ringfence_audit.port import Transaction
from ringfence_audit.sqlite import SqliteDatabase
from ringfence_audit.writer import Job, Writer

T = TypeVar("T")


def system_clock() -> datetime:
    return datetime.now(UTC)


class SqlStore:
    """See `port.Store`. Open it with `open`, close it with `close` or as a context manager; any loop may use it.

    Several stores, also of other processes, may be open on one database. After `create_schema` every table of
    `schema.metadata` exists.
    """

    def __init__(self, database: Database, *, signer: Signer, clock: Callable[[], datetime] = system_clock) -> None:
        self._database = database
        self.signer = signer
        self._writer = Writer(database, clock=clock)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="audit-reader")
        self._writer.start()

    @classmethod
    def open(cls, url: str, *, signer: Signer, clock: Callable[[], datetime] = system_clock) -> SqlStore:
        """Open `sqlite:////absolute/path` or `postgresql://…`. Raises `LogUnavailable` where it cannot be reached."""
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise LogUnavailable(f"{parsed.get_backend_name()} cannot hold the log: give a sqlite file")
        return cls(SqliteDatabase(Path(parsed.database)), signer=signer, clock=clock)

    def create_schema(self) -> None:
        """Create every missing table of `schema.metadata`. Safe to repeat and against other processes."""
        self._database.create_schema(tables.entries.metadata)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """See `port.Store.write`. A caller that is cancelled may find its transaction committed all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._writer.put(Job(work, future, loop))
        return await future

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `port.Store.read`."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """`read` for callers that are on a thread of their own: blocks until done."""
        with self._database.read() as connection:
            return work(connection)

    def close(self) -> None:
        """Finish what was queued and let go of the database. Safe to repeat."""
        self._writer.stop()
        self._readers.shutdown()
        self._database.close()

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

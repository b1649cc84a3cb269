"""The one database behind `port.Store`: transactions in groups through one writer, reads in a small pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ringfence_audit import tables
from ringfence_audit.blobs import Blobs, DatabaseBlobs, FileBlobs
from ringfence_audit.database import STORAGE_ERRORS, Database
from ringfence_audit.entries import Preparer
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.keys import Signer
from ringfence_audit.log import Log
from ringfence_audit.people import PeopleCount
from ringfence_audit.port import Transaction, Wakeups
from ringfence_audit.postgres import PostgresDatabase
from ringfence_audit.redaction import Redactor
from ringfence_audit.sqlite import SqliteDatabase
from ringfence_audit.writer import Writer, seal_job, write_job

T = TypeVar("T")


def system_clock() -> datetime:
    return datetime.now(UTC)


class SqlStore:
    """See `port.Store`. Open it with `open`, close it with `close` or as a context manager; any loop may use it.

    Several stores, also of other processes, may be open on one database. After `create_schema` every table of
    `schema.metadata` exists.
    """

    def __init__(
        self,
        database: Database,
        *,
        signer: Signer,
        blobs: Blobs,
        redactor: Redactor | None = None,
        people: PeopleCount | None = None,
        clock: Callable[[], datetime] = system_clock,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self.signer = signer
        self.blobs = blobs
        self.redactor = redactor or Redactor()
        preparer = Preparer(self.redactor)
        log = Log(database, signer=signer, preparer=preparer, blobs=blobs, people=people, clock=clock, ticks=ticks)
        self._writer = Writer(log, database)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="audit-reader")
        self._writer.start()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        signer: Signer,
        clock: Callable[[], datetime] | None = None,
        redactor: Redactor | None = None,
        blobs: Blobs | None = None,
        people: Callable[[], Signer] | None = None,
    ) -> SqlStore:
        """Open `sqlite:////absolute/path` or `postgresql://…`. Raises `LogUnavailable` where it cannot be reached.

        Without `clock` the time is the database server's, or this machine's where the database is a file.

        Without `redactor` the default patterns are redacted. Without `blobs` large bodies lie in files beside a
        SQLite file (`NAME-blobs/`), and in the database on PostgreSQL. `people` gives the key, never the log's, that
        what people do is counted and signed with; without it that is not counted.
        """
        acts = None if people is None else PeopleCount(people)
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError) as error:
            raise LogUnavailable("the database's address cannot be read: give postgresql://… or sqlite:///…") from error
        kind = parsed.get_backend_name()
        if kind in ("postgresql", "postgres"):
            server = PostgresDatabase(parsed, is_clock=clock is None)
            _reach(server)
            kept = blobs or DatabaseBlobs()
            return cls(server, signer=signer, blobs=kept, redactor=redactor, people=acts, clock=clock or system_clock)
        if kind != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise LogUnavailable(f"{kind} cannot hold the log: give a sqlite file, or postgresql://…")
        path = Path(parsed.database)
        files = blobs or FileBlobs(path.with_name(f"{path.name}-blobs"))
        file = SqliteDatabase(path)
        return cls(file, signer=signer, blobs=files, redactor=redactor, people=acts, clock=clock or system_clock)

    def create_schema(self) -> None:
        """Create every missing table of `schema.metadata`. Safe to repeat and against other processes."""
        self.alter(tables.entries.metadata.create_all)

    def alter(self, work: Callable[[Connection], None]) -> None:
        """Change the tables in one transaction, while no other process writes or changes them. Blocks until done.

        Raises what `work` raises, and `LogUnavailable`; then nothing was changed.
        """
        try:
            self._database.alter(work)
        except STORAGE_ERRORS as error:
            if self._database.is_failure(error):
                raise LogUnavailable(f"the tables could not be changed ({error}): nothing was done") from error
            raise

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """See `port.Store.write`. A caller that is cancelled may find its transaction committed all the same."""
        job = write_job(work, asyncio.get_running_loop())
        self._writer.put(job)
        result: T = await job.future
        return result

    async def checkpoint(self) -> str | None:
        """Sign a checkpoint over all that is committed, and return the newest note; None while the log is empty."""
        job = seal_job(asyncio.get_running_loop())
        self._writer.put(job)
        note: str | None = await job.future
        return note

    def wakeups(self) -> AbstractAsyncContextManager[Wakeups]:
        """Listen for what is announced from the moment it is entered, over all processes."""
        return self._database.wakeups()

    def newest_checkpoint(self) -> str | None:
        """The newest signed note, as stored; None where there is none yet. Blocks until done."""
        newest = select(tables.checkpoints.c.note).order_by(tables.checkpoints.c.size.desc()).limit(1)
        return self.read_now(lambda connection: connection.execute(newest).scalar())

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `port.Store.read`."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def read_now(self, work: Callable[[Connection], T]) -> T:
        """`read` for callers that are on a thread of their own: blocks until done."""
        try:
            with self._database.read() as connection:
                return work(connection)
        except STORAGE_ERRORS as error:
            if self._database.is_failure(error):
                raise LogUnavailable(f"the database could not be read ({error})") from error
            raise

    def close(self) -> None:
        """Finish what was queued and let go of the database. Safe to repeat."""
        self._writer.stop()
        self._readers.shutdown()
        self._database.close()

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _reach(database: Database) -> None:
    """Say at once, not at the first write, that the server cannot be reached."""
    try:
        database.read().close()
    except STORAGE_ERRORS as error:
        database.close()
        raise LogUnavailable(f"the database cannot be reached: {error}") from error

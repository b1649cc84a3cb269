"""The one thread that turns transactions into durable batches: group commit, hashing, and telling the callers.

Every write of the product passes here. Jobs that queued while the last batch was being committed form the next one:
each runs in a savepoint, what they recorded is chained, hashed and inserted at the end, one commit makes all of it
durable, and only then are the callers told.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import Connection

from ringfence_audit.database import STORAGE_ERRORS, Appended, Database, Head, Session, StreamHead
from ringfence_audit.entries import Prepared, prepare, seal
from ringfence_audit.errors import CommitUnknown, LogUnavailable
from ringfence_audit.events import Event
from ringfence_audit.merkle import Edge

_LARGEST_BATCH = 512
_LONGEST_WAIT_S = 1.0
_STREAMS_KEPT = 20_000
_FATE_ATTEMPTS = 3
_TEND_EVERY = 64


@dataclass(slots=True)
class Job:
    """One caller's transaction. Mutable: it carries its own result to the loop that waits for it."""

    # Any: the writer passes results through without looking at them.
    work: Callable[[OpenTransaction], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    appended: Appended
    edge: Edge
    touched: dict[str, StreamHead]


class OpenTransaction:
    """See `port.Transaction`."""

    __slots__ = ("connection", "now", "recorded")

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.recorded: list[Prepared] = []

    def record(self, event: Event) -> None:
        self.recorded.append(prepare(event, self.now))


class Writer:
    """Owns the write session and the thread. `start`, then `put` from any loop, then `stop`."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._session: Session | None = None
        self._head = Head(-1, b"")
        self._edge = Edge()
        self._streams: dict[str, StreamHead] = {}
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="audit-keeper", daemon=True)
        self._due = threading.Event()
        self._closing = threading.Lock()
        self._closed = False

    def start(self) -> None:
        self._thread.start()
        self._keeper.start()

    def put(self, job: Job) -> None:
        with self._closing:
            if self._closed:
                raise LogUnavailable("the store is closed")
            self._queue.put(job)

    def stop(self) -> None:
        """Finish what was queued, then end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        self._due.set()
        self._keeper.join()

    def _run(self) -> None:
        going, batches = True, 0
        while going:
            jobs, going = self._collect()
            jobs = [job for job in jobs if not job.future.cancelled()]
            if jobs:
                self._apply(jobs)
                _tell(jobs)
                batches += 1
                if batches % _TEND_EVERY == 0:
                    self._due.set()
        if self._session is not None:
            self._session.close()

    def _keep(self) -> None:
        """Upkeep beside the writer. A failure here costs space, not safety; the next round tries again."""
        while self._thread.is_alive():
            self._due.wait()
            self._due.clear()
            with suppress(*STORAGE_ERRORS):
                self._database.tend()

    def _collect(self) -> tuple[list[Job], bool]:
        """Wait for a job and take all that queued behind it; False where the writer is to end afterwards."""
        try:
            item = self._queue.get(timeout=_LONGEST_WAIT_S)
        except Empty:
            return [], True
        jobs: list[Job] = []
        while item is not None:
            jobs.append(item)
            if len(jobs) == _LARGEST_BATCH:
                return jobs, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _apply(self, jobs: list[Job]) -> None:
        """Run the batch. Afterwards every job has a result that is durable, or an error and no effect."""
        token = secrets.token_bytes(16)
        try:
            session = self._ready()
            batch = self._assemble(self._run_jobs(session, jobs), session, token)
            session.append(batch.appended)
        except Exception as error:  # noqa: BLE001  # the thread's boundary: every caller is told
            self._discard()
            _fail(jobs, LogUnavailable(f"the log could not be written ({error}): nothing was done"), error)
            return
        try:
            session.commit()
        except STORAGE_ERRORS as error:
            self._discard()
            failure = self._fate(token, error)
            if failure is not None:
                _fail(jobs, failure, error)
            return
        self._head, self._edge = batch.appended.head, batch.edge
        if len(self._streams) > _STREAMS_KEPT:
            self._streams.clear()
        self._streams.update(batch.touched)

    def _ready(self) -> Session:
        if self._session is None:
            self._session = self._database.session()
        head = self._session.begin()
        if head != self._head:
            self._edge = Edge(head.size, self._session.edge_rows(head.size))
            self._streams.clear()
            self._head = head
        return self._session

    def _run_jobs(self, session: Session, jobs: list[Job]) -> list[Prepared]:
        now = session.now()
        recorded: list[Prepared] = []
        for job in jobs:
            transaction = OpenTransaction(session.connection, now or self._clock())
            session.enter()
            try:
                job.result = job.work(transaction)
            except Exception as error:  # a job's boundary: its caller gets the error, the others go on
                if session.is_storage_failure(error) or not session.undo():
                    raise LogUnavailable(f"the database failed during a transaction: {error}") from error
                job.error = error
            else:
                session.leave()
                recorded += transaction.recorded
        return recorded

    def _assemble(self, recorded: list[Prepared], session: Session, token: bytes) -> _Batch:
        """Chain and hash what the batch recorded."""
        touched: dict[str, StreamHead] = {}
        bodies: list[bytes] = []
        leaves: list[bytes] = []
        for item in recorded:
            stream = item.stream
            head = touched.get(stream) or self._streams.get(stream) or session.stream(stream)
            body = seal(item, head.length, head.head)
            leaf = sha256(b"\0" + body).digest()
            bodies.append(body)
            leaves.append(leaf)
            touched[stream] = StreamHead(stream, head.length + 1, leaf)
        edge = self._edge.copy()
        tiles = edge.append(leaves)
        head_after = Head(edge.size, token)
        return _Batch(Appended(self._head.size, bodies, tiles, list(touched.values()), head_after), edge, touched)

    def _discard(self) -> None:
        """Throw the session away; what was cached is read anew."""
        if self._session is not None:
            self._session.close()
        self._session = None
        self._head = Head(-1, b"")

    def _fate(self, token: bytes, cause: Exception) -> LogUnavailable | None:
        """After a commit that raised: None where it took effect all the same. A fresh session waits its turn among
        the writers, so a commit still under way on a lost connection has ended before the answer is read."""
        for _ in range(_FATE_ATTEMPTS):
            try:
                fresh = self._database.session()
            except STORAGE_ERRORS:
                continue
            try:
                found = fresh.begin().token == token
            except STORAGE_ERRORS:
                continue
            finally:
                fresh.close()
            return None if found else LogUnavailable(f"the log could not be written ({cause}): nothing was done")
        return CommitUnknown(f"storage failed during a commit and is still gone ({cause}): look before trying again")


def _fail(jobs: list[Job], failure: LogUnavailable, cause: Exception) -> None:
    failure.__cause__ = cause
    for job in jobs:
        if job.error is None:
            job.error = failure


def _tell(jobs: list[Job]) -> None:
    """One wake-up per loop, however many of its jobs are done."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, done in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, done)
        except RuntimeError:
            continue  # that loop is closed: nobody waits there any more


def _settle(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)

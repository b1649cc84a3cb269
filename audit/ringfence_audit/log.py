"""The log itself: a batch of transactions becomes rows, chained entries, tiles and, when due, a signed checkpoint.

One thread uses it (`writer.Writer`). It keeps the committed end of the log in memory and reads it anew whenever
another process moved it or the session failed. Nothing here waits, retries or tells anybody.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from ringfence_audit.blobs import Blobs
from ringfence_audit.cover import left_by_a_crash
from ringfence_audit.database import STORAGE_ERRORS, Appended, Database, Head, Noted, Session, StreamHead
from ringfence_audit.entries import SEALED_AT_ONCE, Prepared, Preparer, seal
from ringfence_audit.errors import CommitUnknown, LogUnavailable
from ringfence_audit.events import Event
from ringfence_audit.merkle import Edge
from ringfence_audit.notes import Checkpoint, Signs, sign_checkpoint
from ringfence_audit.people import PeopleCount
from ringfence_audit.scan import Broken
from ringfence_audit.session import CATCH_UP

CHECKPOINT_ENTRIES = 1_024
CHECKPOINT_S = 1.0
_STREAMS_KEPT = 20_000
_RECENT = 64
"""Streams of the last batch, whose heads are asked for with the next one's beginning."""
_FATE_ATTEMPTS = 3
_UNREAD = Head(-1, b"")


@dataclass(slots=True)
class Task:
    """One transaction to be applied. Mutable: `Log.apply` leaves its result or its error here."""

    # Any: the log passes results through without looking at them.
    work: Callable[[OpenTransaction], Any]
    result: Any = None
    error: Exception | None = None


class OpenTransaction:
    """See `port.Transaction`."""

    __slots__ = ("_people", "_preparer", "connection", "is_news", "now", "recorded")

    def __init__(
        self, connection: Connection, now: datetime, *, preparer: Preparer, people: PeopleCount | None
    ) -> None:
        self.connection = connection
        self.now = now
        self.recorded: list[Prepared] = []
        self.is_news = False
        self._preparer = preparer
        self._people = people

    def record(self, event: Event) -> None:
        if self._people is not None:
            event = self._people.stamped(event, self.connection)
        self.recorded.append(self._preparer.prepare(event, self.now, self.connection))

    def announce(self) -> None:
        self.is_news = True


class _Disappointed(Exception):
    """A job failed that cannot be undone alone."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Done:
    """What the transactions of a batch that did not fail left behind."""

    recorded: list[Prepared]
    is_news: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    appended: Appended
    edge: Edge
    touched: dict[str, StreamHead]


class Log:
    """The growing log of one database. Not safe for several threads; other processes may hold their own."""

    def __init__(
        self,
        database: Database,
        *,
        signer: Signs,
        preparer: Preparer,
        blobs: Blobs,
        people: PeopleCount | None,
        clock: Callable[[], datetime],
        ticks: Callable[[], float],
    ) -> None:
        self._database = database
        self._signer = signer
        self._preparer = preparer
        self._blobs = blobs
        self._people = people
        self._clock = clock
        self._ticks = ticks
        self._session: Session | None = None
        self._head = _UNREAD
        self._moved: Head | None = None
        self._edge = Edge()
        self._streams: dict[str, StreamHead] = {}
        self._recent: Sequence[str] = ()
        self._noted: Noted | None = None
        self._pending: Noted | None = None
        self._signed_at = ticks()
        self._writer = secrets.token_bytes(8)

    @property
    def has_uncovered(self) -> bool:
        """Whether entries are committed that no stored checkpoint covers."""
        return self._pending is not None or self._head.size > self._covered

    @property
    def _covered(self) -> int:
        noted = self._pending or self._noted
        return 0 if noted is None else noted.size

    def apply(self, first: Sequence[Task], late: Callable[[], Sequence[Task]] = tuple) -> None:
        """Run and commit a batch. Afterwards each task has a durable result, or an error and no effect.

        `late` is asked for more once the log has its turn among the writers, for which it may have waited.
        """
        token = secrets.token_bytes(16)
        tasks = first
        try:
            session = self._begin()
            tasks = [*first, *late()]
            done = self._try(session, tasks)
            if done is None:
                return
            batch = self._assemble(done, session, token)
            session.append(batch.appended)
        except Exception as error:  # noqa: BLE001  # the batch's boundary: every caller is told, the writer goes on
            self._discard()
            _fail(tasks, LogUnavailable(f"the log could not be written ({error}): nothing was done"), error)
            return
        try:
            session.commit()
        except Exception as error:  # noqa: BLE001  # as above, and what became of the commit is looked up
            self._discard()
            failure = self._fate(token, error)
            if failure is not None:
                _fail(tasks, failure, error)
            return
        self._committed(batch)

    def seal(self) -> str | None:
        """Store a checkpoint over all that is committed and return the newest; None while the log is empty.

        Raises `LogUnavailable`; then the next batch or call tries again.
        """
        token = secrets.token_bytes(16)
        try:
            session = self._begin()
            self._catch_up(session, ())
            if self._head.size == (self._noted.size if self._noted else 0):
                self._discard()
                return self._noted.note if self._noted else None
            noted = self._sign(self._edge)
            appended = Appended(self._head.size, (), (), (), Head(self._head.size, token), self._writer, noted)
            session.append(appended)
            session.commit()
        except STORAGE_ERRORS as error:
            self._discard()
            raise LogUnavailable(f"the checkpoint could not be stored: {error}") from error
        self._committed(_Batch(appended, self._edge, {}))
        return noted.note

    def close(self) -> None:
        self._discard()

    def _begin(self) -> Session:
        session = self._session or self._database.session()
        known, streams = self._head.size, self._recent
        try:
            head = session.begin(known, streams)
        except STORAGE_ERRORS:
            is_stale = session is self._session and session.is_lost
            session.close()
            self._discard()
            if not is_stale:
                raise
            # It broke while nobody used it: the server was restarted, or it failed over. Nothing was under way.
            session = self._database.session()
            head = session.begin(_UNREAD.size, ())
        self._session = session
        if head != self._head:
            self._streams.clear()
            if self._head != _UNREAD and 0 <= head.size - self._head.size <= CATCH_UP:
                self._moved = head  # what others appended is asked for together with the streams
            else:
                self._edge = Edge(head.size, session.edge_rows(head.size))
                self._set_head(head, session.newest_note())
                if self.has_uncovered:  # left by a writer that was killed: they are covered with the next commit
                    self._require_crash(session)
                    self._pending = self._sign(self._edge)
        return session

    def _require_crash(self, session: Session) -> None:
        """Nothing is signed that somebody without the key may have put in place of what was signed before."""
        try:
            for _ in left_by_a_crash(session.connection, self._covered, self._head.size):
                pass
        except Broken as broken:
            where = "" if broken.fault.position is None else f"entry {broken.fault.position}: "
            raise LogUnavailable(
                f"{where}{broken.fault.problem}; run verify and restore the log, nothing is written until then"
            ) from broken

    def _catch_up(self, session: Session, streams: Iterable[str]) -> None:
        """Learn in one question what others appended and where these streams end."""
        moved, self._moved = self._moved, None
        missing = [stream for stream in dict.fromkeys(streams) if stream not in self._streams]
        if moved is None and not missing:
            return
        seen = session.look(self._head.size, (moved or self._head).size, missing)
        if moved is not None:
            self._edge.append(seen.leaves)
            self._set_head(moved, seen.note)
            if self.has_uncovered and self._is_due():  # whoever wrote them may be gone
                self._pending = self._sign(self._edge)
        self._streams.update((head.stream, head) for head in seen.streams)

    def _set_head(self, head: Head, noted: Noted | None) -> None:
        if noted is not None and noted.size > head.size:
            raise LogUnavailable(
                f"the log holds {head.size} entries and a signed checkpoint over {noted.size}: it was cut back; "
                "restore it, nothing is written until then"
            )
        self._head, self._noted, self._pending = head, noted, None

    def _try(self, session: Session, tasks: Sequence[Task]) -> _Done | None:
        """Run the batch, in a second try with care where the first was hopeful; None where nothing is left of it."""
        try:
            return self._run(session, tasks, is_careful=not session.is_hopeful)
        except _Disappointed as failed:
            session.roll_back()
            if len(tasks) == 1:
                tasks[0].error = failed.error
                return None
        return self._run(self._begin(), tasks, is_careful=True)

    def _run(self, session: Session, tasks: Sequence[Task], *, is_careful: bool) -> _Done:
        now = session.now()
        recorded: list[Prepared] = []
        is_news = False
        for task in tasks:
            moment = now or self._clock()
            transaction = OpenTransaction(session.connection, moment, preparer=self._preparer, people=self._people)
            if is_careful:
                session.enter()
            try:
                task.result = task.work(transaction)
                session.leave()
            except Exception as error:  # a task's boundary: its caller gets the error, the others go on
                if not session.is_storage_failure(error) and not is_careful:
                    raise _Disappointed(error) from error
                if session.is_storage_failure(error) or not session.undo():
                    raise LogUnavailable(f"the database failed during a transaction: {error}") from error
                task.error = error
            else:
                recorded += transaction.recorded
                is_news = is_news or transaction.is_news
        return _Done(recorded, is_news)

    def _assemble(self, done: _Done, session: Session, token: bytes) -> _Batch:
        """Chain and hash what the batch recorded; its large bodies are durable before the entries that name them."""
        self._catch_up(session, (item.stream for item in done.recorded))
        touched: dict[str, StreamHead] = {}
        bodies: list[bytes] = []
        leaves: list[bytes] = []
        blobs: dict[str, bytes] = {}
        for item in done.recorded:
            stream = item.stream
            head = touched.get(stream) or self._streams[stream]
            body = seal(item, head.length, head.head)
            leaf = sha256(b"\0" + body).digest()
            bodies.append(body)
            leaves.append(leaf)
            touched[stream] = StreamHead(stream, head.length + 1, leaf)
            if item.blobs:
                blobs.update(item.blobs)
        if blobs:
            self._blobs.put(blobs, session.connection)
        edge = self._edge.copy()
        tiles = edge.append(leaves)
        after = Head(edge.size, token)
        is_sealed = any(item.kind in SEALED_AT_ONCE for item in done.recorded)
        noted = self._sign(edge) if is_sealed else self._pending
        appended = Appended(
            self._head.size, bodies, tiles, list(touched.values()), after, self._writer, noted, done.is_news
        )
        return _Batch(appended, edge, touched)

    def _committed(self, batch: _Batch) -> None:
        self._head, self._edge = batch.appended.head, batch.edge
        self._streams.update(batch.touched)
        self._recent = tuple(batch.touched)[:_RECENT] or self._recent
        if len(self._streams) > _STREAMS_KEPT:
            self._streams.clear()
        if batch.appended.note is not None:
            self._noted, self._pending = batch.appended.note, None
        uncovered = self._head.size - self._covered
        if uncovered and (uncovered >= CHECKPOINT_ENTRIES or self._is_due()):
            self._pending = self._sign(self._edge)

    def _is_due(self) -> bool:
        return self._ticks() - self._signed_at >= CHECKPOINT_S

    def _sign(self, edge: Edge) -> Noted:
        checkpoint = Checkpoint(self._signer.origin, edge.size, edge.root())
        self._signed_at = self._ticks()
        return Noted(checkpoint.size, sign_checkpoint(checkpoint, self._signer))

    def _discard(self) -> None:
        """Throw the session away; what was cached is read anew."""
        if self._session is not None:
            self._session.close()
        self._session = None
        self._head, self._moved = _UNREAD, None

    def _fate(self, token: bytes, cause: Exception) -> LogUnavailable | None:
        """After a commit that raised: None where it took effect all the same. A fresh session waits its turn among
        the writers, so a commit still under way on a lost connection has ended before the answer is read."""
        for _ in range(_FATE_ATTEMPTS):
            try:
                fresh = self._database.session()
            except STORAGE_ERRORS:
                continue
            try:
                fresh.begin(_UNREAD.size, ())
                found = fresh.last_token(self._writer) == token
                fresh.confirm()
            except STORAGE_ERRORS:
                continue
            finally:
                fresh.close()
            return None if found else LogUnavailable(f"the log could not be written ({cause}): nothing was done")
        return CommitUnknown(f"storage failed during a commit and is still gone ({cause}): look before trying again")


def _fail(tasks: Sequence[Task], failure: LogUnavailable, cause: Exception) -> None:
    failure.__cause__ = cause
    for task in tasks:
        if task.error is None:
            task.error = failure

"""News: what became an entry, told to open event streams in the order of the log.

One task a process reads what was appended and hands each stream what it may see. A stream holds a queue and no
thread, so that hundreds of idle ones cost next to nothing. Truth is the log: a stream that falls behind, or comes back
with a position, is filled up from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from ringfence.auth.identity import Reach
from ringfence_agents.schema import runs
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Kind
from ringfence_audit.facts import Entry
from ringfence_audit.query import Filter, PageRequest, query
from ringfence_audit.store import SqlStore

LOOK_S = 0.05
BATCH = 500
BACKLOG = 5_000
"""Entries that are looked through for a stream that resumes; beyond, it is told to load anew."""
QUEUE = 1_000
CARD_KINDS = frozenset({Kind.ESCALATION.value, Kind.VOTE.value, Kind.SETTLED.value})


@dataclass(frozen=True, slots=True)
class News:
    """One entry as streams see it. `position` -1: some were left out, load anew."""

    position: int
    kind: str = ""
    run: str = ""
    team: str = ""
    call: str = ""
    escalation: int | None = None


LOAD_ANEW = News(-1)


@dataclass(frozen=True, slots=True)
class Interest:
    """What a stream wants and may see: one run, or the cards of its reach."""

    reach: Reach
    run: str = ""

    def covers(self, news: News) -> bool:
        if news.team not in self.reach:
            return False
        return news.run == self.run if self.run else news.kind in CARD_KINDS


@dataclass(eq=False, slots=True)
class Stream:
    interest: Interest
    queue: asyncio.Queue[News | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))

    def offer(self, news: News | None) -> None:
        """A stream that does not keep up is told to load anew instead of holding the news for ever."""
        if self.queue.full():
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(LOAD_ANEW)
        self.queue.put_nowait(news)


class Feed:
    """`run` it in a task; `listen` gives streams."""

    def __init__(self, store: SqlStore, *, look_s: float = LOOK_S) -> None:
        self._store = store
        self._look_s = look_s
        self._streams: set[Stream] = set()
        self._by_run: dict[str, set[Stream]] = {}
        self._closed = False
        self.ready = asyncio.Event()
        """Set once news are told."""
        self.position = -1
        """The last entry that was told."""
        self.looked_at = 0.0
        """When the log was last looked at, by the monotonic clock."""

    @property
    def open_streams(self) -> int:
        return len(self._streams) + sum(map(len, self._by_run.values()))

    async def run(self) -> None:
        """Look for news until cancelled. A database that is away is waited for."""
        try:
            self.position = await self._store.read(_newest)
            self.ready.set()
            while True:
                with contextlib.suppress(LogUnavailable):
                    while await self._look() == BATCH:
                        pass
                await asyncio.sleep(self._look_s)
        finally:
            self.close()

    def close(self) -> None:
        """End every stream, so that the server can go."""
        self._closed = True
        for stream in (*self._streams, *(one for group in self._by_run.values() for one in group)):
            stream.offer(None)

    @contextlib.contextmanager
    def listen(self, interest: Interest) -> Iterator[Stream]:
        stream = Stream(interest)
        group = self._by_run.setdefault(interest.run, set()) if interest.run else self._streams
        group.add(stream)
        if self._closed:
            stream.offer(None)
        try:
            yield stream
        finally:
            group.discard(stream)
            if interest.run and not group:
                self._by_run.pop(interest.run, None)

    async def missed(self, interest: Interest, after: int) -> AsyncIterator[News]:
        """What was appended behind `after`, as far as the interest goes."""
        found = await self._store.read(lambda connection: _since(connection, after, BACKLOG, run=interest.run))
        if len(found) == BACKLOG:
            yield LOAD_ANEW
            return
        for news in found:
            if interest.covers(news):
                yield news

    async def _look(self) -> int:
        found = await self._store.read(lambda connection: _since(connection, self.position, BATCH))
        self.looked_at = time.monotonic()
        for news in found:
            self.position = news.position
            listeners = (*self._by_run.get(news.run, ()), *(self._streams if news.kind in CARD_KINDS else ()))
            for stream in listeners:
                if stream.interest.covers(news):
                    stream.offer(news)
        return len(found)


def _newest(connection: Connection) -> int:
    page = query(connection, Filter(), PageRequest(1))
    return page.entries[0].position if page.entries else -1


def _since(connection: Connection, after: int, limit: int, *, run: str = "") -> list[News]:
    wanted = Filter(run=run) if run else Filter()
    page = query(connection, wanted, PageRequest(limit, after, oldest_first=True))
    names = {entry.run for entry in page.entries}
    rows = connection.execute(select(runs.c.id, runs.c.team).where(runs.c.id.in_(names))) if names else ()
    teams = {row.id: row.team for row in rows}
    return [_news(entry, teams.get(entry.run, "")) for entry in page.entries]


def _news(entry: Entry, team: str) -> News:
    escalation = entry.data.get("escalation")
    number = escalation if isinstance(escalation, int) else None
    return News(entry.position, entry.kind, entry.run, team, entry.call, number)

"""The log as a feed for a SIEM: entries in order, each delivered before the next, from a cursor by log index.

A collector that is down is tried again until it answers; the log itself is the buffer, so nothing is lost and nothing
queues in memory. The cursor moves only after a batch was taken. If the process dies between the two, that batch is sent
again, under the same idempotency key and with every entry's position, so that a collector can tell. One process feeds
a collector at a time (`ringfence audit stream` holds a lock).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection, insert, select, update

from ringfence_audit.errors import AuditError
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.port import Transaction
from ringfence_audit.records import cursors
from ringfence_audit.scan import rows_of
from ringfence_audit.tree import TreeReader

BATCH = 500
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class CollectorDown(AuditError):
    """The collector did not take a batch: nothing moved; it is tried again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One entry on its way: parsed, and its exact bytes."""

    entry: Entry
    raw: bytes


class Collector(Protocol):
    """Takes batches. A batch that was taken is the collector's; one that raised may be sent again whole."""

    def send(self, batch: Sequence[Sent]) -> None:
        """Blocks until the collector has taken all of it. Raises `CollectorDown`."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a feed is behind: entries, and the age of the oldest that was not delivered."""

    entries: int
    oldest: datetime | None


class Feeder(Protocol):
    """What a feed needs of the store, for callers on a thread of their own."""

    def read(self, work: Callable[[Connection], list[Sent]]) -> list[Sent]: ...

    def write(self, work: Callable[[Transaction], None]) -> None: ...


class Feed:
    """Moves the log to one collector. `name` is the cursor's."""

    def __init__(self, name: str, feeder: Feeder, collector: Collector, *, sleep: Callable[[float], None]) -> None:
        self._name = name
        self._feeder = feeder
        self._collector = collector
        self._sleep = sleep
        self._pause_s = FIRST_PAUSE_S

    def drain(self) -> int:
        """Deliver all that is there, waiting out a collector that is down; how many entries were delivered."""
        done = 0
        while True:
            batch = self._feeder.read(lambda connection: _batch(connection, self._name))
            if not batch:
                return done
            self._deliver(batch)
            end = batch[-1].entry.position + 1
            self._feeder.write(lambda tx, end=end: move(tx, self._name, end))  # type: ignore[misc]  # bound per turn
            done += len(batch)

    def _deliver(self, batch: Sequence[Sent]) -> None:
        while True:
            try:
                self._collector.send(batch)
            except CollectorDown:
                self._sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._pause_s = FIRST_PAUSE_S
                return


def cursor(connection: Connection, name: str) -> int:
    """The position of the next entry to deliver."""
    found = connection.execute(select(cursors.c.next).where(cursors.c.sink == name)).scalar()
    return int(found or 0)


def cursors_of(connection: Connection) -> dict[str, int]:
    """Every feed there was, by name, and the position of the next entry that its collector is to take."""
    return {row.sink: row.next for row in connection.execute(select(cursors.c.sink, cursors.c.next))}


def move(tx: Transaction, name: str, position: int) -> None:
    """Everything before `position` is delivered. A cursor never goes back."""
    moved_at = int(tx.now.timestamp() * 1_000_000)
    where = (cursors.c.sink == name) & (cursors.c.next <= position)
    values = {"next": position, "moved_at": moved_at}
    if not tx.connection.execute(update(cursors).where(where).values(**values)).rowcount:
        known = tx.connection.execute(select(cursors.c.next).where(cursors.c.sink == name)).first()
        if known is None:
            tx.connection.execute(insert(cursors).values(sink=name, **values))


def lag(connection: Connection, name: str) -> Lag:
    """How far the feed is behind, as a metric."""
    at = cursor(connection, name)
    size = TreeReader(connection).size()
    first = next(iter(rows_of(connection, at, size)), None)
    oldest = parse_entry(*first).time if first is not None and isinstance(first[1], bytes) else None  # type: ignore[arg-type]  # its class was just looked at
    return Lag(max(size - at, 0), oldest)


def _batch(connection: Connection, name: str) -> list[Sent]:
    """The next entries; those that retention dropped meanwhile are passed over."""
    at = cursor(connection, name)
    size = TreeReader(connection).size()
    while at < size:
        end = min(at + BATCH, size)
        batch = [Sent(parse_entry(p, raw), raw) for p, raw in rows_of(connection, at, end) if isinstance(raw, bytes)]
        if batch:
            return batch
        at = end
    return []

"""Whether the index says what the evidence says: every row and posting derived again and compared, word for word."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.index import CHUNK, Index, IndexDamaged
from ringfence_audit.index_rows import COLUMNS, Row, row_of
from ringfence_audit.scan import Fault, rows_of


def check_index(index: Index, connection: Connection, *, size: int) -> Fault | None:
    """The first entry that the index has otherwise than the evidence, None where all that is indexed agrees.

    Raises `IndexDamaged` where it cannot be read.
    """
    try:
        end = index.next
        if end > size:
            return Fault(f"the index speaks of {end} entries, and the log has {size}")
        return _Check(index, connection).run(end)
    except sqlite3.Error as error:
        raise IndexDamaged(f"the index cannot be read ({error})") from error


class _Check:
    def __init__(self, index: Index, connection: Connection) -> None:
        self._raw = index.raw
        self._connection = connection
        rows = self._raw.execute("SELECT dimension, word, id FROM word")
        self._ids: dict[tuple[str, str], int] = {(dimension, word): id_ for dimension, word, id_ in rows}
        self._tasks: dict[str, str] = {}

    def run(self, end: int) -> Fault | None:
        stored = self._raw.execute("SELECT * FROM entry ORDER BY position")
        postings = _Postings(self._raw)
        for start in range(0, end, CHUNK):
            stop = min(start + CHUNK, end)
            rows = list(self._derived(start, stop))
            expected = [self._numbers(row) for row in rows]
            found = stored.fetchmany(len(expected))
            if found != expected:
                return _difference(expected, found, start)
            wanted = sorted((row.position, self._ids.get(pair, 0)) for row in rows for pair in row.more)
            if (had := postings.between(start, stop)) != sorted(set(wanted)):
                position = min(set(wanted) ^ set(had))[0]
                return Fault("the index has other words for it than the evidence", position)
        extra = stored.fetchone()
        if extra is not None:
            return Fault("the index holds an entry that the log does not have", extra[0])
        return postings.beyond(end)

    def _derived(self, start: int, stop: int) -> Iterator[Row]:
        for position, raw in rows_of(self._connection, start, stop):
            if not isinstance(raw, bytes):
                continue
            try:
                entry = parse_entry(position, raw)
            except InvalidExport:
                continue  # no entry at all, which the evidence's own check names
            if entry.kind == Kind.RUN_OPENED and isinstance(task := entry.data.get("task"), str) and task:
                self._tasks[entry.run] = task
            yield row_of(entry, self._tasks.get(entry.run))

    def _numbers(self, row: Row) -> tuple[int | None, ...]:
        ids = self._ids
        named = zip(COLUMNS, row.words, strict=True)
        words = [None if word is None else ids.get((name, word), 0) for name, word in named]
        return (row.position, row.time_us, int(row.is_refused), *words)


class _Postings:
    """All postings by position, a window at a time."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        raw.execute("CREATE TEMP TABLE IF NOT EXISTS sorted (position INTEGER, word INTEGER)")
        raw.execute("DELETE FROM temp.sorted")
        raw.execute("INSERT INTO temp.sorted SELECT position, word FROM posting ORDER BY position, word")
        self._rows = iter(raw.execute("SELECT position, word FROM temp.sorted ORDER BY rowid"))
        self._next = next(self._rows, None)

    def between(self, start: int, stop: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        row = self._next
        while row is not None and row[0] < stop:
            found.append(row)
            row = next(self._rows, None)
        self._next = row
        return found

    def beyond(self, end: int) -> Fault | None:
        return None if self._next is None else Fault("the index holds words of an entry that is not there", end)


def _difference(
    expected: Sequence[tuple[int | None, ...]], found: Sequence[tuple[int | None, ...]], start: int
) -> Fault:
    for wanted, had in zip(expected, found, strict=False):
        if wanted != had:
            return Fault("the index has it otherwise than the evidence", wanted[0])
    shorter = expected[len(found)] if len(found) < len(expected) else (start,)
    return Fault("the index lacks it", shorter[0])

"""Answers through the index: the positions come from there, the entries from the evidence.

The narrowest word drives: its postings are walked newest first, everything else is looked up per candidate, and the
walk stops when the page is full. Where the index is looser than the question (words, calls, digests) each candidate is
held against the question again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.index import Index, IndexDamaged
from ringfence_audit.index_rows import COLUMNS
from ringfence_audit.query import MAX_PAGE, Filter, Page, PageRequest, fits, words_of
from ringfence_audit.tables import entries

_MOST_WORDS = 500
"""Words that a pattern may stand for before the question is refused as too wide to be answered by index."""
_INDEXED = frozenset({"run", "task", "agent", "kind", "tool"})
_FEW = 100_000
"""Candidates of a pattern that are collected before they are walked; more are so dense that all entries are walked."""
_SLACK_US = 120_000_000
"""How far entries' times may lie behind those of earlier entries."""


class QuestionTooWide(IndexDamaged):
    """A pattern fits so many words that the index cannot help: narrow it."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A statement for positions, without its keyset."""

    source: str
    where: tuple[str, ...]
    values: tuple[int | str, ...]
    order: str
    must_recheck: bool
    is_loose: bool
    """Whether full text was looked up for fewer words than were asked about."""


def search(index: Index, connection: Connection, wanted: Filter, page: PageRequest | None = None) -> Page:
    """One page of an answer, from what is indexed. Raises `IndexDamaged`."""
    page = page or PageRequest()
    limit = max(1, min(page.limit, MAX_PAGE))
    found: list[Entry] = []
    after = page.after
    try:
        plan = _plan(index, wanted)
        if plan is None:
            return Page((), None)
        # Full text covers large values that left the entry, which `holds` does not see.
        strict = wanted if plan.is_loose else replace(wanted, words=None)
        while True:
            positions = _positions(index, plan, replace(page, after=after), limit + 1)
            for entry in _entries(connection, positions, oldest_first=page.oldest_first):
                if (plan.must_recheck or plan.is_loose) and not fits(entry, strict):
                    continue
                if len(found) == limit:
                    return Page(tuple(found), found[-1].position)
                found.append(entry)
            if len(positions) <= limit:
                return Page(tuple(found), None)
            after = positions[-1]
    except sqlite3.Error as error:
        raise IndexDamaged(f"the index cannot be read ({error}): remove {index.path}, it is derived") from error


def matching(index: Index, connection: Connection, wanted: Filter) -> Iterator[Entry]:
    """Every entry that answers, oldest first."""
    after: int | None = None
    while True:
        page = search(index, connection, wanted, PageRequest(MAX_PAGE, after, oldest_first=True))
        yield from page.entries
        if page.next is None:
            return
        after = page.next


def _plan(index: Index, wanted: Filter) -> _Plan | None:
    """How to walk; None where a word of the question is in no entry."""
    columns: dict[str, list[int]] = {}
    postings: list[list[int]] = []
    counts: list[tuple[int, str, list[int]]] = []
    must_recheck = False
    words: list[str] = []
    for dimension, pattern in wanted.wanted().items():
        if dimension == "refused":
            continue
        if dimension == "digest":
            words += words_of(pattern)
            must_recheck = True
            continue
        if dimension == "call":
            must_recheck = True
            dimension, pattern = "run", pattern.partition("/")[0]
        ids, count = _ids(index, dimension, pattern)
        if not ids:
            return None
        if dimension in COLUMNS:
            columns[dimension] = [id_ for id_ in ids if id_ in columns.get(dimension, ids)]
        else:
            postings.append(ids)
        counts.append((count, dimension, ids))
    words += words_of(wanted.words) if wanted.words is not None else []
    match, is_loose = _match(index, words)
    where, values = _conditions(columns, wanted.refused, _bounds(index, wanted))
    if match:
        source = "words.body t CROSS JOIN entry e ON e.position = t.rowid"
        where, values = ["t.body MATCH ?", *where], [match, *values]
        order = "t.rowid"
        driver = None
    else:
        source, driver = _driver(columns, counts, wanted.refused)
        order = "p.position" if driver is not None else "e.position"
        if driver is not None:
            values = [*driver, *values]
    for ids in postings:
        if ids is not driver:
            among = f"o.word IN ({_marks(ids)})"
            where.append(f"EXISTS (SELECT 1 FROM posting o WHERE {among} AND o.position = e.position)")  # noqa: S608  # marks only
            values += ids
    return _Plan(source, tuple(where), tuple(values), order, must_recheck, is_loose)


def _driver(
    columns: dict[str, list[int]], counts: Sequence[tuple[int, str, list[int]]], is_refused: bool
) -> tuple[str, list[int] | None]:
    """The narrowest dimension, and the postings where it is one."""
    if is_refused and "agent" in columns:
        return "entry e INDEXED BY entry_refused", None
    if is_refused and "task" in columns:
        return "entry e INDEXED BY entry_refused_task", None
    indexed = [item for item in counts if item[1] not in COLUMNS or item[1] in _INDEXED]
    if not indexed:
        return ("entry e INDEXED BY entry_unusual" if is_refused else "entry e"), None
    count, dimension, ids = min(indexed, key=lambda item: item[0])
    if dimension in COLUMNS:
        return f"entry e INDEXED BY entry_{dimension}", None
    if len(ids) > 1 and count > _FEW:
        return "entry e", None
    distinct = "DISTINCT " if len(ids) > 1 else ""
    walk = f"SELECT {distinct}position FROM posting WHERE word IN ({_marks(ids)})"  # noqa: S608  # marks only
    return f"({walk}) p CROSS JOIN entry e ON e.position = p.position", ids


def _conditions(
    columns: dict[str, list[int]], is_refused: bool, bounds: Sequence[tuple[str, int]]
) -> tuple[list[str], list[int | str]]:
    where: list[str] = ["e.refused = 1"] if is_refused else []
    values: list[int | str] = []
    for name, ids in columns.items():
        where.append(f"e.{name} = ?" if len(ids) == 1 else f"e.{name} IN ({_marks(ids)})")
        values += ids
    for condition, value in bounds:
        where.append(condition)
        values.append(value)
    return where, values


def _ids(index: Index, dimension: str, pattern: str) -> tuple[list[int], int]:
    """The words that a pattern stands for, and how many entries have them."""
    if "*" not in pattern:
        query = "SELECT id, n FROM word WHERE dimension = ? AND word = ?"
        rows = index.raw.execute(query, (dimension, pattern)).fetchall()
    else:
        glob = pattern.replace("[", "[[]").replace("?", "[?]")
        query = "SELECT id, n FROM word WHERE dimension = ? AND word GLOB ? LIMIT ?"
        rows = index.raw.execute(query, (dimension, glob, _MOST_WORDS + 1)).fetchall()
    if len(rows) > _MOST_WORDS:
        raise QuestionTooWide(f"{dimension} {pattern[:60]} stands for more than {_MOST_WORDS} words: narrow it")
    return [id_ for id_, _ in rows], sum(n for _, n in rows)


def _match(index: Index, words: Sequence[str]) -> tuple[str, bool]:
    """The full-text expression, and whether it says less than the words do.

    A letter newer than SQLite's tables would split a word, which this kind of index cannot look up."""
    terms = [f'"{word}"' for word in dict.fromkeys(words)]
    if not terms:
        return "", False
    try:
        index.raw.execute("SELECT 1 FROM words.body WHERE body MATCH ? LIMIT 0", (" ".join(terms),)).fetchone()
    except sqlite3.OperationalError:
        terms = [term for term in terms if term.isascii()]
        return " ".join(terms), True
    return " ".join(terms), False


def _bounds(index: Index, wanted: Filter) -> list[tuple[str, int]]:
    """Times as conditions, and as bounds on the position so that no more is walked than need be."""
    bounds: list[tuple[str, int]] = []
    if wanted.since is not None:
        since = int(wanted.since.timestamp() * 1_000_000)
        bounds += [("e.time >= ?", since), ("e.position >= ?", _bisect(index, since - _SLACK_US))]
    if wanted.until is not None:
        until = int(wanted.until.timestamp() * 1_000_000)
        bounds += [("e.time < ?", until), ("e.position < ?", _bisect(index, until + _SLACK_US))]
    return bounds


def _bisect(index: Index, time_us: int) -> int:
    """About the first position that is not before a time."""
    low, high = 0, index.next
    while low < high:
        middle = (low + high) // 2
        query = "SELECT time FROM entry WHERE position >= ? ORDER BY position LIMIT 1"
        found = index.raw.execute(query, (middle,)).fetchone()
        if found is not None and found[0] < time_us:
            low = middle + 1
        else:
            high = middle
    return low


def _positions(index: Index, plan: _Plan, page: PageRequest, limit: int) -> list[int]:
    where, values = list(plan.where), list(plan.values)
    if page.after is not None:
        where.append(f"{plan.order} > ?" if page.oldest_first else f"{plan.order} < ?")
        values.append(page.after)
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    direction = "ASC" if page.oldest_first else "DESC"
    # Only our own names stand in the text; every value is bound.
    query = f"SELECT {plan.order} FROM {plan.source}{condition} ORDER BY {plan.order} {direction} LIMIT ?"  # noqa: S608
    return [position for (position,) in index.raw.execute(query, (*values, limit))]


def _entries(connection: Connection, positions: Sequence[int], *, oldest_first: bool) -> Iterator[Entry]:
    """The entries at these positions, in their order; those whose body retention dropped are left out."""
    if connection.dialect.name == "sqlite":
        marks = _marks(positions)
        statement = f"SELECT position, entry FROM audit_entries WHERE position IN ({marks})"  # noqa: S608  # marks only
        rows = connection.exec_driver_sql(statement, tuple(positions)).fetchall() if positions else []
    else:
        rows = connection.execute(entries.select().where(entries.c.position.in_(positions))).fetchall()
    found = {position: raw for position, raw in rows if raw is not None}
    for position in positions:
        raw = found.get(position)
        if raw is not None:
            yield parse_entry(position, bytes(raw))


def _marks(values: Sequence[int]) -> str:
    return ", ".join("?" * len(values))

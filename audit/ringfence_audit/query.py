"""Answers: entries by run, call, agent, person, tool, kind, decision, outcome, rule, host, path, time and words.

Answers are read from the evidence itself, entry by entry, so they are never older than the connection they are asked
on; there is no index yet. Bodies that left an entry (`$blob`) are not searched. Pages are keysets over the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from fnmatch import fnmatchcase

from sqlalchemy import Connection, func, select

from ringfence_audit.entries import timestamp
from ringfence_audit.errors import EntryNotFound
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry, facts, parse_entry, texts
from ringfence_audit.notes import parse_checkpoint, parse_note
from ringfence_audit.tables import checkpoints, entries
from ringfence_audit.tree import TreeReader

MAX_PAGE = 1_000
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Filter:
    """What to look for; every field that is set must hold. `*` in a word stands for anything. Times: since ≤ t < until.

    `refused` asks for what was forbidden, denied, expired or over budget. `words` are searched in all texts of the
    entry's data, each as a whole word, in any order.
    """

    run: str | None = None
    task: str | None = None
    call: str | None = None
    actor: str | None = None
    agent: str | None = None
    person: str | None = None
    tool: str | None = None
    kind: str | None = None
    decision: str | None = None
    outcome: str | None = None
    vote: str | None = None
    rule: str | None = None
    host: str | None = None
    path: str | None = None
    profile: str | None = None
    grant: str | None = None
    escalation: str | None = None
    approver: str | None = None
    digest: str | None = None
    refused: bool = False
    since: datetime | None = None
    until: datetime | None = None
    words: str | None = None

    def wanted(self) -> dict[str, str]:
        """Dimension → word, for the fields that are facts."""
        words = {name: getattr(self, name) for name in _DIMENSIONS}
        wanted = {name: word for name, word in words.items() if word is not None}
        return {**wanted, "refused": "yes"} if self.refused else wanted

    def to_json(self) -> dict[str, JsonValue]:
        """The question as it is recorded in the log: only the fields that are set."""
        asked: dict[str, JsonValue] = dict(self.wanted())
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None:
                asked[name] = timestamp(moment)
        return asked if self.words is None else {**asked, "words": self.words}


_DIMENSIONS = tuple(field.name for field in fields(Filter) if field.name not in ("refused", "since", "until", "words"))


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`after` is the cursor of the page before. Newest first unless `oldest_first`."""

    limit: int = 100
    after: int | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """`next` is the cursor of the following page, None where this is the last."""

    entries: tuple[Entry, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry with what proves it: canonical bytes, leaf path and the signed note that the path leads to.

    `note` is None, and the proof is for `size` as it stands, where no checkpoint covers the entry yet.
    """

    entry: Entry
    raw: bytes
    size: int
    root: bytes
    proof: tuple[bytes, ...]
    note: str | None


def query(connection: Connection, wanted: Filter, page: PageRequest | None = None) -> Page:
    """One page of an answer."""
    page = page or PageRequest()
    limit = max(1, min(page.limit, MAX_PAGE))
    found: list[Entry] = []
    for entry in _matches(connection, wanted, page):
        if len(found) == limit:
            return Page(tuple(found), found[-1].position)
        found.append(entry)
    return Page(tuple(found), None)


def matching(connection: Connection, wanted: Filter, *, oldest_first: bool = False) -> Iterator[Entry]:
    """Every entry that answers, one after the other."""
    yield from _matches(connection, wanted, PageRequest(oldest_first=oldest_first))


def story(connection: Connection, run: str) -> Iterator[Entry]:
    """A run's whole story in order."""
    yield from _matches(connection, Filter(run=run), PageRequest(oldest_first=True))


def show(connection: Connection, position: int) -> EntryView:
    """Raises `EntryNotFound`, also where retention dropped the body."""
    raw = raw_of(connection, position)
    tree = TreeReader(connection)
    covering = select(checkpoints.c.size, checkpoints.c.note).where(checkpoints.c.size > position)
    row = connection.execute(covering.order_by(checkpoints.c.size).limit(1)).first()
    size, note = (tree.size(), None) if row is None else (row.size, row.note)
    root = tree.root(size) if note is None else parse_checkpoint(parse_note(note).text).root
    return EntryView(parse_entry(position, raw), raw, size, root, tuple(tree.inclusion(position, size)), note)


def raw_of(connection: Connection, position: int) -> bytes:
    """The exact bytes of an entry. Raises `EntryNotFound`."""
    raw = connection.execute(select(entries.c.entry).where(entries.c.position == position)).scalar()
    if raw is None:
        raise EntryNotFound(f"there is no entry {position}, or its body was dropped by retention")
    return bytes(raw)


def show_call(connection: Connection, call: str) -> list[Entry]:
    """Every entry of one tool call (`RUN/TURN/INDEX`), in order. Raises `EntryNotFound`."""
    found = list(_matches(connection, Filter(call=call), PageRequest(oldest_first=True)))
    if not found:
        raise EntryNotFound(f"no entry speaks of the call {call}")
    return found


def _matches(connection: Connection, wanted: Filter, page: PageRequest) -> Iterator[Entry]:
    """Newest (or oldest) first, by looking at each entry: right at any size, quick only for small logs."""
    runs = None if wanted.task is None else _runs_of(connection, wanted.task)
    column = entries.c.position
    query = select(column, entries.c.entry).where(entries.c.entry.is_not(None))
    if page.after is not None:
        query = query.where(column > page.after if page.oldest_first else column < page.after)
    ordered = query.order_by(column.asc() if page.oldest_first else column.desc())
    with connection.execute(ordered, execution_options={"yield_per": _CHUNK}) as rows:
        for position, raw in rows:
            entry = parse_entry(position, raw)
            if (runs is None or entry.run in runs) and fits(entry, wanted):
                yield entry


def _runs_of(connection: Connection, task: str) -> frozenset[str]:
    """The runs that were opened for a task: only a run's first entry names it."""
    opened = _matches(connection, Filter(kind=Kind.RUN_OPENED), PageRequest())
    return frozenset(entry.run for entry in opened if ("task", task) in facts(entry))


def fits(entry: Entry, wanted: Filter) -> bool:
    """Whether an entry answers; the task, which only its run's first entry names, is left to the caller."""
    if not _in_time(entry, wanted):
        return False
    known: dict[str, list[str]] = {}
    for dimension, word in facts(entry):
        known.setdefault(dimension, []).append(word)
    for dimension, pattern in wanted.wanted().items():
        if dimension != "task" and not any(matches(word, pattern) for word in known.get(dimension, ())):
            return False
    if wanted.words is None:
        return True
    present = {word for item in texts(entry.data) for word in words_of(item)}
    return present.issuperset(words_of(wanted.words))


def words_of(value: str) -> set[str]:
    """The words of a text, as full-text search compares them: letters and digits, case folded."""
    return set("".join(c if c.isalnum() else " " for c in value).casefold().split())


def matches(word: str, pattern: str) -> bool:
    """`*` stands for anything; every other character for itself."""
    if "*" not in pattern:
        return word == pattern
    return fnmatchcase(word, pattern.replace("[", "[[]").replace("?", "[?]"))


def _in_time(entry: Entry, wanted: Filter) -> bool:
    if wanted.since is not None and entry.time < wanted.since:
        return False
    return wanted.until is None or entry.time < wanted.until


def count(connection: Connection) -> int:
    """How many entries the log holds."""
    return connection.execute(select(func.count()).select_from(entries)).scalar_one()

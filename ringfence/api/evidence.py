"""Entries as people of some teams may see them, with proofs that are checked again before they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from ringfence.api.house import House
from ringfence.api.log_index import walk_back
from ringfence.api.problems import Unseen
from ringfence.auth.identity import Identity, Reach
from ringfence.auth.roles import Permission
from ringfence_agents.schema import runs
from ringfence_audit.errors import EntryNotFound
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.index import Index
from ringfence_audit.merkle import leaf_hash, root_from_inclusion
from ringfence_audit.query import EntryView, Filter, PageRequest, fits, show
from ringfence_audit.scan import rows_of
from ringfence_audit.search import QuestionTooWide, search
from ringfence_audit.tree import TreeReader

LOOKED_THROUGH = 1_000
"""Entries that one page looks through at most: some thirty milliseconds."""
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Found:
    """`next` is the cursor of the following page, None on the last.

    `looked_to`: the page ends because enough was looked through, down to this position, not because it is full.
    `is_behind`: the index does not hold the log yet, so the question is answered piece by piece.
    """

    entries: tuple[Entry, ...]
    next: int | None
    looked_to: int | None = None
    is_behind: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """Entries that answer, newest first, among `looked` candidates, none of which lies below `end`."""

    entries: Sequence[Entry]
    looked: int
    end: int


async def entries_found(house: House, reach: Reach, wanted: Filter, *, after: int | None, limit: int) -> Found:
    """One page of an answer, newest first. What belongs to no team is for those who read everything."""
    if house.index is None:
        return await house.store.read(lambda c: entries_page(c, None, reach, wanted, after=after, limit=limit))
    return await house.index.read(lambda c, index: entries_page(c, index, reach, wanted, after=after, limit=limit))


def entries_page(
    connection: Connection, index: Index | None, reach: Reach, wanted: Filter, *, after: int | None, limit: int
) -> Found:
    size = TreeReader(connection).size()
    top = size if after is None else min(after, size)
    # Every entry answers an empty question: no index finds them sooner.
    is_asked = wanted != Filter()
    indexed = index.next if index is not None and is_asked else 0
    is_behind = is_asked and size - indexed > LOOKED_THROUGH
    found: list[Entry] = []
    looked = 0
    for piece in _pieces(connection, index, wanted, top=top, floor=min(indexed, top), size=limit + 1):
        for entry in _visible(connection, reach, piece.entries):
            if len(found) == limit:
                return Found(tuple(found), found[-1].position, is_behind=is_behind)
            found.append(entry)
        looked += piece.looked
        if looked >= LOOKED_THROUGH and piece.end > 0:
            return Found(tuple(found), piece.end, looked_to=piece.end, is_behind=is_behind)
    return Found(tuple(found), None, is_behind=is_behind)


def _pieces(
    connection: Connection, index: Index | None, wanted: Filter, *, top: int, floor: int, size: int
) -> Iterator[_Piece]:
    """From `top` down: what the index does not hold by looking at each entry, what lies below `floor` by asking it."""
    if index is None or floor == 0:
        yield from _looked_at(connection, wanted, top=top, floor=0)
        return
    yield from _looked_at(connection, wanted, top=top, floor=floor)
    cursor: int | None = floor
    while cursor is not None:
        try:
            page = search(index, connection, wanted, PageRequest(max(size, _CHUNK), cursor))
        except QuestionTooWide:
            # So many words fit that what answers is soon met.
            yield from _looked_at(connection, wanted, top=cursor, floor=0)
            return
        cursor = page.next
        yield _Piece(page.entries, len(page.entries), 0 if cursor is None else cursor)


def _looked_at(connection: Connection, wanted: Filter, *, top: int, floor: int) -> Iterator[_Piece]:
    for start, end in walk_back(top, floor, _CHUNK):
        read = [
            parse_entry(position, raw) for position, raw in rows_of(connection, start, end) if isinstance(raw, bytes)
        ]
        yield _Piece([entry for entry in reversed(read) if fits(entry, wanted)], end - start, start)


def _visible(connection: Connection, reach: Reach, entries: Sequence[Entry]) -> Sequence[Entry]:
    if reach.is_everywhere:
        return entries
    teams = _teams(connection, {entry.run for entry in entries})
    return [entry for entry in entries if teams.get(entry.run) in reach]


@dataclass(frozen=True, slots=True)
class Proved:
    """`is_proved`: leaf and path lead to the root that the checkpoint signs, computed here and now."""

    view: EntryView
    leaf: bytes
    is_proved: bool


def entry_with_proof(connection: Connection, identity: Identity, position: int) -> Proved:
    """Raises `Unseen`."""
    try:
        view = show(connection, position)
    except EntryNotFound as error:
        raise Unseen("entry") from error
    team = _teams(connection, {view.entry.run}).get(view.entry.run)
    if team not in identity.reach(Permission.READ_ENTRIES):
        raise Unseen("entry")
    leaf = leaf_hash(view.raw)
    return Proved(view, leaf, root_from_inclusion(leaf, position, view.size, proof=view.proof) == view.root)


def _teams(connection: Connection, names: set[str]) -> dict[str, str]:
    rows = connection.execute(select(runs.c.id, runs.c.team).where(runs.c.id.in_(names))) if names else ()
    return {row.id: row.team for row in rows}

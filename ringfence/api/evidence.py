"""Entries as people of some teams may see them, with proofs that are checked again before they are shown."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from ringfence.api.problems import Unseen
from ringfence.auth.identity import Identity, Reach
from ringfence.auth.roles import Permission
from ringfence_agents.schema import runs
from ringfence_audit.errors import EntryNotFound
from ringfence_audit.facts import Entry
from ringfence_audit.merkle import leaf_hash, root_from_inclusion
from ringfence_audit.query import EntryView, Filter, PageRequest, query, show

LOOKED_THROUGH = 5_000
"""Entries that one page looks through for those of the caller's teams."""


@dataclass(frozen=True, slots=True)
class Found:
    """`next` is the cursor of the following page, None on the last."""

    entries: tuple[Entry, ...]
    next: int | None


def entries_page(connection: Connection, reach: Reach, wanted: Filter, *, after: int | None, limit: int) -> Found:
    """Newest first. What belongs to no team is for those who read everything."""
    if reach.is_everywhere:
        page = query(connection, wanted, PageRequest(limit, after))
        return Found(page.entries, page.next)
    found: list[Entry] = []
    looked, cursor = 0, after
    while looked < LOOKED_THROUGH:
        page = query(connection, wanted, PageRequest(200, cursor))
        teams = _teams(connection, {entry.run for entry in page.entries})
        for entry in page.entries:
            looked += 1
            cursor = entry.position
            if teams.get(entry.run) in reach:
                found.append(entry)
                if len(found) == limit:
                    return Found(tuple(found), cursor)
        if page.next is None:
            return Found(tuple(found), None)
    return Found(tuple(found), cursor)


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

"""Whether what no signed checkpoint covers can be what a crash left.

A writer signs within a second, or 1,024 entries, of what it appended, and before anything else what another left
uncovered. So a crash, or a writer at this moment at work, leaves only one moment's entries without a signature; and
none that are sealed at once. More means that checkpoints were taken away, which whoever writes another ending of the
log without the key has to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection

from ringfence_audit.entries import SEALED_AT_ONCE
from ringfence_audit.errors import InvalidExport
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.scan import Broken, rows_of

UNCOVERED_LIMIT = 8_192
"""Entries right of the newest checkpoint that a crash may leave."""
MOMENT = timedelta(seconds=10)
"""How far apart they may be, and for how long a writer may still be about to sign."""


def check_cover(connection: Connection, covered: int, size: int, *, now: datetime) -> None:
    """Judge the entries [covered, size). Raises `Broken`."""
    first: datetime | None = None
    for entry in left_by_a_crash(connection, covered, size):
        if abs(now - entry.time) <= MOMENT:
            continue
        first = first or entry.time
        if abs(entry.time - first) > MOMENT:
            raise _taken(covered)


def left_by_a_crash(connection: Connection, covered: int, size: int) -> Iterator[Entry]:
    """The entries [covered, size), which a writer that starts may sign. Raises `Broken` where no crash leaves such."""
    if size - covered > UNCOVERED_LIMIT:
        raise _taken(covered)
    for position, raw in rows_of(connection, covered, size):
        entry = _parsed(position, raw)
        if entry.kind in SEALED_AT_ONCE:
            raise Broken(
                "it was committed with a checkpoint, and none covers it: checkpoints were taken away", position
            )
        yield entry


def _taken(covered: int) -> Broken:
    return Broken(f"no checkpoint covers the entries from {covered} on: checkpoints were taken away", covered)


def _parsed(position: int, raw: object) -> Entry:
    if not isinstance(raw, bytes):
        raise Broken("its body was dropped, and no checkpoint covers it", position)
    try:
        return parse_entry(position, raw)
    except InvalidExport as error:
        raise Broken(str(error).removeprefix(f"entry {position} "), position) from error

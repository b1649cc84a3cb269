"""What is kept of an entry whose body retention dropped: its place in its stream, and what its producer counted there.

The entry that drops them holds a digest of these rows, and is itself signed by whoever counts what people do. So a
dropped entry excuses the one number that it had, and nobody can hand its excuse to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import Connection, text

from ringfence_audit.canonical import encode
from ringfence_audit.errors import InvalidEvent

_AT_ONCE = 2_000
_ROWS = text(
    "SELECT position, stream, n, producer, number, mark FROM audit_pruned "
    "WHERE position BETWEEN :first AND :last ORDER BY position LIMIT :limit"
)


class Dropped(NamedTuple):
    """A row of `records.pruned`. `mark` is the fingerprint that its producer chained; all three are None where nobody
    counted the entry."""

    position: int
    stream: str
    n: int
    producer: str | None = None
    number: int | None = None
    mark: bytes | None = None


def ranges_of(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending positions as ranges [first, last]."""
    first = last = -2
    for position in positions:
        if position != last + 1:
            if first >= 0:
                yield first, last
            first = position
        last = position
    if first >= 0:
        yield first, last


def rows_between(connection: Connection, first: int, last: int) -> Iterator[Dropped]:
    """The rows of [first, last], in order, a few at a time: as stored, of whatever type in a file that was changed."""
    while first <= last:
        found = connection.execute(_ROWS, {"first": first, "last": last, "limit": _AT_ONCE}).all()
        yield from (Dropped(*row) for row in found)
        if len(found) < _AT_ONCE:
            return
        first = found[-1].position + 1


def digest_of(rows: Iterable[Dropped]) -> str:
    """What the entry that drops these rows says of them; empty where one is no such row."""
    digest = sha256()
    for row in rows:
        mark = row.mark.hex() if isinstance(row.mark, bytes) else None
        try:
            digest.update(encode([row.position, row.stream, row.n, row.producer, row.number, mark]) + b"\n")
        except InvalidEvent:
            return ""
    return digest.hexdigest()

"""The evidence of a range of entries, read once and fast: leaves against tiles, and each run's chain within the range.

Ranges begin at a tile, so several processes can each take one and `verify` joins what they found. Nothing is parsed:
where an entry stands in its run is read off the end of its canonical bytes, which no text of an agent can imitate,
since `stream` is written last and quotes inside texts are escaped.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import Any

from sqlalchemy import Connection, select

from ringfence_audit.canonical import encode
from ringfence_audit.merkle import HASH_SIZE, TILE_WIDTH, root_of
from ringfence_audit.records import pruned
from ringfence_audit.tables import entries, tiles

_STREAM = b',"stream":{"id":"'
_N = b'","n":'
_PREVIOUS = b',"previous":'
_AFTER_STREAM = len(_STREAM)
_TIME = -len(b',"time":"2026-11-24T10:00:00.000000Z"}}')
_CHUNK = 2_000
_TILES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was. `position` is the entry, None where the fault lies in no single one."""

    problem: str
    position: int | None = None


@dataclass(slots=True)
class Segment:
    """What a range holds of one run: where it goes on from, and where it ends. Heads are hexadecimal leaf hashes."""

    first: int
    first_n: int
    first_previous: bytes
    n: int
    head: bytes
    last: int
    expected: bytes = b""
    """What the run's next entry says of its place."""


@dataclass(slots=True)
class Scanned:
    """What one pass over [start, end) gathered. Streams are named by the JSON bytes between their quotes."""

    start: int
    end: int
    tops: list[bytes] = field(default_factory=list)
    """The root of each full tile."""
    tail: list[bytes] = field(default_factory=list)
    """The leaves right of the last full tile."""
    parts: dict[int, bytes] = field(default_factory=dict)
    """For each size that was asked about and ends inside a tile: the root over that tile's leaves up to there."""
    segments: dict[bytes, Segment] = field(default_factory=dict)
    fault: Fault | None = None
    pruned: int = 0


class Broken(Exception):
    """Carries the first fault up to whoever makes a verdict of it."""

    def __init__(self, problem: str, position: int | None = None) -> None:
        super().__init__(problem)
        self.fault = Fault(problem, position)


def scan(connection: Connection, start: int, end: int, *, sizes: Sequence[int] = ()) -> Scanned:
    """Read the entries [start, end), where start is a multiple of 256; `sizes` are those of checkpoints."""
    found = Scanned(start, end)
    wanted: dict[int, list[int]] = {}
    for size in sizes:
        if start < size <= end and size % TILE_WIDTH:
            wanted.setdefault(size // TILE_WIDTH, []).append(size)
    stored = _Tiles(connection)
    try:
        dropped = _dropped(connection, start, end)
        for tile, rows in _by_tile(connection, start, end):
            leaves = _leaves(tile, rows, found, dropped, stored.at(tile))
            for size in wanted.get(tile, ()):
                found.parts[size] = root_of(leaves[: size % TILE_WIDTH])
            if len(leaves) == TILE_WIDTH:
                found.tops.append(root_of(leaves))
            else:
                found.tail = leaves
    except Broken as broken:
        found.fault = broken.fault
    return found


def _by_tile(connection: Connection, start: int, end: int) -> Iterator[tuple[int, list[tuple[int, object]]]]:
    """The rows of each tile of the range. A tile with missing rows is given as it is, which `_leaves` notices."""
    rows = rows_of(connection, start, end)
    waiting: list[tuple[int, object]] = []
    for tile in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        last = (tile + 1) * TILE_WIDTH
        batch = [*waiting, *islice(rows, TILE_WIDTH - len(waiting))]
        waiting = [row for row in batch if row[0] >= last] if batch and batch[-1][0] >= last else []
        yield tile, batch[: len(batch) - len(waiting)]


def rows_of(connection: Connection, start: int, end: int) -> Iterator[tuple[int, object]]:
    if connection.dialect.name == "sqlite":
        # Any: the driver's own connection, since SQLAlchemy's rows cost as much as the hashing.
        raw: Any = connection.connection.driver_connection
        query = "SELECT position, entry FROM audit_entries WHERE position >= ? AND position < ? ORDER BY position"
        yield from raw.execute(query, (start, end))
        return
    where = (entries.c.position >= start) & (entries.c.position < end)
    ordered = select(entries.c.position, entries.c.entry).where(where).order_by(entries.c.position)
    with connection.execute(ordered, execution_options={"yield_per": _CHUNK}) as result:
        yield from ((position, entry) for position, entry in result)


def _leaves(
    tile: int,
    rows: Sequence[tuple[int, object]],
    found: Scanned,
    dropped: dict[int, tuple[bytes, int]],
    stored: bytes | None,
) -> list[bytes]:
    """The leaf hashes of a tile's rows, checked against the stored tile, and each against its run's chain."""
    first = tile * TILE_WIDTH
    count = min(TILE_WIDTH, found.end - first)
    raws = [raw for _, raw in rows]
    if len(rows) != count or rows[0][0] != first or rows[-1][0] != first + count - 1:
        _name_the_missing(rows, first, count)
    try:
        leaves = [sha256(b"\0" + raw).digest() for raw in raws]  # type: ignore[operator]  # what is not bytes raises
    except TypeError:
        leaves = _with_dropped(raws, first, found, dropped, stored)
    whole = b"".join(leaves)
    if stored is not None and stored != whole:
        size = HASH_SIZE
        offset = next(i for i in range(0, len(whole) + 1, size) if stored[i : i + size] != whole[i : i + size])
        raise Broken("it is not the entry whose hash stands in the tree", first + offset // size)
    _chain(found.segments, first, raws, leaves, dropped)
    if len(leaves) == TILE_WIDTH and stored is None:
        raise Broken("the tile of the tree that holds it is missing", first)
    return leaves


def _name_the_missing(rows: Sequence[tuple[int, object]], first: int, count: int) -> None:
    for expected, (position, _) in enumerate(rows, first):
        if position != expected:
            raise Broken(f"it is missing; the log goes on with entry {position}", expected)
    if len(rows) < count:
        raise Broken("it is missing", first + len(rows))


def _with_dropped(
    raws: Sequence[object],
    first: int,
    found: Scanned,
    dropped: dict[int, tuple[bytes, int]],
    stored: bytes | None,
) -> list[bytes]:
    """The same where retention dropped bodies: their hashes stand in the tile."""
    leaves: list[bytes] = []
    for offset, raw in enumerate(raws):
        if isinstance(raw, bytes):
            leaves.append(sha256(b"\0" + raw).digest())
        elif raw is None and first + offset in dropped and stored is not None:
            leaves.append(stored[offset * HASH_SIZE : (offset + 1) * HASH_SIZE])
            found.pruned += 1
        else:
            raise Broken("its bytes are missing", first + offset)
    return leaves


def _chain(
    segments: dict[bytes, Segment],
    first: int,
    raws: Sequence[object],
    leaves: Sequence[bytes],
    dropped: dict[int, tuple[bytes, int]],
) -> None:
    """Check each entry's place in its run, and move the runs on. Written for speed: what is expected of a run's next
    entry is kept as bytes, and only where it differs is looked at closely."""
    known_of = segments.get
    for position, (raw, leaf) in enumerate(zip(raws, leaves, strict=True), first):
        if raw is None:
            fault = _follow_dropped(segments, position, *dropped[position], leaf)
            if fault is not None:
                raise Broken(fault.problem, fault.position)
            continue
        at = raw.rfind(_STREAM) + _AFTER_STREAM  # type: ignore[attr-defined]  # bytes, or hashing had raised
        split = raw.find(_N, at)  # type: ignore[attr-defined]  # as above
        known = known_of(raw[at:split])  # type: ignore[index]  # as above
        if known is not None and raw[split + 6 : _TIME] == known.expected:  # type: ignore[index]  # as above
            known.n += 1
            known.head = leaf
            known.last = position
            known.expected = b'%d,"previous":"%b"' % (known.n + 1, hexlify(leaf))
        else:
            _begin(segments, position, raw, leaf)  # type: ignore[arg-type]  # as above


def _begin(segments: dict[bytes, Segment], position: int, raw: bytes, leaf: bytes) -> None:
    """The first entry of a run in this range, or one that does not follow: the fault is named."""
    at = raw.rfind(_STREAM)
    split = raw.find(_N, at + _AFTER_STREAM)
    cut = raw.find(_PREVIOUS, split + 6)
    number, previous = raw[split + 6 : cut], raw[cut + 12 : _TIME]
    if at < 0 or split < 0 or cut < 0 or not number.isdigit() or len(number) > 16:
        raise Broken("it does not have the form of an entry", position)
    stream, n = raw[at + _AFTER_STREAM : split], int(number)
    known = segments.get(stream)
    if known is None:
        if (n == 0) != (previous == b"null"):
            raise Broken("it does not have the form of an entry", position)
        expected = b'%d,"previous":"%b"' % (n + 1, hexlify(leaf))
        segments[stream] = Segment(position, n, previous, n, leaf, position, expected)
        return
    if n != known.n + 1:
        raise Broken(f"it is not number {known.n + 1} of its run, which belongs here", position)
    raise Broken(f"it was changed: entry {position} of the same run was chained to other bytes", known.last)


def _follow_dropped(segments: dict[bytes, Segment], position: int, stream: bytes, n: int, leaf: bytes) -> Fault | None:
    known = segments.get(stream)
    if known is None:
        segments[stream] = known = Segment(position, n, b"", n, leaf, position)
    elif n != known.n + 1:
        return Fault(f"it is not number {known.n + 1} of its run, which belongs here", position)
    else:
        known.n, known.head, known.last = n, leaf, position
    known.expected = b'%d,"previous":"%b"' % (known.n + 1, hexlify(leaf))
    return None


def _dropped(connection: Connection, start: int, end: int) -> dict[int, tuple[bytes, int]]:
    where = (pruned.c.position >= start) & (pruned.c.position < end)
    found: dict[int, tuple[bytes, int]] = {}
    for position, stream, n in connection.execute(select(pruned.c.position, pruned.c.stream, pruned.c.n).where(where)):
        if not isinstance(stream, str) or not isinstance(n, int):
            raise Broken("what is kept of it is not of the right type", position)
        found[position] = (encode(stream)[1:-1], n)
    return found


class _Tiles:
    """The stored tiles of level 0, read a few at a time in order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._block: dict[int, bytes] = {}
        self._end = -1

    def at(self, tile: int) -> bytes | None:
        """The tile's hashes, None where it is not stored. Raises `Broken` where it is no tile."""
        if tile >= self._end:
            self._end = tile + _TILES_AT_ONCE
            where = (tiles.c.level == 0) & (tiles.c.position >= tile) & (tiles.c.position < self._end)
            rows = self._connection.execute(select(tiles.c.position, tiles.c.hashes).where(where))
            self._block = {row.position: row.hashes for row in rows}
        found = self._block.get(tile)
        if found is not None and (not isinstance(found, bytes) or len(found) != TILE_WIDTH * HASH_SIZE):
            raise Broken(f"tile {tile} of the tree is not 256 hashes", tile * TILE_WIDTH)
        return found

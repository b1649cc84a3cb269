"""The evidence of a range of entries, read once and fast: leaves against tiles, and each run's chain within the range.

Ranges begin at a tile, so several processes can each take one and `verify` joins what they found. Nothing is parsed:
where an entry stands in its run is read off the end of its canonical bytes, which no text of an agent can imitate,
since `stream` is written last and quotes inside texts are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select

from ringfence_audit.canonical import encode
from ringfence_audit.merkle import HASH_SIZE, TILE_WIDTH, root_of
from ringfence_audit.records import pruned
from ringfence_audit.tables import entries, tiles

_STREAM = b',"stream":{"id":"'
_N = b'","n":'
_PREVIOUS = b',"previous":'
_TIME_LENGTH = len(b',"time":"2026-11-24T10:00:00.000000Z"}}')
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
    dropped = _dropped(connection, start, end)
    wanted: dict[int, list[int]] = {}
    for size in sizes:
        if start < size <= end and size % TILE_WIDTH:
            wanted.setdefault(size // TILE_WIDTH, []).append(size)
    stored = _Tiles(connection)
    try:
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
    """The rows of each tile of the range; a missing row ends the tile early, which `_leaves` notices."""
    rows: list[tuple[int, object]] = []
    tile = start // TILE_WIDTH
    for row in rows_of(connection, start, end):
        if row[0] >= (tile + 1) * TILE_WIDTH:
            yield tile, rows
            tile, rows = tile + 1, []
        rows.append(row)
    if rows:
        yield tile, rows
        tile += 1
    if tile * TILE_WIDTH < end and (rows[-1][0] + 1 if rows else start) < end:
        yield tile, []


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
    """The leaf hashes of a tile's rows, each checked against its run's chain; all against the stored tile."""
    leaves: list[bytes] = []
    segments = found.segments
    position = tile * TILE_WIDTH
    chained: Fault | None = None
    for at, raw in rows:
        if at != position:
            raise Broken(f"it is missing; the log goes on with entry {at}", position)
        if raw.__class__ is bytes:
            leaf = sha256(b"\0" + raw).digest()
            leaves.append(leaf)
            chained = chained or _follow(segments, position, raw, leaf)
        elif raw is None and position in dropped and stored is not None:
            leaf = stored[len(leaves) * HASH_SIZE : (len(leaves) + 1) * HASH_SIZE]
            leaves.append(leaf)
            found.pruned += 1
            chained = chained or _follow_dropped(segments, position, *dropped[position], leaf)
        else:
            raise Broken("its bytes are missing", position)
        position += 1
    if position < min((tile + 1) * TILE_WIDTH, found.end):
        raise Broken("it is missing", position)
    if stored is not None and stored != (whole := b"".join(leaves)):
        offset = next(
            i for i in range(0, len(whole) + 1, HASH_SIZE) if stored[i : i + HASH_SIZE] != whole[i : i + HASH_SIZE]
        )
        raise Broken("it is not the entry whose hash stands in the tree", tile * TILE_WIDTH + offset // HASH_SIZE)
    if chained is not None:
        raise Broken(chained.problem, chained.position if chained.position is not None else position)
    if len(leaves) == TILE_WIDTH and stored is None:
        raise Broken("the tile of the tree that holds it is missing", tile * TILE_WIDTH)
    return leaves


def _follow(segments: dict[bytes, Segment], position: int, raw: bytes, leaf: bytes) -> Fault | None:
    """Check the entry's place in its run, and move the run on."""
    at = raw.rfind(_STREAM)
    split = raw.find(_N, at + 17)
    cut = raw.find(_PREVIOUS, split + 6)
    if at < 0 or split < 0 or cut < 0:
        return Fault("it does not have the form of an entry", position)
    stream, number, previous = raw[at + 17 : split], raw[split + 6 : cut], raw[cut + 12 : -_TIME_LENGTH]
    known = segments.get(stream)
    if known is None:
        if not number.isdigit():
            return Fault("it does not have the form of an entry", position)
        n = int(number)
        if (n == 0) != (previous == b"null"):
            return Fault("it does not have the form of an entry", position)
        segments[stream] = Segment(position, n, previous, n, leaf, position)
        return None
    if number != b"%d" % (known.n + 1):
        return Fault(f"it is not number {known.n + 1} of its run, which belongs here", position)
    if previous[1:-1] != known.head.hex().encode():
        return Fault(f"it was changed: entry {position} of the same run was chained to other bytes", known.last)
    known.n += 1
    known.head = leaf
    known.last = position
    return None


def _follow_dropped(segments: dict[bytes, Segment], position: int, stream: bytes, n: int, leaf: bytes) -> Fault | None:
    known = segments.get(stream)
    if known is None:
        segments[stream] = Segment(position, n, b"", n, leaf, position)
    elif n != known.n + 1:
        return Fault(f"it is not number {known.n + 1} of its run, which belongs here", position)
    else:
        known.n, known.head, known.last = n, leaf, position
    return None


def _dropped(connection: Connection, start: int, end: int) -> dict[int, tuple[bytes, int]]:
    where = (pruned.c.position >= start) & (pruned.c.position < end)
    return {row.position: (encode(row.stream)[1:-1], row.n) for row in connection.execute(select(pruned).where(where))}


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

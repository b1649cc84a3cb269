"""Ranges of evidence joined into one log, and what the log keeps of itself held against it. Raises `Broken`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from ringfence_audit.canonical import encode
from ringfence_audit.merkle import EMPTY_ROOT, TILE_WIDTH, node_hash, root_of
from ringfence_audit.scan import Broken, Fault, Scanned, Segment
from ringfence_audit.tables import streams, tiles


@dataclass
class Log:
    """What is known of the whole log once its ranges are joined."""

    size: int
    tops: list[bytes] = field(default_factory=list)
    parts: dict[int, bytes] = field(default_factory=dict)
    chains: dict[bytes, Segment] = field(default_factory=dict)
    pruned: int = 0


def joined(ranges: Iterable[Scanned], size: int) -> Log:
    log = Log(size)
    end = 0
    for found in ranges:
        for stream, segment in found.segments.items():
            _join(log.chains, stream, segment)
        if found.fault is not None:
            raise Broken(found.fault.problem, found.fault.position)
        log.tops += found.tops
        log.parts.update(found.parts)
        log.pruned += found.pruned
        end = found.end
    if end != size:
        raise Broken(f"the log says that it has {size} entries, and {end} are there", min(end, size))
    return log


def _join(chains: dict[bytes, Segment], stream: bytes, segment: Segment) -> None:
    known = chains.get(stream)
    if known is None:
        if segment.first_n != 0:
            raise Broken(f"it is number {segment.first_n} of its run where 0 belongs", segment.first)
        chains[stream] = segment
        return
    if segment.first_n != known.n + 1:
        raise Broken(f"it is not number {known.n + 1} of its run, which belongs here", segment.first)
    if segment.first_previous and segment.first_previous[1:-1] != known.head.hex().encode():
        raise Broken(f"it was changed: entry {segment.first} of the same run was chained to other bytes", known.last)
    known.n, known.head, known.last = segment.n, segment.head, segment.last


def check_streams(connection: Connection, log: Log) -> None:
    faults: list[Fault] = []
    known = set()
    for row in connection.execute(select(streams)):
        if not isinstance(row.length, int) or not isinstance(row.head, bytes) or not isinstance(row.stream, str):
            raise Broken(f"what the log keeps of {row.stream!r} is not of the right type")
        name = encode(row.stream)[1:-1]
        known.add(name)
        chain = log.chains.get(name)
        length = 0 if chain is None else chain.n + 1
        if row.length > length:
            faults.append(Fault(f"the last entries of {row.stream!r} are missing ({row.length - length})"))
        elif chain is not None and (row.length, row.head) != (length, chain.head):
            faults.append(Fault("it was changed, or added behind the log's back", chain.last))
    for name, chain in log.chains.items():
        if name not in known:
            faults.append(Fault("its run is not known to the log", chain.last))
    if faults:
        first = min(faults, key=lambda fault: log.size if fault.position is None else fault.position)
        raise Broken(first.problem, first.position)


def check_tiles(connection: Connection, log: Log) -> None:
    """Tiles above level 0, from below. Level 0 was compared with the entries as they were read."""
    level, hashes = 1, log.tops
    stored = {
        (row.level, row.position): row.hashes for row in connection.execute(select(tiles).where(tiles.c.level > 0))
    }
    while len(hashes) >= TILE_WIDTH:
        above: list[bytes] = []
        for index in range(len(hashes) // TILE_WIDTH):
            row = hashes[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]
            if stored.pop((level, index), None) != b"".join(row):
                raise Broken(f"tile {index} of level {level} of the tree is missing or does not fit the level below")
            above.append(root_of(row))
        level, hashes = level + 1, above
    if stored:
        raise Broken(f"the tree holds tiles for entries that are not there: {sorted(stored)[0]}")
    count = connection.execute(select(func.count()).select_from(tiles).where(tiles.c.level == 0)).scalar_one()
    if count != len(log.tops):
        raise Broken(f"the tree holds {count} tiles for {len(log.tops)} full ones")


def roots_of(log: Log, sizes: set[int]) -> dict[int, bytes]:
    """The root at each size, in one pass over the tiles' roots."""
    roots = {0: EMPTY_ROOT}
    stack: list[tuple[int, bytes]] = []
    ordered = sorted(size for size in sizes if 0 < size <= log.size)
    tile = 0
    for size in ordered:
        while tile < size // TILE_WIDTH:
            _push(stack, log.tops[tile])
            tile += 1
        value = log.parts[size] if size % TILE_WIDTH else None
        for _, left in reversed(stack):
            value = left if value is None else node_hash(left, value)
        roots[size] = value or EMPTY_ROOT
    return roots


def _push(stack: list[tuple[int, bytes]], value: bytes) -> None:
    height = 0
    while stack and stack[-1][0] == height:
        value = node_hash(stack.pop()[1], value)
        height += 1
    stack.append((height, value))

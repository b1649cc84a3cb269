"""The RFC 6962 tree over the log: hashing, the growing edge, inclusion and consistency proofs. Standard library only.

A tree of n leaves splits at the largest power of two below n. Hashes are kept in tiles of 256 (C2SP tlog-tiles):
tile (level, i) holds the hashes at height 8·level with indices 256·i to 256·i+255. Only full tiles exist; what lies
to the right of them is the *edge*, at most 255 hashes a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

TILE_WIDTH = 256
HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The RFC 6962 root over leaf hashes, or over equally high complete subtrees of which only the last may be less."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        odd = row.pop() if len(row) % 2 else None
        row = [sha256(b"\1" + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
        if odd is not None:
            row.append(odd)
    return row[0]


@dataclass(frozen=True, slots=True)
class Tile:
    level: int
    index: int
    hashes: bytes
    """256 hashes of 32 bytes, concatenated."""


class Edge:
    """The growing right edge of a tree, in memory. Not safe for several threads."""

    def __init__(self, size: int = 0, levels: Sequence[Sequence[bytes]] = ()) -> None:
        self.size = size
        self._levels = [list(level) for level in levels] or [[]]

    def copy(self) -> Edge:
        return Edge(self.size, self._levels)

    def append(self, leaves: Sequence[bytes]) -> list[Tile]:
        """Add leaf hashes; the tiles that became full are returned, lower levels first."""
        tiles: list[Tile] = []
        for leaf in leaves:
            self.size += 1
            self._add(0, leaf, tiles)
        return tiles

    def _add(self, level: int, value: bytes, tiles: list[Tile]) -> None:
        if level == len(self._levels):
            self._levels.append([])
        row = self._levels[level]
        row.append(value)
        if len(row) == TILE_WIDTH:
            tiles.append(Tile(level, (self.size >> (8 * (level + 1))) - 1, b"".join(row)))
            parent = root_of(row)
            row.clear()
            self._add(level + 1, parent, tiles)

    def root(self) -> bytes:
        """The root of the tree as it stands."""
        right: list[bytes] = []
        for row in self._levels:
            nodes = [*row, *right]
            right = [root_of(nodes)] if nodes else []
        return right[0] if right else EMPTY_ROOT


HashAt: TypeAlias = Callable[[int, int], bytes]
"""(height, index) → the hash of the complete subtree over leaves [index·2^height, (index+1)·2^height)."""


def _split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def range_hash(start: int, end: int, at: HashAt) -> bytes:
    """The root over leaves [start, end), where start is a multiple of the power of two that covers the range."""
    count = end - start
    if count & (count - 1) == 0:
        height = count.bit_length() - 1
        return at(height, start >> height)
    middle = start + _split(count)
    return node_hash(range_hash(start, middle, at), range_hash(middle, end, at))


def inclusion_proof(index: int, size: int, at: HashAt) -> list[bytes]:
    """RFC 6962 audit path of leaf `index` in the tree of `size` leaves, bottom up."""
    if not 0 <= index < size:
        raise ValueError("index outside the tree")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_hash(middle, end, at))
            end = middle
        else:
            path.append(range_hash(start, middle, at))
            start = middle
    return path[::-1]


def consistency_proof(old: int, new: int, at: HashAt) -> list[bytes]:
    """RFC 6962 proof that the tree of `old` leaves is a prefix of the tree of `new` leaves (0 < old <= new)."""
    if not 0 < old <= new:
        raise ValueError("sizes do not describe growth")
    path: list[bytes] = []
    start, end, whole = 0, new, True
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_hash(middle, end, at))
            end = middle
        else:
            path.append(range_hash(start, middle, at))
            start, whole = middle, False
    if not whole:
        path.append(range_hash(start, end, at))
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, *, proof: Sequence[bytes]) -> bytes | None:
    """The root that the proof leads to, or None where it does not have the shape for this index and size."""
    if not 0 <= index < size:
        return None
    node, last, value = index, size - 1, leaf
    remaining = list(proof)
    while last > 0:
        if node % 2 == 1 or node < last:
            if not remaining:
                return None
            other = remaining.pop(0)
            value = node_hash(other, value) if node % 2 == 1 else node_hash(value, other)
        node, last = node // 2, last // 2
    return None if remaining else value


def is_consistent(old: int, new: int, *, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the old tree is a prefix of the new one (RFC 9162, 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    node, last = old - 1, new - 1
    while node % 2 == 1:
        node, last = node // 2, last // 2
    first = second = path[0]
    for item in path[1:]:
        if last == 0:
            return False
        if node % 2 == 1 or node == last:
            first, second = node_hash(item, first), node_hash(item, second)
            while node % 2 == 0 and node != 0:
                node, last = node // 2, last // 2
        else:
            second = node_hash(second, item)
        node, last = node // 2, last // 2
    return last == 0 and first == old_root and second == new_root

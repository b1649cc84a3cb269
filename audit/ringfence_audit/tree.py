"""The stored tree, read: roots and proofs from tiles and entries of one connection."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Connection, func, select

from ringfence_audit.errors import InvalidExport
from ringfence_audit.merkle import (
    HASH_SIZE,
    TILE_WIDTH,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    range_hash,
    root_of,
)
from ringfence_audit.tables import entries, tiles

_TILES_KEPT = 512


class TreeReader:
    """Hashes of the tree as the connection sees it. Raises `InvalidExport` where entries or tiles are missing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tile = lru_cache(_TILES_KEPT)(self._load)

    def size(self) -> int:
        newest = self._connection.execute(select(func.max(entries.c.position))).scalar()
        return 0 if newest is None else newest + 1

    def root(self, size: int) -> bytes:
        return range_hash(0, size, self.at) if size else root_of(())

    def inclusion(self, position: int, size: int) -> list[bytes]:
        return inclusion_proof(position, size, self.at)

    def consistency(self, old: int, new: int) -> list[bytes]:
        return consistency_proof(old, new, self.at)

    def at(self, height: int, index: int) -> bytes:
        """The hash of the complete subtree of 2^height leaves with this index."""
        level, within = divmod(height, 8)
        first = index << within
        tile, offset = divmod(first, TILE_WIDTH)
        row = self._tile(level, tile)
        piece = row[offset : offset + (1 << within)]
        if len(piece) != 1 << within:
            raise InvalidExport(f"the tree's tile {level}/{tile} is not complete")
        return root_of(piece)

    def _load(self, level: int, tile: int) -> tuple[bytes, ...]:
        where = (tiles.c.level == level) & (tiles.c.position == tile)
        whole = self._connection.execute(select(tiles.c.hashes).where(where)).scalar()
        if whole is not None:
            return tuple(whole[i : i + HASH_SIZE] for i in range(0, len(whole), HASH_SIZE))
        first = tile * TILE_WIDTH
        if level == 0:
            return tuple(self._leaves(first))
        below = self._roots(level - 1, first)
        for child in range(first + len(below), first + TILE_WIDTH):
            row = self._tile(level - 1, child)
            if len(row) < TILE_WIDTH:
                break
            below.append(root_of(row))
        return tuple(below)

    def _roots(self, level: int, first: int) -> list[bytes]:
        """Roots of the stored tiles from `first` on, without a gap: asked at once, since there may be 255 of them."""
        where = (tiles.c.level == level) & (tiles.c.position >= first) & (tiles.c.position < first + TILE_WIDTH)
        rows = self._connection.execute(
            select(tiles.c.position, tiles.c.hashes).where(where).order_by(tiles.c.position)
        )
        roots: list[bytes] = []
        for position, whole in rows:
            if position != first + len(roots):
                break
            roots.append(root_of([whole[i : i + HASH_SIZE] for i in range(0, len(whole), HASH_SIZE)]))
        return roots

    def _leaves(self, first: int) -> list[bytes]:
        query = select(entries.c.position, entries.c.entry).where(
            entries.c.position >= first, entries.c.position < first + TILE_WIDTH
        )
        leaves: list[bytes] = []
        for position, body in self._connection.execute(query.order_by(entries.c.position)):
            if body is None or position != first + len(leaves):
                raise InvalidExport(f"entry {first + len(leaves)} is missing from the log")
            leaves.append(leaf_hash(body))
        return leaves

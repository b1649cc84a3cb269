"""What the write sessions of SQLite and PostgreSQL share: the statements of the evidence plane, told once.

The statements mark their values with `?`; where the driver wants another mark they are translated when the class is
made. Everything here runs on the driver itself: this is the hot path of every entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, ClassVar

from sqlalchemy import Connection

from ringfence_audit.database import STORAGE_ERRORS, Appended, Noted, Seen, StreamHead
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.merkle import HASH_SIZE, TILE_WIDTH, leaf_hash, root_of

_STATEMENTS = {
    "head": "SELECT size, token FROM audit_head WHERE one = 1",
    "mine": "SELECT token FROM audit_writers WHERE writer = ?",
    "stream": "SELECT length, head FROM audit_streams WHERE stream = ?",
    "note": "SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1",
    "bodies": "SELECT entry FROM audit_entries WHERE position >= ? AND position < ? ORDER BY position",
    "tops": "SELECT hashes FROM audit_tiles WHERE level = ? AND position >= ? AND position < ? ORDER BY position",
    "add_entry": "INSERT INTO audit_entries (position, entry) VALUES (?, ?)",
    "set_stream": "INSERT INTO audit_streams (stream, length, head) VALUES (?, ?, ?) "
    "ON CONFLICT (stream) DO UPDATE SET length = excluded.length, head = excluded.head",
    "add_tile": "INSERT INTO audit_tiles (level, position, hashes) VALUES (?, ?, ?)",
    "add_note": "INSERT INTO audit_checkpoints (size, note) VALUES (?, ?) ON CONFLICT (size) DO NOTHING",
    "set_head": "INSERT INTO audit_head (one, size, token) VALUES (1, ?, ?) "
    "ON CONFLICT (one) DO UPDATE SET size = excluded.size, token = excluded.token",
    "set_mine": "INSERT INTO audit_writers (writer, token, seen_at) VALUES (?, ?, {now}) "
    "ON CONFLICT (writer) DO UPDATE SET token = excluded.token, seen_at = excluded.seen_at",
    "announce": "INSERT INTO audit_news (one, announced) VALUES (1, 1) "
    "ON CONFLICT (one) DO UPDATE SET announced = audit_news.announced + 1",
    "announced": "SELECT announced FROM audit_news",
    "forget_writers": "DELETE FROM audit_writers WHERE seen_at < {now} - ?",
}
CATCH_UP = 4_096
"""Entries of other processes that are added to the tree in memory, rather than its edge being read anew."""
WRITERS_KEPT_S = 86_400
"""How long the last commit of a writer that is gone can be looked up."""


def statements(mark: str, now_s: str) -> Mapping[str, str]:
    """`mark` stands for a value, `now_s` is the database's clock in whole seconds since the epoch."""
    return MappingProxyType(
        {name: text.replace("{now}", now_s).replace("?", mark) for name, text in _STATEMENTS.items()}
    )


def complete(leaves: list[bytes], first: int, end: int) -> list[bytes]:
    """The leaves, where there is one for each position. Raises `LogUnavailable`."""
    if len(leaves) != end - first:
        raise LogUnavailable(f"of the entries {first} to {end - 1} only {len(leaves)} are there: run verify")
    return leaves


class EvidenceSession:
    """The part of `database.Session` that is the same everywhere."""

    TEXT: ClassVar[Mapping[str, str]]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Any: SQLAlchemy types the driver's connection so.
        self._driver: Any = connection.connection.driver_connection

    @property
    def connection(self) -> Connection:
        return self._connection

    def _rows(self, name: str, *values: object) -> list[Any]:
        # Any: rows of the driver.
        found: list[Any] = self._driver.execute(self.TEXT[name], values).fetchall()
        return found

    def last_token(self, writer: bytes) -> bytes | None:
        found = self._rows("mine", writer)
        return bytes(found[0][0]) if found else None

    def look(self, first: int, end: int, streams: Sequence[str]) -> Seen:
        leaves = self._leaves(first, end) if end > first else ()
        return Seen(leaves, self.newest_note(), [self._stream(stream) for stream in streams])

    def _stream(self, stream: str) -> StreamHead:
        found = self._rows("stream", stream)
        return StreamHead(stream, found[0][0], found[0][1]) if found else StreamHead(stream, 0, b"")

    def newest_note(self) -> Noted | None:
        found = self._rows("note")
        return Noted(found[0][0], found[0][1]) if found else None

    def _leaves(self, first: int, end: int) -> list[bytes]:
        found = [leaf_hash(body) for (body,) in self._rows("bodies", first, end) if body is not None]
        return complete(found, first, end)

    def edge_rows(self, size: int) -> Sequence[Sequence[bytes]]:
        rows = [self._leaves(size - size % TILE_WIDTH, size)]
        above, level = size // TILE_WIDTH, 1
        while above:
            rows.append(self._tops(level, above))
            above, level = above // TILE_WIDTH, level + 1
        return rows

    def _tops(self, level: int, count: int) -> list[bytes]:
        """Roots of the tiles of `level - 1` that no full tile of `level` holds yet."""
        first = count - count % TILE_WIDTH
        found = self._rows("tops", level - 1, first, count)
        if len(found) != count - first:
            raise LogUnavailable(f"tiles of level {level - 1} are missing: run verify")
        return [root_of([row[i : i + HASH_SIZE] for i in range(0, len(row), HASH_SIZE)]) for (row,) in found]

    def append(self, appended: Appended) -> None:
        text, execute = self.TEXT, self._driver.execute
        self._append_entries(appended)
        for tile in appended.tiles:
            execute(text["add_tile"], (tile.level, tile.index, tile.hashes))
        if appended.note is not None:
            execute(text["add_note"], (appended.note.size, appended.note.note))
        execute(text["set_head"], (appended.head.size, appended.head.token))
        execute(text["set_mine"], (appended.writer, appended.head.token))
        if appended.is_news:
            execute(text["announce"])

    def _append_entries(self, appended: Appended) -> None:
        if not appended.entries:
            return
        many = self._driver.executemany
        many(self.TEXT["add_entry"], list(enumerate(appended.entries, appended.first)))
        many(self.TEXT["set_stream"], [(head.stream, head.length, head.head) for head in appended.streams])

    def close(self) -> None:
        # Closing the connection undoes what is uncommitted, also where a ROLLBACK would meet the same broken storage.
        with suppress(*STORAGE_ERRORS):
            self._connection.invalidate()
            self._connection.close()

"""Another history, written by someone who holds the log's file and its key: valid chains, tree and signatures."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from ringfence_audit.entries import Prepared, seal
from ringfence_audit.events import Kind
from ringfence_audit.keys import Signer
from ringfence_audit.merkle import HASH_SIZE, TILE_WIDTH, Edge
from ringfence_audit.notes import Checkpoint, sign_checkpoint

# Any: parsed entries, edited as a forger edits them.
Edit = Callable[[int, dict[str, Any]], Mapping[str, Any] | None]
"""(position, event) → the event as it shall be, None to drop it."""


def rewrite(copy: Path, signer: Signer, edit: Edit) -> None:
    """Write the log in `copy` anew: every entry through `edit`, then chained, hashed and signed. What retention dropped
    stays as it is, and where it is."""
    with closing(sqlite3.connect(copy)) as database, database:
        rows = database.execute("SELECT position, entry FROM audit_entries ORDER BY position").fetchall()
        tiles = dict(database.execute("SELECT position, hashes FROM audit_tiles WHERE level = 0"))
        dropped = {row[0]: row[1:] for row in database.execute("SELECT position, stream, n FROM audit_pruned")}
        sizes = [size for (size,) in database.execute("SELECT size FROM audit_checkpoints ORDER BY size")]
        for table in ("entries", "tiles", "streams", "head", "checkpoints"):
            database.execute(f"DELETE FROM audit_{table}")
        edge, chains, size = Edge(), dict[str, tuple[int, bytes]](), 0
        for position, raw in rows:
            body = {} if raw is None else orjson.loads(raw)
            event = edit(position, body["event"]) if body else None
            entry, leaf = None, b""
            if raw is None:
                at = position % TILE_WIDTH * HASH_SIZE
                run, n = dropped[position]
                leaf = tiles[position // TILE_WIDTH][at : at + HASH_SIZE]
                chains[run] = (n + 1, leaf)
            elif event is not None:
                encoded = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
                run, time = body["stream"]["id"], body["stream"]["time"]
                item = Prepared(encoded, run, orjson.dumps(run), time, {}, Kind(event["kind"]))
                length, head = chains.get(run, (0, b""))
                entry = seal(item, length, head)
                leaf = sha256(b"\0" + entry).digest()
                chains[run] = (length + 1, leaf)
            if leaf:
                database.execute("INSERT INTO audit_entries (position, entry) VALUES (?, ?)", (size, entry))
                for tile in edge.append([leaf]):
                    values = (tile.level, tile.index, tile.hashes)
                    database.execute("INSERT INTO audit_tiles (level, position, hashes) VALUES (?, ?, ?)", values)
                size += 1
            if position + 1 in sizes or position == rows[-1][0]:
                note = sign_checkpoint(Checkpoint(signer.origin, size, edge.root()), signer)
                database.execute("INSERT OR REPLACE INTO audit_checkpoints (size, note) VALUES (?, ?)", (size, note))
        for run, (length, head) in chains.items():
            told = (run, length, head)
            database.execute("INSERT INTO audit_streams (stream, length, head) VALUES (?, ?, ?)", told)
        database.execute("INSERT INTO audit_head (one, size, token) VALUES (1, ?, x'00')", (size,))

"""The evidence plane: append-only entries, full tiles, stream heads, signed checkpoints. Only this room names them.

`audit_entries.entry` holds the exact bytes that were hashed; a body that retention dropped is NULL, and its leaf hash
stays in a tile. Everything that can be derived from these (the index) lives elsewhere.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text

from ringfence_audit import records as records  # the tables beside the evidence belong to the same schema
from ringfence_audit.schema import metadata

entries = Table(
    "audit_entries",
    metadata,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("entry", LargeBinary, nullable=True),
)

tiles = Table(
    "audit_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

streams = Table(
    "audit_streams",
    metadata,
    Column("stream", String(200), primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("head", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

heads = Table(
    "audit_head",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("token", LargeBinary, nullable=False),
)
"""One row. `token` is new in every committed batch, so that a writer sees whether another one appended."""

writers = Table(
    "audit_writers",
    metadata,
    Column("writer", LargeBinary, primary_key=True),
    Column("token", LargeBinary, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The token of each writer's last batch, so that a batch whose commit was cut off can be looked up. No evidence."""

news = Table(
    "audit_news",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("announced", BigInteger, nullable=False),
)
"""How often something was announced (`wakeups`), where the database itself cannot tell. No evidence."""

checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

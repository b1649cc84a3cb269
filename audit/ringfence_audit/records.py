"""Tables beside the evidence: what was dropped, held, anchored, rotated or sent, and the keys of personal fields.

None of them is proof. What they say is either repeated in an entry (holds, drops, rotations, erasures) or checked
against the tree and a signature when it is used (anchors, rotations).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text

from ringfence_audit.schema import metadata

_BIG = BigInteger().with_variant(Integer, "sqlite")

pruned = Table(
    "audit_pruned",
    metadata,
    Column("position", _BIG, primary_key=True, autoincrement=False),
    Column("stream", String(200), nullable=False, index=True),
    Column("n", BigInteger, nullable=False),
    Column("producer", String(200), nullable=True),
    Column("number", BigInteger, nullable=True),
    Column("mark", LargeBinary, nullable=True),
)
"""Where an entry whose body retention dropped stood in its stream; its leaf hash is in a tile. Also what its producer
counted there (`counters`), so that no other number is excused. The entry that drops them holds a digest of the rows."""

counts = Table(
    "audit_counts",
    metadata,
    Column("producer", String(200), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("head", LargeBinary, nullable=False),
)
"""How far a producer that outlives its processes has come (`people`)."""

holds = Table(
    "audit_holds",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("run", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("placed_by", String(200), nullable=False),
    Column("placed_at", BigInteger, nullable=False),
)
"""Legal holds in force; `run` is a stream, or empty for the whole log. Times in microseconds."""

rotations = Table(
    "audit_rotations",
    metadata,
    Column("position", _BIG, primary_key=True, autoincrement=False),
    Column("old", Text, nullable=False),
    Column("new", Text, nullable=False),
    Column("note", Text, nullable=False),
)
"""Changes of the signing key: the entry's position, both public keys, and the note over it that the old key signed."""

anchors = Table(
    "audit_anchors",
    metadata,
    Column("sink", String(200), primary_key=True),
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    Column("anchored_at", BigInteger, nullable=False),
)
"""Our own copy of what went to each sink, cosignatures included; the sink's copy is what counts."""

subjects = Table(
    "audit_subjects",
    metadata,
    Column("subject", String(200), primary_key=True),
    Column("key", LargeBinary, nullable=True),
    Column("made_at", BigInteger, nullable=False),
    Column("erased_at", BigInteger, nullable=True),
)
"""Keys that personal fields are encrypted under. Erasure sets the key to NULL, for good."""

cursors = Table(
    "audit_cursors",
    metadata,
    Column("sink", String(200), primary_key=True),
    Column("next", BigInteger, nullable=False),
    Column("moved_at", BigInteger, nullable=False),
)
"""How far each SIEM stream has been delivered: the position of the next entry to send."""

"""An answer as evidence: lines that `offline.verify_export` can check without the log, and without anything of ours.

The answer is settled first (`answer`), then recorded in the log itself as an entry (`statement`), then written with
proofs to a checkpoint that covers that entry (`lines`). So the log commits to what it answered: taking an entry out of
the export afterwards contradicts the count and the hash in the statement, and answering differently the next time
contradicts the log. Where the question is one whole run, its chain from first entry to head shows that none is missing.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, select

from ringfence_audit.blobs import Blobs
from ringfence_audit.bodies import references
from ringfence_audit.errors import EntryNotFound, InvalidExport
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.merkle import leaf_hash
from ringfence_audit.notes import parse_checkpoint, parse_note
from ringfence_audit.proofs import consistency_text, inclusion_text
from ringfence_audit.query import Filter, matching
from ringfence_audit.records import anchors, pruned, rotations
from ringfence_audit.scan import rows_of
from ringfence_audit.tables import checkpoints, entries, streams
from ringfence_audit.tree import TreeReader

FORMAT = "ringfence-export/1"
_PRUNE = f'"kind":"{Kind.PRUNE}"'.encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question has for an answer in a log of `size` entries. `stream` is set where it asks for one whole run."""

    id: str
    query: Mapping[str, JsonValue]
    size: int
    positions: tuple[int, ...]
    digest: str
    stream: Mapping[str, JsonValue] | None


def answer(connection: Connection, wanted: Filter, *, found: Sequence[int] | None = None) -> Answer:
    """Settle the answer as this connection sees the log, reading every entry, or from the positions that an index has
    `found` (ascending). Raises `EntryNotFound` where it is empty."""
    tree = TreeReader(connection)
    size = tree.size()
    query = wanted.to_json()
    if found is None:
        found = [entry.position for entry in matching(connection, wanted, oldest_first=True)]
    positions = [position for position in found if position < size]
    stream: Mapping[str, JsonValue] | None = None
    if set(query) == {"run"}:
        dropped = connection.execute(select(pruned.c.position).where(pruned.c.stream == wanted.run)).scalars()
        positions = sorted([*positions, *dropped])
        head = connection.execute(select(streams).where(streams.c.stream == wanted.run)).first()
        stream = {"length": 0 if head is None else head.length, "head": None if head is None else head.head.hex()}
    if not positions:
        raise EntryNotFound("the log holds no such entry: nothing to export")
    digest = sha256()
    for position in positions:
        digest.update(tree.at(0, position))
    return Answer(secrets.token_hex(8), query, size, tuple(positions), digest.hexdigest(), stream)


def statement(settled: Answer, actor: str) -> Event:
    """The entry by which the log commits to the answer. Record it, then seal a checkpoint, then write the lines."""
    data: dict[str, JsonValue] = {
        "export": settled.id,
        "query": settled.query,
        "size": settled.size,
        "count": len(settled.positions),
        "answer": settled.digest,
    }
    return Event(Kind.EXPORT, actor, data if settled.stream is None else {**data, "stream": settled.stream})


def lines(
    connection: Connection, settled: Answer, note: str, *, blobs: Blobs, since: Sequence[str] = ()
) -> Iterator[bytes]:
    """The export, a line at a time. `note` covers the statement; `since` are notes to prove consistency from, beside
    those that were anchored. Raises `InvalidExport` where the log itself is damaged."""
    size = parse_checkpoint(parse_note(note).text).size
    count = 0
    for line in _lines(connection, settled, note, blobs=blobs, since=since, size=size):
        count += 1
        yield line
    yield _line({"type": "end", "lines": count + 1})


def _lines(
    connection: Connection, settled: Answer, note: str, *, blobs: Blobs, since: Sequence[str], size: int
) -> Iterator[bytes]:
    writer = _Writer(connection, TreeReader(connection), size)
    position = _statement_position(connection, settled)
    said = parse_entry(position, writer.raw(position) or b"").data
    yield _line({"type": "export", "format": FORMAT, "query": said.get("query"), "checkpoint": note})
    for row in connection.execute(select(rotations).order_by(rotations.c.position)):
        if row.position < size:
            yield writer.rotation(row.position, row.note)
    for old, known in _known_notes(connection, since, size):
        proof = consistency_text(old, writer.tree.consistency(old, size))
        yield _line({"type": "consistency", "checkpoint": known, "proof": proof})
    wanted: dict[str, None] = {}
    for at in _prunes(connection, settled, size):
        raw = writer.raw(at)
        yield writer.entry("prune", at, raw)
        wanted.update(dict.fromkeys(references(parse_entry(at, raw or b"").data)))
    for at in settled.positions:
        raw = writer.raw(at)
        yield writer.entry("entry", at, raw)
        if raw is not None:
            wanted.update(dict.fromkeys(references(parse_entry(at, raw).data)))
    yield writer.entry("statement", position, writer.raw(position))
    for digest in wanted:
        body = blobs.get(digest, connection)
        if body is not None:
            yield _line({"type": "body", "sha256": digest, "body": base64.b64encode(body).decode()})


@dataclass(frozen=True, slots=True)
class _Writer:
    connection: Connection
    tree: TreeReader
    size: int

    def raw(self, position: int) -> bytes | None:
        """The entry's bytes, None where retention dropped them."""
        row = self.connection.execute(select(entries.c.entry).where(entries.c.position == position)).first()
        if row is None:
            raise InvalidExport(f"entry {position} is missing from the log: run verify")
        return None if row.entry is None else bytes(row.entry)

    def entry(self, kind: str, position: int, raw: bytes | None, *, size: int | None = None) -> bytes:
        proof = inclusion_text(position, self.tree.inclusion(position, size or self.size))
        return _line({"type": kind, "index": position, **self._body(position, raw), "proof": proof})

    def _body(self, position: int, raw: bytes | None) -> dict[str, JsonValue]:
        if raw is None:
            return {"leaf": base64.b64encode(self.tree.at(0, position)).decode()}
        if leaf_hash(raw) != self.tree.at(0, position):
            raise InvalidExport(f"entry {position} was changed: run verify")
        return {"entry": raw.decode()}

    def rotation(self, position: int, note: str) -> bytes:
        signed = parse_checkpoint(parse_note(note).text).size
        raw = self.raw(position)
        return _line(
            {
                "type": "key",
                "index": position,
                **self._body(position, raw),
                "proof": inclusion_text(position, self.tree.inclusion(position, signed)),
                "checkpoint": note,
                "consistency": consistency_text(signed, self.tree.consistency(signed, self.size)),
            }
        )


def _prunes(connection: Connection, settled: Answer, size: int) -> list[int]:
    """The entries that say of something in this answer that retention dropped it. Reads the log where there is such."""
    query = select(pruned.c.position).where(pruned.c.position < settled.size).order_by(pruned.c.position)
    dropped = set(connection.execute(query).scalars()) & set(settled.positions)
    if not dropped:
        return []
    said: list[int] = []
    for at, raw in rows_of(connection, min(dropped) + 1, size):
        if isinstance(raw, bytes) and _PRUNE in raw and parse_entry(at, raw).kind == Kind.PRUNE:
            said.append(at)
    return said


def _statement_position(connection: Connection, settled: Answer) -> int:
    query = select(entries.c.position, entries.c.entry).where(entries.c.position >= settled.size)
    for position, raw in connection.execute(query.order_by(entries.c.position)):
        if raw is not None and settled.id.encode() in raw:
            entry = parse_entry(position, raw)
            if entry.kind == Kind.EXPORT and entry.data.get("export") == settled.id:
                return int(position)
    raise InvalidExport("the log does not hold the entry that records this export")


def _known_notes(connection: Connection, since: Sequence[str], size: int) -> list[tuple[int, str]]:
    """Older heads that a reader may hold, by size: what was anchored, and what was named."""
    known = {row.size: row.note for row in connection.execute(select(anchors.c.size, anchors.c.note))}
    known.update({parse_checkpoint(parse_note(note).text).size: note for note in since})
    return sorted((old, note) for old, note in known.items() if 0 < old < size)


def newest_note(connection: Connection) -> str | None:
    """The newest stored checkpoint."""
    newest = select(checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(1)
    note: str | None = connection.execute(newest).scalar()
    return note


def _line(value: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

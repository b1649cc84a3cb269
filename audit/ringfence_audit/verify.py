"""Verification: whether a log is what was written, and how far that can be said.

*broken* names the first entry that is not as it was and why. *intact* means that entries, run chains, tree and signed
checkpoints agree; on a machine that holds both log and key that proves no more than *intact, not anchored*, since
whoever holds both can write another history. *anchored* compares with checkpoints that were kept elsewhere. Beside
the grade it is said which intents lack an outcome. Reads only; hostile content raises nothing but this room's errors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

import orjson
from sqlalchemy import Connection, create_engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.merkle import HASH_SIZE, TILE_WIDTH, leaf_hash, root_of
from ringfence_audit.notes import Checkpoint, VerifierKey, open_checkpoint
from ringfence_audit.tables import checkpoints, entries, heads, streams, tiles
from ringfence_audit.tree import TreeReader

NAMED_OPEN = 20


class Grade(StrEnum):
    BROKEN = "broken"
    INTACT = "intact, not anchored"
    ANCHORED = "anchored"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`position` is the first bad entry, None where the fault lies in no single one. `open_calls` lack outcomes."""

    grade: Grade
    size: int
    problem: str = ""
    position: int | None = None
    open_calls: tuple[str, ...] = ()

    @property
    def is_intact(self) -> bool:
        return self.grade is not Grade.BROKEN

    @property
    def text(self) -> str:
        """One sentence for people."""
        if not self.is_intact:
            where = f"entry {self.position}: " if self.position is not None else ""
            return f"NOT INTACT: {where}{self.problem}"
        opened = f"; {len(self.open_calls)} intents without an outcome" if self.open_calls else ""
        return f"{self.grade.value}: {self.size} entries{opened}"

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "type": "verdict",
            "grade": self.grade.value,
            "size": self.size,
            "problem": self.problem,
            "position": self.position,
            "open_calls": list(self.open_calls[:NAMED_OPEN]),
        }


class _Fault(Exception):
    """Found something. `position` as in `Verdict`."""

    def __init__(self, problem: str, position: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position


@dataclass
class _Stream:
    """The chain of one run as read so far."""

    length: int = 0
    head: bytes = b""
    last: int = -1


@dataclass
class _Read:
    """What one pass over the entries gathered."""

    leaves: list[bytes] = field(default_factory=list)
    chains: dict[str, _Stream] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)
    approved: dict[int, JsonValue] = field(default_factory=dict)
    """Escalation → the action digest that people approved."""


def verify_file(path: Path, key: VerifierKey, *, anchors: Sequence[str] = ()) -> Verdict:
    """Verify a log in a SQLite file, opened read-only. A file that is no log is a *broken* one."""
    if not path.is_file():
        return Verdict(Grade.BROKEN, 0, f"{path.name} does not exist")
    # Beside a log in use lies its write-ahead log; a copy at rest has none, and must not need one to be made.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"file:{quote(str(path.absolute()))}?{mode}"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            # One snapshot: a log that is being written meanwhile is judged as it stood at this moment.
            connection.exec_driver_sql("BEGIN")
            return verify(connection, key, anchors=anchors)
    except (SQLAlchemyError, sqlite3.Error) as error:
        return Verdict(Grade.BROKEN, 0, f"{path.name} cannot be read as a log ({type(error).__name__})")
    finally:
        engine.dispose()


def verify(connection: Connection, key: VerifierKey, *, anchors: Sequence[str] = ()) -> Verdict:
    """Verify the log as this connection sees it. `anchors` are checkpoint notes that were kept elsewhere."""
    read = _Read()
    try:
        _read_entries(connection, read)
        _check_streams(connection, read)
        _check_tiles(connection, read)
        _check_head(connection, read)
        _check_checkpoints(connection, read, key)
        anchored = [_check_anchor(connection, read, note, key) for note in anchors]
    except _Fault as fault:
        return Verdict(Grade.BROKEN, len(read.leaves), fault.problem, fault.position)
    grade = Grade.ANCHORED if any(anchored) else Grade.INTACT
    return Verdict(grade, len(read.leaves), open_calls=tuple(read.pending))


def _read_entries(connection: Connection, read: _Read) -> None:
    query = select(entries.c.position, entries.c.entry).order_by(entries.c.position)
    for position, raw in connection.execute(query):
        expected = len(read.leaves)
        if position != expected:
            raise _Fault(f"it is missing; the log goes on with entry {position}", expected)
        if not isinstance(raw, bytes):
            raise _Fault("its bytes are missing", position)
        _read_entry(position, raw, read)


def _read_entry(position: int, raw: bytes, read: _Read) -> None:
    try:
        entry = parse_entry(position, raw)
        is_canonical = orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS) == raw
    except (InvalidExport, orjson.JSONEncodeError) as error:
        raise _Fault("it does not have the form of an entry", position) from error
    if not is_canonical:
        raise _Fault("its bytes are not in canonical form", position)
    chain = read.chains.setdefault(entry.run, _Stream())
    previous = chain.head.hex() if chain.length else None
    if entry.n != chain.length:
        raise _Fault(f"it is number {entry.n} of {entry.run!r} where {chain.length} belongs", position)
    if entry.previous != previous:
        culprit = chain.last if chain.length else position
        raise _Fault(f"it was changed: entry {position} of the same run was chained to other bytes", culprit)
    leaf = leaf_hash(raw)
    read.leaves.append(leaf)
    chain.length, chain.head, chain.last = chain.length + 1, leaf, position
    escalation = entry.data.get("escalation")
    if entry.kind == Kind.SETTLED and entry.data.get("state") == "approved" and isinstance(escalation, int):
        read.approved[escalation] = entry.data.get("digest")
    if entry.kind == Kind.INTENT:
        read.pending[entry.call] = None
        if isinstance(escalation, int) and read.approved.get(escalation) != entry.data.get("digest"):
            raise _Fault(f"it acts on other bytes than those that E-{escalation} approved", position)
    elif entry.kind == Kind.OUTCOME:
        read.pending.pop(entry.call, None)


def _check_streams(connection: Connection, read: _Read) -> None:
    faults: list[_Fault] = []
    known = set()
    for row in connection.execute(select(streams)):
        if not isinstance(row.length, int) or not isinstance(row.head, bytes):
            raise _Fault(f"what the log keeps of {row.stream!r} is not of the right type")
        known.add(row.stream)
        chain = read.chains.get(row.stream, _Stream())
        if row.length > chain.length:
            faults.append(_Fault(f"the last entries of {row.stream!r} are missing ({row.length - chain.length})"))
        elif (row.length, row.head) != (chain.length, chain.head):
            faults.append(_Fault("it was changed, or added behind the log's back", chain.last))
    faults += [_Fault("its run is not known to the log", chain.last) for run, chain in _strangers(read, known)]
    if faults:
        raise min(faults, key=lambda fault: len(read.leaves) if fault.position is None else fault.position)


def _strangers(read: _Read, known: set[str]) -> Iterator[tuple[str, _Stream]]:
    return ((run, chain) for run, chain in read.chains.items() if run not in known)


def _check_tiles(connection: Connection, read: _Read) -> None:
    query = select(tiles.c.position, tiles.c.hashes).where(tiles.c.level == 0).order_by(tiles.c.position)
    for index, hashes in connection.execute(query):
        if not isinstance(hashes, bytes) or len(hashes) != TILE_WIDTH * HASH_SIZE:
            raise _Fault(f"tile {index} of the tree is not 256 hashes")
        first = index * TILE_WIDTH
        for offset in range(TILE_WIDTH):
            stored = bytes(hashes[offset * HASH_SIZE : (offset + 1) * HASH_SIZE])
            if first + offset >= len(read.leaves) or stored != read.leaves[first + offset]:
                raise _Fault("it is not the entry whose hash stands in the tree", first + offset)


def _check_head(connection: Connection, read: _Read) -> None:
    size = connection.execute(select(heads.c.size)).scalar() or 0
    if size != len(read.leaves):
        raise _Fault(f"the log says that it has {size} entries, and {len(read.leaves)} are there")


def _check_checkpoints(connection: Connection, read: _Read, key: VerifierKey) -> None:
    good = 0
    tree = TreeReader(connection)
    for size, note in connection.execute(select(checkpoints).order_by(checkpoints.c.size)):
        if not isinstance(note, str):
            raise _Fault(f"the checkpoint of {size} entries is not text")
        checkpoint = _opened(note, key)
        if checkpoint.size != size:
            raise _Fault(f"the checkpoint of {size} entries speaks of {checkpoint.size}")
        if checkpoint.size > len(read.leaves):
            raise _Fault(f"a checkpoint covers {checkpoint.size} entries, and only {len(read.leaves)} are there")
        if _root(tree, read, checkpoint.size) != checkpoint.root:
            raise _Fault(f"one of the entries {good} to {size - 1} is not what a checkpoint was signed over", good)
        good = size


def _check_anchor(connection: Connection, read: _Read, note: str, key: VerifierKey) -> bool:
    checkpoint = _opened(note, key)
    if checkpoint.size > len(read.leaves):
        missing = checkpoint.size - len(read.leaves)
        raise _Fault(f"the log was cut back: an anchored checkpoint has {missing} more entries")
    if _root(TreeReader(connection), read, checkpoint.size) != checkpoint.root:
        raise _Fault(f"the log is not the one that was anchored at {checkpoint.size} entries")
    return True


def _opened(note: str, key: VerifierKey) -> Checkpoint:
    try:
        return open_checkpoint(note, key)
    except InvalidExport as error:
        raise _Fault(f"a checkpoint cannot be believed: {error}") from error


def _root(tree: TreeReader, read: _Read, size: int) -> bytes:
    """From stored tiles, which were compared with the entries; a higher tile that is wrong makes the roots differ."""
    try:
        return tree.root(size)
    except InvalidExport:
        return root_of(read.leaves[:size])

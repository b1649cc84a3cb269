"""How long entries live: retention drops bodies, legal holds keep them, and each step is an entry of its own.

What is dropped leaves its leaf hash in the tree's tile, so every proof that ever was still holds, and new proofs can
be made of what is left. Whole runs are dropped, once their last entry is old enough; never what proves the log itself
(keys, counts, gaps, holds, erasures, exports), nothing that is held, and nothing that no checkpoint covers yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from ringfence_audit.blobs import Blobs
from ringfence_audit.bodies import Fetch, original_digest, references, restore
from ringfence_audit.counters import STAMP, fingerprint
from ringfence_audit.dropped import Dropped, digest_of, ranges_of
from ringfence_audit.errors import EntryNotFound, Held
from ringfence_audit.events import SYSTEM_STREAM, Event, JsonValue, Kind
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.merkle import TILE_WIDTH
from ringfence_audit.port import Transaction
from ringfence_audit.records import holds, pruned
from ringfence_audit.scan import rows_of
from ringfence_audit.tables import checkpoints, entries

KEPT = frozenset({Kind.KEY, Kind.COUNT, Kind.GAP, Kind.HOLD, Kind.PRUNE, Kind.ERASURE, Kind.EXPORT})
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold in force. `run` is empty where it holds the whole log."""

    name: str
    run: str
    reason: str
    placed_by: str
    placed_at_us: int


@dataclass(frozen=True, slots=True)
class Dropping:
    """What retention may drop: what is kept of each entry, and the large values that nothing else names."""

    before: datetime
    places: tuple[Dropped, ...]
    bodies: tuple[str, ...]
    seen: int = 0
    """The entries from here on came later, and may name those values again."""


def place_hold(tx: Transaction, name: str, *, run: str, reason: str, by: str) -> None:
    """From now on nothing of a run, or of the whole log where `run` is empty, is dropped."""
    now_us = int(tx.now.timestamp() * 1_000_000)
    values = {"name": name, "run": run, "reason": reason, "placed_by": by, "placed_at": now_us}
    tx.connection.execute(delete(holds).where(holds.c.name == name))
    tx.connection.execute(insert(holds).values(**values))
    tx.record(Event(Kind.HOLD, by, {"action": "placed", "name": name, "run": run, "reason": reason}))


def lift_hold(tx: Transaction, name: str, *, reason: str, by: str) -> None:
    """Raises `EntryNotFound`."""
    if not tx.connection.execute(delete(holds).where(holds.c.name == name)).rowcount:
        raise EntryNotFound(f"no hold {name} is in force")
    tx.record(Event(Kind.HOLD, by, {"action": "lifted", "name": name, "reason": reason}))


def list_holds(connection: Connection) -> list[Hold]:
    rows = connection.execute(select(holds).order_by(holds.c.placed_at))
    return [Hold(row.name, row.run, row.reason, row.placed_by, row.placed_at) for row in rows]


def droppable(connection: Connection, before: datetime, *, blobs: Blobs) -> Dropping:
    """What may go: reads the whole log twice."""
    held = {hold.run for hold in list_holds(connection)}
    covered = connection.execute(select(checkpoints.c.size).order_by(checkpoints.c.size.desc()).limit(1)).scalar() or 0
    limit = covered - covered % TILE_WIDTH
    if "" in held or limit == 0:
        return Dropping(before, (), ())
    newest: dict[str, datetime] = {}
    closed: set[str] = set()
    seen = 0
    for entry in _entries(connection):
        seen = entry.position + 1
        newest[entry.run] = max(entry.time, newest.get(entry.run, entry.time))
        if entry.kind == Kind.RUN_CLOSED:
            closed.add(entry.run)
    over = {run for run in closed if newest[run] < before} - held
    places: list[Dropped] = []
    named: set[str] = set()
    needed: set[str] = set()
    for entry in _entries(connection):
        is_old = entry.run in over or (entry.run == SYSTEM_STREAM and entry.time < before)
        goes = is_old and entry.position < limit and entry.kind not in KEPT
        if goes:
            places.append(_kept_of(entry, lambda digest: blobs.get(digest, connection)))
        (named if goes else needed).update(_bodies(entry))
    return Dropping(before, tuple(places), tuple(sorted(named - needed)), seen)


def drop(tx: Transaction, dropping: Dropping, *, by: str) -> None:
    """Drop entries' bytes and say so in an entry. The large values go afterwards (`drop_bodies`).

    Raises `Held` where a hold was placed since.
    """
    runs = {place.stream for place in dropping.places}
    for hold in list_holds(tx.connection):
        if not hold.run or hold.run in runs:
            raise Held(f"{hold.name} was placed meanwhile and holds {hold.run or 'the whole log'}: nothing was dropped")
    if tx.connection.dialect.name == "sqlite":
        tx.connection.exec_driver_sql("PRAGMA secure_delete = ON")
    for places in _chunks(dropping.places):
        positions = [place.position for place in places]
        tx.connection.execute(update(entries).where(entries.c.position.in_(positions)).values(entry=None))
        tx.connection.execute(insert(pruned), [place._asdict() for place in places])
    data: dict[str, JsonValue] = {
        "before": dropping.before.isoformat(),
        "count": len(dropping.places),
        "ranges": [list(pair) for pair in ranges_of(place.position for place in dropping.places)],
        "digest": digest_of(dropping.places),
    }
    tx.record(Event(Kind.PRUNE, by, data))


def drop_bodies(connection: Connection, dropping: Dropping, blobs: Blobs) -> None:
    """Forget the large values that only dropped entries named. Safe to repeat."""
    named: set[str] = set()
    for entry in _entries(connection, dropping.seen):
        named.update(_bodies(entry))
    for digest in dropping.bodies:
        if digest not in named:
            blobs.drop(digest, connection)


def _entries(connection: Connection, first: int = 0) -> Iterator[Entry]:
    for position, raw in rows_of(connection, first, 2**53):
        if isinstance(raw, bytes):
            yield parse_entry(position, raw)


def _kept_of(entry: Entry, fetch: Fetch) -> Dropped:
    """Its place, and the number and the mark that its producer gave it, also where these left the entry as a body."""
    whole = restore(entry.data, fetch)
    told = entry._replace(data=whole) if isinstance(whole, Mapping) else entry
    stamp = told.data.get(STAMP)
    name, number = (stamp.get("id"), stamp.get("n")) if isinstance(stamp, Mapping) else (None, None)
    if not isinstance(name, str) or not isinstance(number, int):
        return Dropped(entry.position, entry.run, entry.n)
    return Dropped(entry.position, entry.run, entry.n, name, number, fingerprint(told, name))


def _bodies(entry: Entry) -> set[str]:
    original = original_digest(entry.data)
    return {*references(entry.data), *([original] if original else [])}


def _chunks(places: Sequence[Dropped]) -> Iterator[Sequence[Dropped]]:
    for at in range(0, len(places), _AT_ONCE):
        yield places[at : at + _AT_ONCE]

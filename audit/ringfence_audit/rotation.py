"""A new signing key, with continuity: the old key signs the entry that names the new one, and then it is gone.

Whoever pinned the old key follows (`keyring`, and `offline` in an export). The steps can be repeated after a crash at
any point: the new key lies in a file of its own until it takes the old one's place.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert, select

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import Event, Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.keys import Signer, create_secret, new_key
from ringfence_audit.notes import VerifierKey, open_checkpoint
from ringfence_audit.records import rotations
from ringfence_audit.store import SqlStore
from ringfence_audit.tables import entries


@dataclass(frozen=True, slots=True)
class Rotated:
    """The old and the new public key, and the entry that names them."""

    old: VerifierKey
    new: VerifierKey
    position: int


def rotate(store: SqlStore, path: Path, *, by: str, reason: str) -> Rotated:
    """Replace the key in `path` by a new one. The store goes on with it, and so does every other that reads that file.

    Raises `KeyUnusable`, `LogUnavailable`, and `InvalidExport` where the old key did not sign for the change.
    """
    origin = store.signer.origin
    draft = path.with_name(f"{path.name}.next")
    if not draft.exists():
        create_secret(draft, new_key())
    old = VerifierKey.of_log(origin, store.signer.fresh().public_key)
    new = VerifierKey.of_log(origin, Signer.load(draft, origin).public_key)
    position = store.read_now(lambda connection: _position(connection, new))
    if position is None:
        data = {"action": "rotated", "old": str(old), "new": str(new), "reason": reason}
        asyncio.run(store.write(lambda tx: tx.record(Event(Kind.KEY, by, data))))
        position = store.read_now(lambda connection: _position(connection, new))
    note = asyncio.run(store.checkpoint())
    if position is None or note is None:
        raise InvalidExport("the entry that changes the key is not in the log")
    if open_checkpoint(note, old).size <= position:
        raise InvalidExport("the old key has not signed for the entry that replaces it: try again")
    values = {"position": position, "old": str(old), "new": str(new), "note": note}
    at = position

    def keep(connection: Connection) -> None:
        known = connection.execute(select(rotations.c.position).where(rotations.c.position == at)).first()
        if known is None:
            connection.execute(insert(rotations).values(**values))

    asyncio.run(store.write(lambda tx: keep(tx.connection)))
    draft.replace(path)
    _sync(path.parent)
    asyncio.run(store.write(lambda tx: tx.record(Event(Kind.KEY, by, {"action": "in use", "key": str(new)}))))
    asyncio.run(store.checkpoint())
    return Rotated(old, new, position)


def _position(connection: Connection, new: VerifierKey) -> int | None:
    """The entry that names this key as the next one, looked for from the end."""
    query = select(entries.c.position, entries.c.entry).order_by(entries.c.position.desc())
    with connection.execute(query, execution_options={"yield_per": 500}) as rows:
        for position, raw in rows:
            if raw is not None and b'"audit.key"' in raw and parse_entry(position, raw).data.get("new") == str(new):
                return int(position)
    return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Which keys may have signed the log, starting from the one that a person pinned.

A key is changed by an entry in which the old one names the new one, and by a checkpoint over that entry that the old
one signed. Whoever trusts either key so comes to trust the other: the old for what came before, the new for what came
after. A key that was replaced signs nothing that lies `GRACE` entries beyond its last one; a checkpoint of it there
was made with a key that should be gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import Connection, select

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import Kind
from ringfence_audit.facts import parse_entry
from ringfence_audit.notes import Checkpoint, VerifierKey, is_signed, open_checkpoint, parse_note
from ringfence_audit.records import rotations
from ringfence_audit.tables import entries

GRACE = 4_096
"""Entries that other processes may still sign with the old key until they see the new one."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """A key, and the last size it may sign; None while it is in use."""

    key: VerifierKey
    until: int | None = None
    is_former: bool = False
    """Trusted only for what a later key vouches for."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A change of keys as the log records it."""

    position: int
    old: VerifierKey
    new: VerifierKey
    signed: Checkpoint


@dataclass(frozen=True, slots=True)
class Keyring:
    """The trusted keys."""

    keys: tuple[Trusted, ...]
    rotations: tuple[Rotation, ...] = ()

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of a note that a trusted key signed. Raises `InvalidExport`."""
        parsed = parse_note(note)
        for trusted in self.keys:
            if is_signed(parsed, trusted.key):
                checkpoint = open_checkpoint(note, trusted.key)
                if trusted.until is not None and checkpoint.size > trusted.until:
                    raise InvalidExport(f"{trusted.key.key_hash.hex()} signed it after it had been replaced")
                return checkpoint
        pinned = self.keys[0].key
        raise InvalidExport(f"it is not signed by {pinned.name}+{pinned.key_hash.hex()}, nor by a key that follows it")

    def vouches(self, note: str) -> bool:
        """Whether the pinned key or one that came after it signed the note: only such a one may be the newest."""
        parsed = parse_note(note)
        return any(is_signed(parsed, trusted.key) for trusted in self.keys if not trusted.is_former)


def keyring(connection: Connection, pinned: VerifierKey) -> Keyring:
    """Follow the log's changes of keys both ways from the pinned one. Raises `InvalidExport` for a forged change."""
    changes = [
        _rotation(connection, *row) for row in connection.execute(select(rotations).order_by(rotations.c.position))
    ]
    followed = _reachable(changes, str(pinned))
    until = {str(change.old): change.position + 1 + GRACE for change in followed}
    names = [*(str(change.old) for change in followed), *(str(change.new) for change in followed[-1:])]
    at = names.index(str(pinned)) if names else 0
    order = names[at:] + names[:at] if names else [str(pinned)]
    former = set(names[:at])
    keys = (Trusted(VerifierKey.parse(name), until.get(name), name in former) for name in order)
    return Keyring(tuple(keys), tuple(followed))


def _reachable(changes: list[Rotation], pinned: str) -> list[Rotation]:
    """The chain of changes that the pinned key belongs to, in order."""
    names = [str(change.old) for change in changes] + [str(changes[-1].new)] if changes else []
    is_chain = all(str(a.new) == str(b.old) for a, b in pairwise(changes))
    if changes and not is_chain:
        raise InvalidExport("the changes of the log's key do not follow each other")
    return changes if pinned in names else []


def _rotation(connection: Connection, position: int, old: str, new: str, note: str) -> Rotation:
    raw = connection.execute(select(entries.c.entry).where(entries.c.position == position)).scalar()
    if not isinstance(raw, bytes):
        raise InvalidExport(f"entry {position}, which changed the log's key, is missing")
    entry = parse_entry(position, raw)
    if entry.kind != Kind.KEY or (entry.data.get("old"), entry.data.get("new")) != (old, new):
        raise InvalidExport(f"entry {position} does not change the log's key as it is told elsewhere")
    key = VerifierKey.parse(old)
    signed = open_checkpoint(note, key)
    if signed.size <= position:
        raise InvalidExport(f"the old key did not sign for entry {position}, which replaces it")
    return Rotation(position, key, VerifierKey.parse(new), signed)

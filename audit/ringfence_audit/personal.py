"""Personal fields: encrypted under a key for each person, so that destroying the key erases them everywhere.

A room marks a value as `Personal`; in the entry stands `sealed:` text in its place, bound to the person. The entry's
bytes never change, so its proofs hold after the erasure; what they held can be read by nobody any more. Backups of the
database hold the keys too, until they are gone. The keys lie in a table, not in the log.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, select, update

from ringfence_audit.errors import EntryNotFound, InvalidExport
from ringfence_audit.events import Event, JsonValue, Kind, Personal
from ringfence_audit.originals import Box
from ringfence_audit.port import Transaction
from ringfence_audit.records import subjects

ERASED = "[erased]"
_PREFIX = "sealed:"


def seal(value: JsonValue, connection: Connection, now_us: int) -> JsonValue:
    """The value with every `Personal` text in it encrypted; a person's key is made where there is none."""
    if isinstance(value, Personal):
        box = Box(_key(connection, value.subject, now_us))
        about = value.subject.encode()
        body = base64.b64encode(box.seal(str(value).encode(), about=about)).decode()
        return f"{_PREFIX}{base64.b64encode(about).decode()}:{body}"
    if isinstance(value, Mapping):
        return {key: seal(item, connection, now_us) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [seal(item, connection, now_us) for item in value]
    return value


def reveal(value: JsonValue, connection: Connection) -> JsonValue:
    """The value as it was recorded; `[erased]` where the person's key was destroyed. Text that only looks sealed stays
    as it is."""
    if isinstance(value, str):
        return _opened(value, connection) if value.startswith(_PREFIX) else value
    if isinstance(value, Mapping):
        return {key: reveal(item, connection) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [reveal(item, connection) for item in value]
    return value


def _opened(text: str, connection: Connection) -> str:
    subject64, _, body64 = text.removeprefix(_PREFIX).partition(":")
    try:
        about = base64.b64decode(subject64, validate=True)
        subject, body = about.decode(), base64.b64decode(body64, validate=True)
    except (binascii.Error, ValueError):
        return text
    row = connection.execute(select(subjects).where(subjects.c.subject == subject)).first()
    if row is None:
        return text
    try:
        return ERASED if row.key is None else Box(row.key).open(body, about=about).decode()
    except (InvalidExport, UnicodeDecodeError):
        return ERASED if row.erased_at is not None else text


def _key(connection: Connection, subject: str, now_us: int) -> bytes:
    row = connection.execute(select(subjects.c.key).where(subjects.c.subject == subject)).first()
    if row is not None and row.key is not None:
        return bytes(row.key)
    key = os.urandom(32)
    if row is None:
        connection.execute(insert(subjects).values(subject=subject, key=key, made_at=now_us))
    else:
        connection.execute(update(subjects).where(subjects.c.subject == subject).values(key=key, made_at=now_us))
    return key


def erase(tx: Transaction, subject: str, *, by: str, reason: str) -> None:
    """Destroy a person's key, and prove it by an entry. Raises `EntryNotFound` where the log holds nothing of them."""
    if tx.connection.dialect.name == "sqlite":
        tx.connection.exec_driver_sql("PRAGMA secure_delete = ON")
    where = (subjects.c.subject == subject) & subjects.c.key.is_not(None)
    now_us = int(tx.now.timestamp() * 1_000_000)
    if not tx.connection.execute(update(subjects).where(where).values(key=None, erased_at=now_us)).rowcount:
        raise EntryNotFound(f"the log holds no personal fields of {subject}, or they were erased already")
    tx.record(Event(Kind.ERASURE, by, {"subject": subject, "reason": reason}))

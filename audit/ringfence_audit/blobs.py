"""Bodies too large for an entry, kept by their SHA-256 so that the entry binds them.

In an entry such a value reads `{"$blob": {"form": "text" or "json", "sha256": HEX, "size": BYTES}}`. `json` bodies
are RFC 8785 bytes. Retention may drop a body; the digest in the entry still proves what it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from sqlalchemy import Column, Connection, LargeBinary, String, Table, delete, select

from ringfence_audit.errors import AuditError
from ringfence_audit.schema import metadata

BLOB_LIMIT = 4096
"""Bytes of canonical JSON from which on a value leaves the entry."""

_FEW = 2


class BlobDamaged(AuditError):
    """A stored body does not have the digest that it is kept under."""


class Blobs(Protocol):
    """Content-addressed bodies. Digests are lower-case hexadecimal SHA-256."""

    def put(self, bodies: Mapping[str, bytes], connection: Connection) -> None:
        """Keep the bodies; they are durable on return, or at the latest with the connection's transaction."""

    def get(self, digest: str, connection: Connection) -> bytes | None:
        """The body, checked against its digest, or None where it was never kept or was dropped. `BlobDamaged`."""

    def drop(self, digest: str, connection: Connection) -> None:
        """Forget a body. Dropping what is not there is no error."""


class FileBlobs:
    """One file a body in `folder/ab/abcd…`, readable to its owner alone, complete from the moment it has its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, bodies: Mapping[str, bytes], connection: Connection) -> None:
        missing = [(self._path(digest), body) for digest, body in bodies.items() if not self._path(digest).exists()]
        if len(missing) <= _FEW:
            for path, body in missing:
                _write(path, body)
        else:
            with ThreadPoolExecutor(4) as pool:  # the disk syncs several files at once as fast as one
                list(pool.map(lambda item: _write(*item), missing))
        for folder in {path.parent for path, _ in missing} | ({self._folder} if missing else set()):
            _sync(folder)

    def get(self, digest: str, connection: Connection) -> bytes | None:
        try:
            body = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return _checked(digest, body)

    def drop(self, digest: str, connection: Connection) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise BlobDamaged("a digest is 64 lower-case hexadecimal digits")
        return self._folder / digest[:2] / digest


class DatabaseBlobs:
    """Bodies in a table of the log's database: for several machines that share PostgreSQL and no files."""

    def put(self, bodies: Mapping[str, bytes], connection: Connection) -> None:
        known = set(connection.execute(select(_table.c.digest).where(_table.c.digest.in_(bodies))).scalars())
        rows = [{"digest": digest, "body": body} for digest, body in bodies.items() if digest not in known]
        if rows:
            connection.execute(_table.insert(), rows)

    def get(self, digest: str, connection: Connection) -> bytes | None:
        body = connection.execute(select(_table.c.body).where(_table.c.digest == digest)).scalar()
        return None if body is None else _checked(digest, body)

    def drop(self, digest: str, connection: Connection) -> None:
        connection.execute(delete(_table).where(_table.c.digest == digest))


_table = Table(
    "audit_blobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)


def _checked(digest: str, body: bytes) -> bytes:
    if sha256(body).hexdigest() != digest:
        raise BlobDamaged(f"the body kept under {digest} is not what was stored: restore it from a backup")
    return body


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The log's signing key: an Ed25519 key in a file that only its owner reads, and the signer that uses it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence_audit.errors import AuditError


class KeyUnusable(AuditError):
    """The key file is missing, readable to others, or holds no Ed25519 key."""


class Signer:
    """Signs checkpoints of the log called `origin`. Holds the private key in memory; never prints it."""

    def __init__(self, origin: str, key: Ed25519PrivateKey, *, path: Path | None = None) -> None:
        if not origin or any(c.isspace() or c == "+" or not c.isprintable() for c in origin):
            raise KeyUnusable("an origin is a name without spaces or plus signs, such as ringfence.example.org/log")
        self.origin = origin
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self._path = path
        self._stamp = None if path is None else _stamp(path)
        self._newer: Signer | None = None

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def fresh(self) -> Signer:
        """The signer to use now: one with the key that lies in the file today, where a rotation changed it. A file
        that cannot be read at this moment changes nothing."""
        newest = self._newer or self
        if newest._path is None or (stamp := _stamp(newest._path)) is None or stamp == newest._stamp:
            return newest
        with suppress(KeyUnusable):
            self._newer = newest = Signer.load(newest._path, self.origin)
        return newest

    @classmethod
    def generate(cls, origin: str) -> Signer:
        """A key that lives only in memory."""
        return cls(origin, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, origin: str) -> Signer:
        """Read the key. Raises `KeyUnusable` where the file is missing, malformed, or open to group or others."""
        body = read_secret(path)
        try:
            key = serialization.load_pem_private_key(body, password=None)
        except (ValueError, TypeError) as error:
            raise KeyUnusable(f"{path} is not a PEM private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"{path} holds a key that is not Ed25519")
        return cls(origin, key, path=path)

    @classmethod
    def load_or_create(cls, path: Path, origin: str) -> Signer:
        """Read the key, or make one (mode 0600, on disk before it is used). Safe against another process's doing so."""
        if not path.exists():
            create_secret(path, new_key())
        return cls.load(path, origin)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when another file takes this name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def new_key() -> bytes:
    """A fresh Ed25519 key as it is kept in a file."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_secret(path: Path) -> bytes:
    """A key file's content. Raises `KeyUnusable` where it is missing, or open to group or others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            body = file.read(10_000)
    except OSError as error:
        raise KeyUnusable(f"cannot read the key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyUnusable(f"the key {path} is open to others: chmod 600 it, and rotate it if it was exposed")
    return body


def create_secret(path: Path, body: bytes) -> None:
    """Write a whole key under a name of its own, then link it into place, so that no reader sees half a key. Where
    another process was first its key stays. Raises `KeyUnusable`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process was first, and its key is as good as ours
        finally:
            draft.unlink()
    except OSError as error:
        raise KeyUnusable(f"cannot make the key {path}: {error.strerror}") from error

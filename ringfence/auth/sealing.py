"""Second factors at rest: a TOTP seed has to be readable, so it is kept encrypted under a key outside the database.

AES-256-GCM with a random nonce; the person's name is authenticated with it, so that a seed moved to another row does
not open. The key is a file that only its owner reads: whoever has the database alone has no second factor.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ringfence.errors import Mistake

_FORM = "a1."
_NONCE_BYTES = 12
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Seal:
    """Encrypts and decrypts seeds. Never prints its key."""

    key: bytes = field(repr=False)

    def close(self, seed: str, person: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        body = AESGCM(self.key).encrypt(nonce, seed.encode(), person.encode())
        return _FORM + base64.b64encode(nonce + body).decode()

    def open(self, sealed: str, person: str) -> str:
        """The seed, or "" for what this key did not seal for this person: then no code holds."""
        try:
            raw = base64.b64decode(sealed.removeprefix(_FORM), validate=True)
            return AESGCM(self.key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], person.encode()).decode()
        except (binascii.Error, InvalidTag, ValueError):
            return ""

    @classmethod
    def generate(cls) -> Seal:
        """A key that lives only in memory."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> Seal:
        """Read the key, or make one (mode 0600). Raises `Mistake` where it is open to others or not a key."""
        fix = "Restore it from a backup, or remove it and invite everyone again"
        try:
            if not path.exists():
                _create(path)
            with path.open("rb") as file:
                is_open = os.fstat(file.fileno()).st_mode & 0o077
                text = file.read(1000)
        except OSError as error:
            raise Mistake(f"the people key {path} cannot be used ({error.strerror})", fix=fix) from error
        if is_open:
            raise Mistake(f"the people key {path} is open to others", fix=f"chmod 600 {path}")
        try:
            key = bytes.fromhex(text.decode("ascii").strip())
        except ValueError as error:
            raise Mistake(f"{path} is not a people key", fix=fix) from error
        if len(key) != _KEY_BYTES:
            raise Mistake(f"{path} is not a people key", fix=fix)
        return cls(key)


def _create(path: Path) -> None:
    """A whole key under a name of its own, then linked into place, so that no reader sees half a key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()

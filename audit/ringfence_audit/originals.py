"""What redaction took out, kept encrypted: so that an action digest can be recomputed by whoever holds the key.

The digest of an action covers its arguments as they ran, secrets included, and a random nonce. Where an entry was
redacted the data as it was goes into a body of its own, sealed with AES-256-GCM and bound by the SHA-256 of the
ciphertext, and the nonce goes with it: beside the digest in the open it would let short secrets be guessed.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ringfence_audit.errors import InvalidExport
from ringfence_audit.keys import KeyUnusable, create_secret, read_secret

_NONCE = 12
_SIZE = 32


class Box:
    """Seals and opens with one 256-bit key. Safe for several threads."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _SIZE:
            raise KeyUnusable("a sealing key has 32 bytes")
        self._aead = AESGCM(key)
        self.id = sha256(b"ringfence-box\0" + key).hexdigest()[:16]

    @classmethod
    def load_or_create(cls, path: Path) -> Box:
        """The key in a file that only its owner reads, made where it is missing. Raises `KeyUnusable`."""
        if not path.exists():
            create_secret(path, os.urandom(_SIZE))
        return cls(read_secret(path))

    def seal(self, plain: bytes, *, about: bytes = b"") -> bytes:
        """Nonce and ciphertext; `about` is bound to it and must be given again to open it."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, plain, about)

    def open(self, sealed: bytes, *, about: bytes = b"") -> bytes:
        """Raises `InvalidExport` for another key or changed bytes."""
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], about)
        except (InvalidTag, ValueError) as error:
            raise InvalidExport("it was sealed with another key, or changed") from error

"""Checkpoints as C2SP signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), read with hostility.

A checkpoint's text is three lines: origin, size, base64 root. A signature line is `— name base64(hash ‖ signature)`;
the four-byte hash names the key: SHA-256(name ‖ 0x0A ‖ type ‖ key)[:4]. Type 1 is Ed25519 over the text, type 4 an
Ed25519 cosignature of a witness over `cosignature/v1`, a time, and the text (c2sp.org/tlog-cosignature). Lines of
other keys or kinds are kept and ignored, so a post-quantum signature may stand beside ours.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ringfence_audit.errors import InvalidExport

MAX_NOTE = 64_000
_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_DASH = "— "


class Signs(Protocol):
    """What a checkpoint is signed with; `keys.Signer` is one."""

    @property
    def origin(self) -> str: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...

    def fresh(self) -> Signs:
        """The signer to use for the next signature: its key may have been replaced."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log claims of itself: its name, its size in entries, its 32-byte root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class SignatureLine:
    name: str
    key_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. Nothing is verified yet."""

    text: str
    signatures: tuple[SignatureLine, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key by name, in the vkey form `name+hash+base64(type ‖ key)`."""

    name: str
    kind: bytes
    key: bytes

    @property
    def key_hash(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + self.kind + self.key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{base64.b64encode(self.kind + self.key).decode()}"

    @classmethod
    def of_log(cls, name: str, key: bytes) -> VerifierKey:
        return cls(name, _ED25519, key)

    @classmethod
    def of_witness(cls, name: str, key: bytes) -> VerifierKey:
        return cls(name, _COSIGNATURE, key)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a vkey. Raises `InvalidExport`."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise InvalidExport("a public key has the form name+hash+base64")
        name, digest, body = parts[0], parts[1], _unbase64(parts[2])
        key = cls(name, body[:1], body[1:])
        if key.kind not in (_ED25519, _COSIGNATURE) or len(key.key) != 32:
            raise InvalidExport("the public key is not Ed25519")
        if key.key_hash.hex() != digest:
            raise InvalidExport("the public key does not match its own hash: it was copied wrongly or changed")
        return key


def sign_checkpoint(checkpoint: Checkpoint, signer: Signs) -> str:
    """The signed note of a checkpoint."""
    text = checkpoint.text()
    signer = signer.fresh()
    key = VerifierKey.of_log(signer.origin, signer.public_key)
    return f"{text}\n{_line(key, signer.sign(text.encode()))}"


def _line(key: VerifierKey, signature: bytes) -> str:
    return f"{_DASH}{key.name} {base64.b64encode(key.key_hash + signature).decode()}\n"


def cosign(note: str, signer: Signs, *, seconds: int) -> str:
    """The note with a witness's cosignature added, made at `seconds` since 1970."""
    message = _cosigned(parse_note(note).text, seconds)
    key = VerifierKey.of_witness(signer.origin, signer.public_key)
    return note + _line(key, seconds.to_bytes(8) + signer.sign(message))


def parse_note(note: str) -> Note:
    """Split a note into text and signature lines. Raises `InvalidExport`."""
    if len(note) > MAX_NOTE:
        raise InvalidExport("the note is too long to be a checkpoint")
    head, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n") or any(c < " " and c != "\n" for c in note):
        raise InvalidExport("the note lacks a blank line before its signatures, or holds control characters")
    return Note(head + "\n", tuple(_signature_line(line) for line in tail[:-1].split("\n")))


def _signature_line(line: str) -> SignatureLine:
    name, space, body = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not name or "+" in name:
        raise InvalidExport("a signature line of the note is malformed")
    raw = _unbase64(body)
    if len(raw) < 5:
        raise InvalidExport("a signature of the note is too short")
    return SignatureLine(name, raw[:4], raw[4:])


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's text. Raises `InvalidExport`."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not lines[0]:
        raise InvalidExport("the checkpoint lacks origin, size or root")
    size, root = lines[1], _unbase64(lines[2])
    if not size.isascii() or not size.isdigit() or (size[0] == "0" and size != "0") or len(size) > 15:
        raise InvalidExport("the checkpoint's size is not a plain number")
    if len(root) != 32:
        raise InvalidExport("the checkpoint's root is not 32 bytes")
    return Checkpoint(lines[0], int(size), root)


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint of a note that `key` signed. Raises `InvalidExport` where it is not so."""
    parsed = parse_note(note)
    if not is_signed(parsed, key):
        raise InvalidExport(f"the checkpoint is not signed by {key.name}+{key.key_hash.hex()}")
    checkpoint = parse_checkpoint(parsed.text)
    if key.kind == _ED25519 and checkpoint.origin != key.name:
        raise InvalidExport(f"the checkpoint speaks for {checkpoint.origin!r}, the key for {key.name!r}")
    return checkpoint


def is_signed(note: Note, key: VerifierKey) -> bool:
    """Whether one of the note's lines is a valid signature by `key`."""
    return any(
        line.name == key.name and line.key_hash == key.key_hash and _verifies(line.signature, note.text, key)
        for line in note.signatures
    )


def _verifies(signature: bytes, text: str, key: VerifierKey) -> bool:
    if key.kind == _COSIGNATURE:
        message, signature = _cosigned(text, int.from_bytes(signature[:8])), signature[8:]
    else:
        message = text.encode()
    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidExport("a value that should be base64 is not") from error

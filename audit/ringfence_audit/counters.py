"""What a producer of entries counts and signs, as pure functions that producer and verifier share.

A producer (the gate or the egress proxy of one process) numbers its events from 0 and chains a fingerprint of each:
`head = SHA-256(head ‖ fingerprint)`, beginning with 32 zero bytes. Now and then it signs, with a key that the log does
not have, how far it has come. So whoever holds the log's key can drop an intent together with its outcome, chain and
sign the rest anew, and is found all the same: a number is missing, or the head is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from ringfence_audit.events import JsonValue

START = bytes(32)
STAMP = "producer"
"""The field of an entry's data that holds `{"id", "n"}`."""


def fingerprint(kind: str, run: str, call: str, data: Mapping[str, JsonValue]) -> bytes:
    """What of an event must not change: it survives redaction, and holds the digest and how the call ended."""
    told = [data.get(name) for name in ("digest", "status", "host", "connection")]
    words = (kind, run, call, *(word if isinstance(word, str) else "" for word in told))
    return sha256("\0".join(words).encode(errors="surrogatepass")).digest()


def advance(head: bytes, mark: bytes) -> bytes:
    return sha256(head + mark).digest()


def signed_message(producer: str, count: int, head: bytes) -> bytes:
    """What a producer signs: `count` events so far lead to `head`."""
    return f"ringfence-count/1\n{producer}\n{count}\n{head.hex()}\n".encode()

"""What a producer of entries counts and signs, as pure functions that producer and verifier share.

A producer (the gate or the egress proxy of one process; `people`) numbers its events from 0 and chains a fingerprint of
each: `head = SHA-256(head ‖ fingerprint)`, beginning with 32 zero bytes. Now and then it signs, with a key that the log
does not have, how far it has come. So whoever holds the log's key can drop an intent together with its outcome, chain
and sign the rest anew, and is found all the same: a number is missing, or the head is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Protocol

from ringfence_audit.events import JsonValue

START = bytes(32)
PEOPLE = "people"
"""What the name of the producer that counts people's acts begins with."""
STAMP = "producer"
"""The field of an entry's data that holds `{"id", "n"}`."""


_WORDS = ("digest", "status", "host", "connection")
_DECIDED = ("escalation", "verdict", "state", "groups", "width", "grant", "uses", "expires_at", "action")


class Told(Protocol):
    """What an event and the entry that it became have in common."""

    @property
    def kind(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def call(self) -> str: ...
    @property
    def data(self) -> Mapping[str, JsonValue]: ...


def fingerprint(told: Told, producer: str) -> bytes:
    """What of an event must not change, and survives redaction: the digest, how the call ended, where a connection
    went; of what people do also who did it, and what was decided about what."""
    words = [told.kind, told.run, told.call, *(_text(told.data.get(name)) for name in _WORDS)]
    if producer.startswith(f"{PEOPLE}:"):
        words += [told.actor, *(_word(told.data.get(name)) for name in _DECIDED)]
    return sha256("\0".join(words).encode(errors="surrogatepass")).digest()


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _word(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Sequence):
        return "\1".join(sorted(item for item in value if isinstance(item, str)))
    return ""


def advance(head: bytes, mark: bytes) -> bytes:
    return sha256(head + mark).digest()


def signed_message(producer: str, count: int, head: bytes) -> bytes:
    """What a producer signs: `count` events so far lead to `head`."""
    return f"ringfence-count/1\n{producer}\n{count}\n{head.hex()}\n".encode()

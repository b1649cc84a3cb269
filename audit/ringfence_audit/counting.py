"""Whether producers' numbers are whole: the part of *complete* that holds `counters` against the entries.

A dropped intent leaves a hole in its producer's numbers even where its outcome was dropped with it; numbers given out
anew contradict the count that the producer signed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ringfence_audit.counters import STAMP, START, advance, fingerprint, signed_message
from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.notes import VerifierKey


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. `position` is the entry that it was found at."""

    position: int
    problem: str

    def __str__(self) -> str:
        return f"entry {self.position}: {self.problem}"


@dataclass(slots=True)
class _Producer:
    key: str = ""
    position: int = 0
    count: int = 0
    head: bytes = START
    ahead: dict[int, bytes] = field(default_factory=dict)
    claims: dict[int, tuple[int, bytes]] = field(default_factory=dict)


class Counting:
    """Feed it every entry in order with `take`, then `finish`. What does not fit is told to `find`."""

    def __init__(self, find: Callable[[int, str], None], *, pruned: int = 0) -> None:
        self._find = find
        self._pruned = pruned
        self._producers: dict[str, _Producer] = {}

    def take(self, entry: Entry) -> None:
        """The next entry of the log."""
        if STAMP not in entry.data:
            return
        if entry.kind == Kind.COUNT:
            self._count(entry)
        elif entry.kind == Kind.GAP:
            self._gap(entry)
        else:
            self._follow_number(entry)

    def finish(self) -> None:
        """Judge what can only be judged at the end."""
        for name, producer in self._producers.items():
            if producer.ahead:
                hole = producer.count
                self._find(producer.position, f"number {hole} of {name} is missing, and no gap accounts for it")
            elif producer.claims:
                last = max(producer.claims)
                position, _ = producer.claims[last]
                self._find(position, f"{name} counted {last} events, and only {producer.count} are there")

    def _producer(self, entry: Entry) -> tuple[str, _Producer] | None:
        name = _mapping(entry.data.get(STAMP)).get("id")
        if not isinstance(name, str):
            self._find(entry.position, "it names no producer")
            return None
        producer = self._producers.setdefault(name, _Producer())
        producer.position = entry.position
        return name, producer

    def _follow_number(self, entry: Entry) -> None:
        number = _mapping(entry.data.get(STAMP)).get("n")
        found = self._producer(entry)
        if found is None:
            return
        name, producer = found
        if type(number) is not int or number < producer.count or number in producer.ahead:
            self._find(entry.position, f"number {number if isinstance(number, int) else '?'} of {name} comes twice")
            return
        producer.ahead[number] = fingerprint(entry.kind, entry.run, entry.call, entry.data)
        self._move(name, producer)

    def _move(self, name: str, producer: _Producer) -> None:
        while producer.count in producer.ahead:
            producer.head = advance(producer.head, producer.ahead.pop(producer.count))
            producer.count += 1
            claim = producer.claims.pop(producer.count, None)
            if claim is not None and claim[1] != producer.head:
                self._find(claim[0], f"{name} signed other events than those that are there")

    def _count(self, entry: Entry) -> None:
        found = self._producer(entry)
        if found is None:
            return
        name, producer = found
        count, head = entry.data.get("count"), _hex(entry.data.get("head"))
        key = entry.data.get("key")
        if type(count) is not int or not isinstance(key, str) or (producer.key and producer.key != key):
            self._find(entry.position, f"the count of {name} has another form or another key than before")
            return
        producer.key = key
        if not _is_signed(key, entry.data.get("signature"), signed_message(name, count, head)):
            self._find(entry.position, f"the count of {name} is not signed by its key")
        elif count == producer.count:
            if head != producer.head:
                self._find(entry.position, f"{name} signed other events than those that are there")
        elif count > producer.count and not self._skip_pruned(producer, count, head):
            producer.claims[count] = (entry.position, head)

    def _skip_pruned(self, producer: _Producer, count: int, head: bytes) -> bool:
        """Go on from a signed count where no more numbers are missing than retention dropped entries."""
        missing = count - producer.count - sum(number < count for number in producer.ahead)
        if missing > self._pruned:
            return False
        self._pruned -= missing
        producer.ahead = {number: mark for number, mark in producer.ahead.items() if number >= count}
        producer.count, producer.head = count, head
        return True

    def _gap(self, entry: Entry) -> None:
        found = self._producer(entry)
        numbers, marks = _list(entry.data.get("numbers")), _list(entry.data.get("marks"))
        if found is None:
            return
        name, producer = found
        for number, mark in zip(numbers, marks, strict=False):
            if type(number) is int and number >= producer.count:
                producer.ahead.setdefault(number, _hex(mark))
        self._move(name, producer)


def _is_signed(key: str, signature: JsonValue, message: bytes) -> bool:
    try:
        raw = base64.b64decode(signature if isinstance(signature, str) else "", validate=True)
        Ed25519PublicKey.from_public_bytes(VerifierKey.parse(key).key).verify(raw, message)
    except (InvalidExport, InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _hex(value: JsonValue) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""

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

from ringfence_audit.counters import PEOPLE, STAMP, START, advance, fingerprint, signed_message
from ringfence_audit.dropped import Dropped
from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.notes import VerifierKey
from ringfence_audit.people import is_of_people


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
    ahead: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """Numbers beyond the next one: where they stand, and their marks."""
    claims: dict[int, tuple[int, bytes]] = field(default_factory=dict)


class Counting:
    """Feed it every entry in order (`take`, `take_dropped`), then `finish`. What does not fit is told to `find`."""

    def __init__(self, find: Callable[[int, str], None]) -> None:
        self._find = find
        self._producers: dict[str, _Producer] = {}
        self._counts_people = False

    def take(self, entry: Entry) -> None:
        """The next entry of the log."""
        if STAMP not in entry.data:
            if self._counts_people and is_of_people(entry):
                self._find(entry.position, "nobody counted it, and what people do is counted")
        elif entry.kind == Kind.COUNT:
            self._count(entry, entry.data, entry.data.get("count"))
        elif entry.kind == Kind.GAP:
            self._gap(entry)
        else:
            self._event(entry)

    def take_dropped(self, row: Dropped) -> None:
        """What is kept of the next entry, whose body retention dropped."""
        if not isinstance(row.producer, str):
            return
        producer = self._producers.setdefault(row.producer, _Producer())
        producer.position = row.position
        mark = row.mark if isinstance(row.mark, bytes) else b""
        self._follow(row.position, row.producer, number=row.number, mark=mark)

    def finish(self) -> None:
        """Judge what can only be judged at the end."""
        for name, producer in self._producers.items():
            if producer.ahead:
                after, _ = producer.ahead[min(producer.ahead)]
                self._find(after, f"number {producer.count} of {name} is missing, and no gap accounts for it")
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

    def _event(self, entry: Entry) -> None:
        stamp = _mapping(entry.data.get(STAMP))
        found, number = self._producer(entry), stamp.get("n")
        if found is None:
            return
        name, _ = found
        if not self._follow(entry.position, name, number=number, mark=fingerprint(entry, name)):
            return
        if name.startswith(f"{PEOPLE}:"):
            self._counts_people = True
            self._count(entry, stamp, number + 1 if isinstance(number, int) else None)

    def _follow(self, position: int, name: str, *, number: JsonValue, mark: bytes) -> bool:
        """Whether this number was still to come."""
        producer = self._producers[name]
        if type(number) is not int or number < producer.count or number in producer.ahead:
            self._find(position, f"number {number if isinstance(number, int) else '?'} of {name} comes twice")
            return False
        producer.ahead[number] = (position, mark)
        self._move(name, producer)
        return True

    def _move(self, name: str, producer: _Producer) -> None:
        while producer.count in producer.ahead:
            producer.head = advance(producer.head, producer.ahead.pop(producer.count)[1])
            producer.count += 1
            claim = producer.claims.pop(producer.count, None)
            if claim is not None and claim[1] != producer.head:
                self._find(claim[0], f"{name} signed other events than those that are there")

    def _count(self, entry: Entry, told: Mapping[str, JsonValue], count: JsonValue) -> None:
        """What a producer signed: an entry of its own, or the stamp of an act."""
        found = self._producer(entry)
        if found is None:
            return
        name, producer = found
        head, key = _hex(told.get("head")), told.get("key")
        if type(count) is not int or not isinstance(key, str) or (producer.key and producer.key != key):
            self._find(entry.position, f"the count of {name} has another form or another key than before")
            return
        producer.key = key
        if not _is_signed(key, told.get("signature"), signed_message(name, count, head)):
            self._find(entry.position, f"the count of {name} is not signed by its key")
        elif count == producer.count:
            if head != producer.head:
                self._find(entry.position, f"{name} signed other events than those that are there")
        elif count > producer.count:
            producer.claims[count] = (entry.position, head)

    def _gap(self, entry: Entry) -> None:
        found = self._producer(entry)
        numbers, marks = _list(entry.data.get("numbers")), _list(entry.data.get("marks"))
        if found is None:
            return
        name, producer = found
        for number, mark in zip(numbers, marks, strict=False):
            if type(number) is int and number >= producer.count:
                producer.ahead.setdefault(number, (entry.position, _hex(mark)))
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

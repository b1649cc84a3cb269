"""From event to entry: the exact bytes that are hashed.

An entry is the RFC 8785 form of `{"event": {actor, call, data, kind, on_behalf_of}, "stream": {id, n, previous,
time}}`. `n` counts the entries of the stream from 0, `previous` is the leaf hash (hex) of the stream's last entry or
null, `time` is the database's clock in RFC 3339 with microseconds, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import Connection

from ringfence_audit import personal
from ringfence_audit.blobs import BLOB_LIMIT
from ringfence_audit.bodies import escape, take_out, take_out_fields, with_original
from ringfence_audit.canonical import Survey, encode, plain
from ringfence_audit.errors import InvalidEvent
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.redaction import Redactor

SEALED_AT_ONCE = frozenset(
    {Kind.RUN_CLOSED, Kind.VOTE, Kind.SETTLED, Kind.CONTROL, Kind.KEY, Kind.HOLD, Kind.PRUNE, Kind.ERASURE}
)
"""A run's end and what people decide: committed together with a signed checkpoint that covers them."""
MAX_NAME = 200
NONCE = "nonce"
"""A field of an event's data that is left out of an entry that was redacted, and kept with its original."""
_SURELY_SMALL = BLOB_LIMIT // 4 - 8
"""Characters that cannot make more than `BLOB_LIMIT` bytes of UTF-8."""
_SMALL_EVENT = BLOB_LIMIT * 2
"""Bytes of an event below which no single value need be looked at again."""


class Prepared(NamedTuple):
    """An event in canonical bytes that waits for its place in its stream."""

    event: bytes
    stream: str
    stream_json: bytes
    time: str
    blobs: Mapping[str, bytes]
    kind: Kind


_NAMES_KEPT = 10_000
_NO_BLOBS: Mapping[str, bytes] = MappingProxyType({})


class Preparer:
    """Guards, redacts, takes large values out, and encodes. Used by one thread."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._moment: tuple[datetime, str] | None = None
        self._names: dict[str, bytes] = {}

    def prepare(self, event: Event, now: datetime, connection: Connection | None = None) -> Prepared:
        """`connection` is the transaction's, for the keys of personal fields. Raises `InvalidEvent`."""
        for name in (event.run, event.actor):
            if not 0 < len(name) <= MAX_NAME:
                raise InvalidEvent(f"a run and an actor have between 1 and {MAX_NAME} characters")
        survey = Survey()
        survey.walk(event.data)
        if survey.has_personal:
            if connection is None:
                raise InvalidEvent("a personal field needs the transaction that its key is kept in")
            now_us = int(now.timestamp() * 1_000_000)
            sealed = {key: personal.seal(item, connection, now_us) for key, item in event.data.items()}
            return self.prepare(replace(event, data=sealed), now, connection)
        data: JsonValue = event.data
        is_clean = self._redactor.is_clean(survey.strings, survey.keys)
        if not is_clean:
            data = self._redactor.redact_value({key: item for key, item in event.data.items() if key != NONCE})
        if not survey.plain:
            data = escape(data)
        blobs: dict[str, bytes] = {}
        if survey.largest > _SURELY_SMALL:
            data = take_out(data, blobs)
        body = _encode_event(event, data)
        if len(body) > _SMALL_EVENT:
            data = take_out_fields(data, blobs)
            body = _encode_event(event, data)
        if not is_clean and self._redactor.originals is not None:
            box = self._redactor.originals
            data = with_original(data, box.seal(encode(plain(event.data))), box.id, blobs)
            body = _encode_event(event, data)
        return Prepared(body, event.run, self._name(event.run), self._time(now), blobs or _NO_BLOBS, event.kind)

    def _time(self, now: datetime) -> str:
        """A transaction's moment is the same for all its events, and a batch's for all its transactions."""
        if self._moment is None or self._moment[0] is not now:
            self._moment = (now, timestamp(now))
        return self._moment[1]

    def _name(self, run: str) -> bytes:
        known = self._names.get(run)
        if known is None:
            if len(self._names) > _NAMES_KEPT:
                self._names.clear()
            known = self._names[run] = encode(run)
        return known


def _encode_event(event: Event, data: JsonValue) -> bytes:
    return encode(
        {
            "actor": event.actor,
            "call": event.call,
            "data": data,
            "kind": event.kind.value,
            "on_behalf_of": event.on_behalf_of,
        }
    )


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seal(item: Prepared, length: int, head: bytes) -> bytes:
    """The entry's bytes at its place. Concatenation is canonical: the keys are written in RFC 8785 order."""
    previous = f'"{head.hex()}"' if length else "null"
    place = f',"n":{length},"previous":{previous},"time":"{item.time}"}}}}'
    return b'{"event":' + item.event + b',"stream":{"id":' + item.stream_json + place.encode()

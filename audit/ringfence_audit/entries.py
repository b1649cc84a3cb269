"""From event to entry: the exact bytes that are hashed.

An entry is the RFC 8785 form of `{"event": {actor, call, data, kind, on_behalf_of}, "stream": {id, n, previous,
time}}`. `n` counts the entries of the stream from 0, `previous` is the leaf hash (hex) of the stream's last entry or
null, `time` is the database's clock in RFC 3339 with microseconds, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ringfence_audit.canonical import Survey, encode, plain
from ringfence_audit.errors import InvalidEvent
from ringfence_audit.events import Event, JsonValue

MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """An event in canonical bytes that waits for its place in its stream."""

    event: bytes
    stream: str
    stream_json: bytes
    time: str


def prepare(event: Event, now: datetime) -> Prepared:
    """Guard and encode an event. Raises `InvalidEvent`."""
    for name in (event.run, event.actor):
        if not 0 < len(name) <= MAX_NAME:
            raise InvalidEvent(f"a run and an actor have between 1 and {MAX_NAME} characters")
    survey = Survey()
    survey.walk(event.data)
    data: JsonValue = event.data if survey.plain else plain(event.data)
    body = encode(
        {
            "actor": event.actor,
            "call": event.call,
            "data": data,
            "kind": event.kind.value,
            "on_behalf_of": event.on_behalf_of,
        }
    )
    return Prepared(body, event.run, encode(event.run), timestamp(now))


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seal(item: Prepared, length: int, head: bytes) -> bytes:
    """The entry's bytes at its place. Concatenation is canonical: the keys are written in RFC 8785 order."""
    previous = f'"{head.hex()}"' if length else "null"
    place = f',"n":{length},"previous":{previous},"time":"{item.time}"}}}}'
    return b'{"event":' + item.event + b',"stream":{"id":' + item.stream_json + place.encode()

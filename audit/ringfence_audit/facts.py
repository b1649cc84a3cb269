"""What an entry is about, as words to filter by: one pure function from entry to facts, for index and verify alike.

The words that other rooms put into `data` are read here and nowhere else: `tool`, `decision.effect` (or `effect`),
`decision.rules` (or `rules`), `status`, `accesses` (`family`, `resource`), `host`, `path`, `escalation`, `grant`,
`grants`, `digest`, `approvers`. docs/audit.md lists them. Unknown shapes give no facts and no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import orjson

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue

MAX_WORD = 400
REFUSED = frozenset({"forbid", "forbidden", "denied", "refused", "expired", "budget"})


class Fact(NamedTuple):
    """One word about an entry, in one dimension (`tool`, `host`, …)."""

    dimension: str
    word: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry, parsed. `data` is as stored: redacted, with references to large bodies."""

    position: int
    kind: str
    actor: str
    on_behalf_of: str
    call: str
    run: str
    n: int
    previous: str | None
    time: datetime
    data: Mapping[str, JsonValue]


def parse_entry(position: int, raw: bytes) -> Entry:
    """Read an entry's bytes. Raises `InvalidExport` where they do not have the form."""
    try:
        body = orjson.loads(raw)
        event, stream = body["event"], body["stream"]
        entry = Entry(
            position,
            event["kind"],
            event["actor"],
            event["on_behalf_of"],
            event["call"],
            stream["id"],
            stream["n"],
            stream["previous"],
            datetime.fromisoformat(stream["time"]),
            event["data"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidExport(f"entry {position} does not have the form of an entry") from error
    texts = (entry.kind, entry.actor, entry.on_behalf_of, entry.call, entry.run, entry.previous or "")
    if not all(isinstance(text, str) for text in texts) or type(entry.n) is not int:
        raise InvalidExport(f"entry {position} holds a value of the wrong type")
    if not isinstance(entry.data, dict) or entry.time.tzinfo is None:
        raise InvalidExport(f"entry {position} holds no data or no time zone")
    return entry


def facts(entry: Entry) -> list[Fact]:
    """Every fact of the entry, each once, in a stable order."""
    found = dict.fromkeys(fact for fact in _facts(entry) if 0 < len(fact.word) <= MAX_WORD)
    return list(found)


def _facts(entry: Entry) -> Iterator[Fact]:
    data = entry.data
    yield Fact("kind", entry.kind)
    yield Fact("run", entry.run)
    yield Fact("call", entry.call)
    yield Fact("actor", entry.actor)
    for principal in (entry.actor, entry.on_behalf_of):
        if principal.startswith("agent:"):
            yield Fact("agent", principal)
        elif principal.startswith("person:"):
            yield Fact("person", principal)
    yield from _of(data, ("tool", "tool"), ("task", "task"), ("profile", "profile"), ("digest", "digest"))
    yield from _of(_mapping(data.get("profile")), ("name", "profile"))
    yield from _of(data, ("grant", "grant"))
    yield from _of(data, ("escalation", "escalation"), ("status", "outcome"), ("state", "outcome"), ("verdict", "vote"))
    yield from (Fact("grant", _word(grant)) for grant in _list(data.get("grants")))
    yield from (Fact("approver", _word(person)) for person in _list(data.get("approvers")))
    yield from _decided(data)
    yield from _touched(data)
    if is_refused(entry):
        yield Fact("refused", "yes")


def _of(data: Mapping[str, JsonValue], *pairs: tuple[str, str]) -> Iterator[Fact]:
    for key, dimension in pairs:
        word = _word(data.get(key))
        if word:
            yield Fact(dimension, word)


def _decided(data: Mapping[str, JsonValue]) -> Iterator[Fact]:
    decision = _mapping(data.get("decision"))
    effect = _word(decision.get("effect")) or _word(data.get("effect"))
    if effect:
        yield Fact("decision", effect)
    for rule in (*_list(decision.get("rules")), *_list(data.get("rules"))):
        yield Fact("rule", _word(rule))


def _touched(data: Mapping[str, JsonValue]) -> Iterator[Fact]:
    yield from _of(data, ("host", "host"), ("path", "path"))
    for item in _list(data.get("accesses")):
        access = _mapping(item)
        resource = _word(access.get("resource"))
        match access.get("family"):
            case "network":
                yield Fact("host", resource.rpartition(":")[0] or resource)
            case "files" | "deliver":
                yield Fact("path", resource)


def is_refused(entry: Entry) -> bool:
    """Whether the entry says that something was not allowed, or denied, or did not fit a budget."""
    data = entry.data
    effect = _word(_mapping(data.get("decision")).get("effect")) or _word(data.get("effect"))
    words = (effect, _word(data.get("status")), _word(data.get("state")))
    return entry.kind == "egress.refused" or not REFUSED.isdisjoint(words)


def texts(value: JsonValue) -> Iterator[str]:
    """Every text in a value, for full-text search."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts(item)


def _word(value: JsonValue) -> str:
    if isinstance(value, bool) or value is None:
        return ""
    return str(value) if isinstance(value, (str, int)) else ""


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()

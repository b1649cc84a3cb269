"""What an entry is about, as words to filter by: one pure function from entry to facts, for index and verify alike.

The words that other rooms put into `data` are read here and nowhere else: `tool`, `decision.effect` (or `effect`),
`decision.rules` (or `rules`), `status`, `accesses` (`family`, `resource`), `host`, `path`, `escalation`, `grant`,
`grants`, `digest`, `approvers`. docs/audit.md lists them. Unknown shapes give no facts and no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import orjson

from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue

MAX_WORD = 400
REFUSED = frozenset({"forbid", "forbidden", "denied", "refused", "expired", "budget"})


Fact: TypeAlias = tuple[str, str]
"""One word about an entry, in one dimension (`tool`, `host`, …): `(dimension, word)`."""


class Entry(NamedTuple):
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
        kind, actor, person, call = event["kind"], event["actor"], event["on_behalf_of"], event["call"]
        run, n, previous, data = stream["id"], stream["n"], stream["previous"], event["data"]
        time = datetime.fromisoformat(stream["time"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidExport(f"entry {position} does not have the form of an entry") from error
    is_text = kind.__class__ is str and actor.__class__ is str and person.__class__ is str and call.__class__ is str
    if not is_text or run.__class__ is not str or n.__class__ is not int or not isinstance(previous, str | None):
        raise InvalidExport(f"entry {position} holds a value of the wrong type")
    if data.__class__ is not dict or time.tzinfo is None:
        raise InvalidExport(f"entry {position} holds no data or no time zone")
    return Entry(position, kind, actor, person, call, run, n, previous, time, data)


_ONE_WORD: tuple[tuple[str, str], ...] = (
    ("tool", "tool"),
    ("task", "task"),
    ("profile", "profile"),
    ("digest", "digest"),
    ("grant", "grant"),
    ("escalation", "escalation"),
    ("status", "outcome"),
    ("state", "outcome"),
    ("verdict", "vote"),
    ("host", "host"),
    ("path", "path"),
)
"""(field of the data, dimension), for fields that hold one word."""
_SEVERAL: tuple[tuple[str, str], ...] = (("grants", "grant"), ("approvers", "approver"), ("rules", "rule"))


def facts(entry: Entry) -> list[Fact]:
    """Every fact of the entry, each once, in a stable order. Written for speed: the index asks it of every entry."""
    data = entry.data
    found: list[Fact] = [("kind", entry.kind), ("run", entry.run), ("call", entry.call), ("actor", entry.actor)]
    for principal in (entry.actor, entry.on_behalf_of):
        if principal.startswith("agent:"):
            found.append(("agent", principal))
        elif principal.startswith("person:"):
            found.append(("person", principal))
    for field, dimension in _ONE_WORD:
        value = data.get(field)
        if value is not None:
            found.append((dimension, _word(value)))
    for field, dimension in _SEVERAL:
        value = data.get(field)
        if value:
            found += [(dimension, _word(item)) for item in _list(value)]
    _nested(data, found)
    if is_refused(entry):
        found.append(("refused", "yes"))
    return [fact for fact in dict.fromkeys(found) if 0 < len(fact[1]) <= MAX_WORD]


def _nested(data: Mapping[str, JsonValue], found: list[Fact]) -> None:
    """What is written inside `decision`, `profile` and `accesses`."""
    decision = _mapping(data.get("decision"))
    effect = _word(decision.get("effect")) or _word(data.get("effect"))
    found.append(("decision", effect))
    found += [("rule", _word(rule)) for rule in _list(decision.get("rules"))]
    profile = data.get("profile")
    if profile is not None:
        found.append(("profile", _word(_mapping(profile).get("name"))))
    for item in _list(data.get("accesses")):
        access = _mapping(item)
        resource = _word(access.get("resource"))
        family = access.get("family")
        if family == "network":
            found.append(("host", resource.rpartition(":")[0] or resource))
        elif family in ("files", "deliver"):
            found.append(("path", resource))


def is_refused(entry: Entry) -> bool:
    """Whether the entry says that something was not allowed, or denied, or did not fit a budget."""
    data = entry.data
    if entry.kind == "egress.refused":
        return True
    effect = _word(_mapping(data.get("decision")).get("effect")) or _word(data.get("effect"))
    return effect in REFUSED or _word(data.get("status")) in REFUSED or _word(data.get("state")) in REFUSED


def texts(value: JsonValue) -> list[str]:
    """Every text in a value, for full-text search."""
    found: list[str] = []
    _collect(value, found)
    return found


def _collect(value: object, found: list[str]) -> None:
    kind = value.__class__
    if kind is str:
        found.append(value)  # type: ignore[arg-type]  # its class was just looked at
    elif kind is dict:
        for item in value.values():  # type: ignore[attr-defined]  # as above
            _collect(item, found)
    elif kind is list:
        for item in value:  # type: ignore[attr-defined]  # as above
            _collect(item, found)
    elif isinstance(value, Mapping):
        _collect(dict(value), found)


def _word(value: JsonValue) -> str:
    kind = value.__class__
    if kind is str:
        return value  # type: ignore[return-value]  # its class was just looked at
    return str(value) if kind is int else ""


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if value.__class__ is dict or isinstance(value, Mapping) else _EMPTY


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return value if value.__class__ is list else ()


_EMPTY: Mapping[str, JsonValue] = MappingProxyType({})

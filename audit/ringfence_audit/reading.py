"""The second half of verification: entries are parsed, their large values held against their digests, and the story
that they tell is folded through `completeness`. The bytes were checked before (`scan`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from ringfence_audit.blobs import BlobDamaged, Blobs
from ringfence_audit.bodies import original_digest, references, restore
from ringfence_audit.completeness import Completeness, Recompute
from ringfence_audit.counting import Finding
from ringfence_audit.entries import NONCE
from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.originals import Box
from ringfence_audit.scan import Fault, rows_of

_TOLD_IN_DATA = frozenset(kind.value for kind in Kind) - {Kind.EXCHANGE, Kind.COMPACTION, Kind.RUN_OPENED}
"""Kinds whose data `completeness` reads, so that it is put together again where part of it left the entry."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the entries tell."""

    findings: tuple[Finding, ...]
    open_calls: tuple[str, ...]
    absent_bodies: int
    not_recomputable: int
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Digests:
    """How action digests are recomputed: by the rule of the room that makes them, on originals that `originals`
    opens (None where the verifier may not see them)."""

    recompute: Recompute
    originals: Box | None = None


class _Reader:
    def __init__(self, connection: Connection, blobs: Blobs | None, digests: Digests | None, *, pruned: int) -> None:
        self._connection = connection
        self._blobs = blobs
        self._recompute = None if digests is None else digests.recompute
        self._originals = None if digests is None else digests.originals
        self._story = Completeness(pruned=pruned)
        self._absent: set[str] = set()
        self._dropped: set[int] = set()
        self._accounted: set[int] = set()
        self._seen: set[str] = set()
        self._not_recomputable = 0

    def told(self, rows: Iterator[tuple[int, object]]) -> Told:
        fault = None
        for position, raw in rows:
            if raw is None:
                self._dropped.add(position)
                continue
            try:
                self._take(position, raw)
            except InvalidExport as error:
                fault = Fault(str(error).removeprefix(f"entry {position} "), position)
                break
            except BlobDamaged:
                fault = Fault("a large value of it was changed: it does not have the digest that is named", position)
                break
        fault = fault or self._unaccounted()
        opened = self._story.finish()
        return Told(
            tuple(self._story.findings),
            opened,
            len(self._absent),
            self._not_recomputable,
            fault,
        )

    def _take(self, position: int, raw: object) -> None:
        if not isinstance(raw, bytes):
            raise InvalidExport("its bytes are missing")
        entry = parse_entry(position, raw)
        if orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS) != raw:
            raise InvalidExport("its bytes are not in canonical form")
        if b'{"$blob":' in raw:
            entry = self._with_bodies(entry)
        if entry.kind == Kind.PRUNE:
            self._account(entry)
        if entry.kind == Kind.INTENT and self._recompute is not None:
            self._check_digest(entry, self._recompute)
        self._story.take(entry)

    def _account(self, entry: Entry) -> None:
        """What retention says that it dropped before this entry."""
        ranges = entry.data.get("ranges")
        for pair in ranges if isinstance(ranges, list) else ():
            if isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair):
                self._accounted.update(range(max(pair[0], 0), min(pair[1] + 1, entry.position)))

    def _unaccounted(self) -> Fault | None:
        missing = self._dropped - self._accounted
        return Fault("its body was dropped, and no entry accounts for it", min(missing)) if missing else None

    def _with_bodies(self, entry: Entry) -> Entry:
        bodies: dict[str, bytes] = {}
        for digest in references(entry.data):
            body = None if self._blobs is None else self._blobs.get(digest, self._connection)
            if body is None:
                self._absent.add(digest)
            else:
                bodies[digest] = body
        if entry.kind not in _TOLD_IN_DATA:
            return entry
        whole = restore(entry.data, bodies.get)
        return entry._replace(data=whole) if isinstance(whole, Mapping) else entry

    def _check_digest(self, entry: Entry, recompute: Recompute) -> None:
        original = self._original(entry)
        digest = "" if original is None else recompute(entry, original)
        if not digest:
            self._not_recomputable += 1
        elif digest != entry.data.get("digest"):
            self._story.findings.append(Finding(entry.position, "its digest is not that of what it says would run"))

    def _original(self, entry: Entry) -> Mapping[str, JsonValue] | None:
        """The data before redaction, None where it is not to be had."""
        digest = original_digest(entry.data)
        if not digest:
            return entry.data if NONCE in entry.data else None
        sealed = None if self._blobs is None else self._blobs.get(digest, self._connection)
        if sealed is None or self._originals is None:
            return None
        opened = orjson.loads(self._originals.open(sealed))
        return opened if isinstance(opened, dict) else None


def read_story(connection: Connection, size: int, *, blobs: Blobs | None, pruned: int, digests: Digests | None) -> Told:
    """Read every entry. Raises nothing for hostile content: the first bad entry is the `fault`."""
    reader = _Reader(connection, blobs, digests, pruned=pruned)
    return reader.told(rows_of(connection, 0, size))

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
from ringfence_audit.dropped import Dropped, digest_of, rows_between
from ringfence_audit.entries import NONCE
from ringfence_audit.errors import InvalidExport
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry, parse_entry
from ringfence_audit.originals import Box
from ringfence_audit.scan import Fault, rows_of

_TOLD_IN_DATA = frozenset(kind.value for kind in Kind) - {Kind.EXCHANGE, Kind.COMPACTION}
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
    def __init__(self, connection: Connection, blobs: Blobs | None, digests: Digests | None) -> None:
        self._connection = connection
        self._blobs = blobs
        self._recompute = None if digests is None else digests.recompute
        self._originals = None if digests is None else digests.originals
        self._story = Completeness()
        self._absent: set[str] = set()
        self._dropped: set[int] = set()
        self._accounted: set[int] = set()
        self._seen: set[str] = set()
        self._not_recomputable = 0
        self._rows: Iterator[Dropped] = iter(())
        self._kept: Dropped | None = None
        """What is kept of the next entry whose body was dropped."""

    def told(self, rows: Iterator[tuple[int, object]]) -> Told:
        fault = None
        for position, raw in rows:
            if raw is None:
                self._take_dropped(position)
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

    def _take_dropped(self, position: int) -> None:
        self._dropped.add(position)
        if self._kept is None or self._kept.position < position:
            self._rows = rows_between(self._connection, position, 2**53)
            self._kept = next(self._rows, None)
        if self._kept is not None and self._kept.position == position:
            self._story.take_dropped(self._kept)
            self._kept = next(self._rows, None)

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
        """What retention says that it dropped before this entry, and what it kept of that."""
        told = entry.data.get("ranges")
        pairs = [pair for pair in told if isinstance(pair, list) and len(pair) == 2] if isinstance(told, list) else []
        ranges = [
            (max(first, 0), min(last, entry.position - 1)) for first, last in pairs if type(first) is type(last) is int
        ]
        for first, last in ranges:
            self._accounted.update(range(first, last + 1))
        kept = (row for first, last in ranges for row in rows_between(self._connection, first, last))
        if "digest" not in entry.data:  # dropped before numbers were kept: it excuses none
            is_kept = all(row.producer is None for row in kept)
        else:
            is_kept = digest_of(kept) == entry.data["digest"]
        if not is_kept:
            raise InvalidExport("what is kept of the entries that it dropped is not what it says")

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


def read_story(connection: Connection, size: int, *, blobs: Blobs | None, digests: Digests | None) -> Told:
    """Read every entry. Raises nothing for hostile content: the first bad entry is the `fault`."""
    reader = _Reader(connection, blobs, digests)
    return reader.told(rows_of(connection, 0, size))

"""ringfence-verify: whether an export of the log proves what it says. One file, standard library and `cryptography`.

It imports nothing else of Ringfence, so that an auditor can read it, copy it away and run it on a machine that never
saw the service. Needed are the export and the log's public key, pinned by the person who checks. An export is JSON,
one object a line (docs/audit.md): `export` (the question, a signed checkpoint), `key`, `consistency`, `prune`,
`entry`, `statement` and `body`. Everything in it is hostile until a hash or a signature says otherwise; whatever is
not proved is refused with one line. Formats: c2sp.org/{signed-note,tlog-checkpoint,tlog-proof,tlog-cosignature}.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NoReturn, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "ringfence-export/1"
PROVED, USAGE, NOT_PROVED = 0, 2, 8

_MAX_LINE, _MAX_NOTE = 64 * 1024 * 1024, 64_000
_MAX_SIZE, _MAX_PATH, _MAX_CHANGES = 2**53, 63, 500
_DASH = "— "
_LOG, _WITNESS = b"\x01", b"\x04"
_PROOF_MAGIC = "c2sp.org/tlog-proof@v1"

_SHAPES = {
    "export": "type format query checkpoint",
    "key": "type index entry proof checkpoint consistency",
    "consistency": "type checkpoint proof",
    "prune": "type index entry proof",
    "entry": "type index entry proof",
    "statement": "type index entry proof",
    "body": "type sha256 body",
    "end": "type lines",
}
"""The kinds of line in the order in which they stand, and their fields; a dropped entry has `leaf` for `entry`."""

_FORM = ({"event", "stream"}, {"actor", "call", "data", "kind", "on_behalf_of"}, {"id", "n", "previous", "time"})

Json: TypeAlias = "str | int | bool | None | list[Json] | dict[str, Json]"


class NotProved(Exception):
    """The export does not prove what it says; the text says what is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a good export proves. `scope` says what was checked for omission; `open_calls` are intents without end."""

    origin: str
    size: int
    entries: int
    scope: str
    is_anchored: bool
    witnesses: tuple[str, ...]
    pruned: int
    absent_bodies: int
    open_calls: tuple[str, ...]
    query: Mapping[str, Json]

    @property
    def text(self) -> str:
        """One sentence for people."""
        notes = [f"{self.entries} entries of {self.origin} at {self.size}", self.scope]
        notes.append("anchored" if self.is_anchored else "not compared with an anchor")
        if self.witnesses:
            notes.append(f"witnessed by {', '.join(self.witnesses)}")
        counted = (
            (self.pruned, "entries dropped by retention, proved by their hash alone"),
            (self.absent_bodies, "large values absent, so their digests could not be recomputed"),
            (len(self.open_calls), "intents without an outcome"),
        )
        return "PROVED: " + "; ".join([*notes, *(f"{count} {what}" for count, what in counted if count)])


@dataclass(frozen=True, slots=True)
class Key:
    """An Ed25519 public key by name; `kind` 1 signs checkpoints, 4 cosigns them."""

    name: str
    kind: bytes
    raw: bytes

    @property
    def hash(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + self.kind + self.raw).digest()[:4]


def parse_key(text: str) -> Key:
    """Read `name+hash+base64`. Raises `NotProved`."""
    parts = text.strip().split("+", 2)
    body = _base64(parts[2] if len(parts) == 3 else "?", "a public key, name+hash+base64,")
    key = Key(parts[0], body[:1], body[1:])
    if key.kind not in (_LOG, _WITNESS) or len(key.raw) != 32 or not _utf8(key.name, "the public key"):
        raise NotProved("the public key is not Ed25519")
    if key.hash.hex() != parts[1]:
        raise NotProved("the public key does not match its own hash: it was copied wrongly or changed")
    return key


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A parsed note. Nothing is verified before `signed_by`."""

    text: str
    origin: str
    size: int
    root: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]

    def signed_by(self, key: Key) -> bool:
        """Whether a line of the note is a valid signature of `key`."""
        mine = [body for name, digest, body in self.signatures if (name, digest) == (key.name, key.hash)]
        is_due = key.kind == _WITNESS or key.name == self.origin
        return is_due and any(_verifies(key, body, self.text) for body in mine)


def _verifies(key: Key, signature: bytes, text: str) -> bool:
    message = text.encode()
    if key.kind == _WITNESS:
        message = f"cosignature/v1\ntime {int.from_bytes(signature[:8])}\n".encode() + message
        signature = signature[8:]
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def parse_checkpoint(note: str) -> Checkpoint:
    """Read a signed checkpoint. Raises `NotProved`."""
    _utf8(note, "a checkpoint")
    text, blank, tail = note.rpartition("\n\n")
    if len(note) > _MAX_NOTE or not blank or not tail.endswith("\n") or any(c < " " and c != "\n" for c in note):
        raise NotProved("a checkpoint is not a signed note")
    lines = text.split("\n")
    if len(lines) < 3 or not all(lines):
        raise NotProved("a checkpoint lacks its three lines")
    size, root = _decimal(lines[1], "a checkpoint's size"), _base64(lines[2], "a checkpoint's root")
    if len(root) != 32:
        raise NotProved("a checkpoint's root is not 32 bytes")
    return Checkpoint(text + "\n", lines[0], size, root, tuple(_signature(line) for line in tail[:-1].split("\n")))


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, space, body = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not name:
        raise NotProved("a signature line of a checkpoint is malformed")
    raw = _base64(body, "a signature")
    if len(raw) < 5:
        raise NotProved("a signature of a checkpoint is too short")
    return name, raw[:4], raw[4:]


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def _steps(node: int, last: int, *, path: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The hashes of a path, and whether each stands left (RFC 9162, 2.1.3.2). Raises `NotProved` for another length."""
    for step in path:
        if last == 0:
            raise NotProved("a proof is too long")
        is_left = node % 2 == 1 or node == last
        yield step, is_left
        while is_left and node % 2 == 0 and node:
            node, last = node // 2, last // 2
        node, last = node // 2, last // 2
    if last:
        raise NotProved("a proof is too short")


def included_root(leaf: bytes, index: int, size: int, *, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to. Raises `NotProved` where it has another shape."""
    if not 0 <= index < size:
        raise NotProved(f"entry {index} lies outside a tree of {size}")
    for step, is_left in _steps(index, size - 1, path=path):
        leaf = _node(step, leaf) if is_left else _node(leaf, step)
    return leaf


def is_consistent(old: int, new: int, *, roots: tuple[bytes, bytes], path: Sequence[bytes]) -> bool:
    """Whether the tree of `old` leaves is a prefix of that of `new` (RFC 9162, 2.1.4.2); `roots` are old and new.
    Raises `NotProved` where the path has another shape."""
    if not 0 < old < new:
        return 0 < old == new and not path and roots[0] == roots[1]
    steps = [roots[0], *path] if old & (old - 1) == 0 else list(path)
    node, last = old - 1, new - 1
    while node % 2:
        node, last = node // 2, last // 2
    first = second = steps[0] if steps else b""
    for step, is_left in _steps(node, last, path=steps[1:]):
        first = _node(step, first) if is_left else first
        second = _node(step, second) if is_left else _node(second, step)
    return (first, second) == roots


def _parse_proof(text: str) -> tuple[int, list[bytes]]:
    """Index and path of a tlog-proof without its checkpoint."""
    magic, _, rest = text.partition("\n")
    if magic != _PROOF_MAGIC:
        raise NotProved("a proof is not in tlog-proof form")
    return _parse_path(rest.partition("\n")[2] if rest.startswith("extra ") else rest, "index ")


def _parse_path(text: str, word: str) -> tuple[int, list[bytes]]:
    """A number and the hashes below it; with `old ` the form in which witnesses are asked (tlog-witness)."""
    lines = text.split("\n")
    if not lines[0].startswith(word) or lines[-2:] != ["", ""]:
        raise NotProved(f"a proof lacks its line {word!r} or its end")
    path = [_base64(line, "a proof") for line in lines[1:-2]]
    if len(path) > _MAX_PATH or any(len(step) != 32 for step in path):
        raise NotProved("a proof does not consist of at most 63 hashes of 32 bytes")
    return _decimal(lines[0].removeprefix(word), "a proof's number"), path


@dataclass(frozen=True, slots=True)
class Entry:
    """One line about one leaf. `raw` and what is read from it are absent where retention dropped the body."""

    index: int
    leaf: bytes
    kind: str = ""
    call: str = ""
    stream: str = ""
    n: int = -1
    previous: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)


def _read_entry(line: Mapping[str, Json], checkpoint: Checkpoint) -> Entry:
    """The entry of a line, proved to lie in the checkpoint's tree. Raises `NotProved`."""
    index = _index(line, "index")
    raw = _utf8(_text(line, "entry"), f"entry {index}") if "entry" in line else None
    leaf = leaf_hash(raw) if raw is not None else _base64(_text(line, "leaf"), "a leaf")
    told, path = _parse_proof(_text(line, "proof"))
    if told != index or len(leaf) != 32:
        raise NotProved(f"entry {index}: its proof speaks of entry {told}, or its hash is none")
    if included_root(leaf, index, checkpoint.size, path=path) != checkpoint.root:
        raise NotProved(f"entry {index}: it is not what the signed tree holds there")
    return Entry(index, leaf) if raw is None else _parse_entry(index, leaf, raw)


def _parse_entry(index: int, leaf: bytes, raw: bytes) -> Entry:
    body = _loads(raw, f"entry {index}")
    event, stream = body.get("event"), body.get("stream")
    if not isinstance(event, dict) or not isinstance(stream, dict) or (set(body), set(event), set(stream)) != _FORM:
        raise NotProved(f"entry {index}: it does not have the form of an entry")
    data, previous = event["data"], stream["previous"]
    if not isinstance(data, dict) or not isinstance(previous, str | None) or _compact(body, is_sorted=True) != raw:
        raise NotProved(f"entry {index}: it does not have the canonical form of an entry")
    told = (_text(event, "kind"), _text(event, "call"), _text(stream, "id"), _index(stream, "n"))
    return Entry(index, leaf, *told, previous, data)


def _body_digests(value: Json) -> Iterator[str]:
    """The digests of the large values that left an entry."""
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, dict) and len(value) == 1 and isinstance(blob := value.get("$blob"), dict):
        yield str(blob.get("sha256"))
    for item in items:
        yield from _body_digests(item)


class _Export:
    """An export while its lines are read, in the order in which they stand."""

    def __init__(self, keys: Sequence[Key], anchors: Sequence[str]) -> None:
        self._trusted = [key for key in keys if key.kind == _LOG]
        self._anchors, self._compared = anchors, dict[int, bytes]()
        self._changes, self._former = list[tuple[int, Key, Key]](), list[Key]()
        self._rank, self._lines, self._is_whole = -1, 0, False
        self._checkpoint: Checkpoint | None = None
        self._query: Mapping[str, Json] = {}
        self._answer, self._last, self._absent, self._pending = sha256(), -1, set[str](), dict[str, None]()
        self._statement: Entry | None = None
        self._length, self._leaf, self._is_closed, self.count = 0, b"", False, 0
        self._prunes, self._ranges, self._withheld = list[tuple[int, Json]](), dict[str, Json](), list[int]()

    @property
    def checkpoint(self) -> Checkpoint:
        if self._checkpoint is None:
            raise NotProved("the first line is not an export's head")
        return self._checkpoint

    def take(self, line: Mapping[str, Json]) -> None:
        kind = line.get("type")
        if not isinstance(kind, str) or kind not in _SHAPES or " ".join(line).replace("leaf", "entry") != _SHAPES[kind]:
            raise NotProved("a line is of no known kind, or has other fields than its kind")
        rank = list(_SHAPES).index(kind)
        if rank < self._rank or (rank == self._rank and kind in ("export", "statement", "end")):
            raise NotProved(f"a line {kind!r} stands where none belongs")
        self._rank = rank
        self._lines += 1
        if "index" in line and kind != "key":
            self._take_leaf(kind, _read_entry(line, self.checkpoint))
        elif kind == "end":
            self._is_whole = _index(line, "lines") == self._lines
        else:
            takes = {"export": self._open, "key": self._learn_key, "consistency": self._compare}
            takes.get(kind, self._take_body)(line)

    def _take_leaf(self, kind: str, entry: Entry) -> None:
        if kind == "entry":
            self._take_entry(entry)
        elif kind == "statement":
            self._statement = entry
        elif entry.kind == "audit.prune":
            self._prunes.append((entry.index, entry.data.get("ranges")))
            self._absent.update(_body_digests(dict(entry.data)))

    def _open(self, line: Mapping[str, Json]) -> None:
        query = line["query"]
        if line["format"] != FORMAT or not isinstance(query, dict):
            raise NotProved(f"the first line is not the head of a {FORMAT}")
        self._checkpoint, self._query = parse_checkpoint(_text(line, "checkpoint")), query

    def _compare(self, line: Mapping[str, Json]) -> None:
        """An older head that the log grew from."""
        old = self._trusted_note(_text(line, "checkpoint"))
        self._check_growth(old, _text(line, "proof"))
        if old.size <= max(self._compared, default=0):
            raise NotProved("a line 'consistency' stands where none belongs")
        self._compared[old.size] = old.root

    def _trusted_note(self, note: str) -> Checkpoint:
        old = parse_checkpoint(note)
        is_signed = any(old.signed_by(key) for key in (*self._trusted, *self._former))
        if not is_signed or old.origin != self.checkpoint.origin:
            raise NotProved("an older checkpoint or an anchor is not signed by a key that you trust")
        return old

    def _check_growth(self, old: Checkpoint, proof: str) -> None:
        told, path = _parse_path(proof, "old ")
        roots = (old.root, self.checkpoint.root)
        if told != old.size or not is_consistent(old.size, self.checkpoint.size, roots=roots, path=path):
            raise NotProved(f"this log did not grow from the one that was signed at {old.size} entries")

    def _take_body(self, line: Mapping[str, Json]) -> None:
        body = _base64(_text(line, "body"), "a body")
        digest = sha256(body).hexdigest()
        if digest != line["sha256"] or digest not in self._absent:
            raise NotProved("a body does not have the digest of any value of these entries")
        self._absent.discard(digest)
        if any(digest in _body_digests(told) for _, told in self._prunes):
            self._ranges[digest] = _loads(b'{"ranges":' + body + b"}", "what retention dropped")["ranges"]

    def _check_withheld(self) -> None:
        """What is shown by its hash alone was dropped by retention: an entry that came later names it."""
        named, end = list[tuple[int, int]](), 0
        for index, told in self._prunes:
            ranges = self._ranges.get(next(_body_digests(told), ""), told)
            for pair in ranges if isinstance(ranges, list) else ():
                if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is type(pair[1]) is int:
                    named.append((pair[0], min(pair[1] + 1, index)))
        named.sort(reverse=True)
        for index in self._withheld:
            while named and named[-1][0] <= index:
                end = max(end, named.pop()[1])
            if end <= index:
                raise NotProved(f"entry {index}: it is withheld, and no entry says that retention dropped it")

    def _learn_key(self, line: Mapping[str, Json]) -> None:
        """A rotation: the old key signed a beginning of this log, in which an entry names its successor. A trusted key
        vouches for its successors, and for what its predecessors signed before it."""
        signed = parse_checkpoint(_text(line, "checkpoint"))
        entry = _read_entry(line, signed)
        old, new = parse_key(_text(entry.data, "old")), parse_key(_text(entry.data, "new"))
        if entry.kind != "audit.key" or signed.origin != self.checkpoint.origin or not signed.signed_by(old):
            raise NotProved(f"entry {entry.index}: the old key has not signed for its successor")
        self._check_growth(signed, _text(line, "consistency"))
        if len(self._changes) == _MAX_CHANGES or (self._changes and entry.index <= self._changes[-1][0]):
            raise NotProved(f"entry {entry.index}: it does not follow the change of key before it, or is one too many")
        self._changes.append((entry.index, old, new))
        for _, older, newer in [*self._changes, *reversed(self._changes)]:
            if older in self._trusted and newer not in self._trusted:
                self._trusted.append(newer)
            elif newer in (*self._trusted, *self._former) and older not in self._former:
                self._former.append(older)

    def _take_entry(self, entry: Entry) -> None:
        if entry.index <= self._last:
            raise NotProved(f"entry {entry.index}: it does not follow entry {self._last}")
        self._last = entry.index
        self._answer.update(entry.leaf)
        self.count += 1
        if entry.n < 0:
            self._withheld.append(entry.index)
        self._absent.update(_body_digests(dict(entry.data)))
        if entry.kind == "call.intent":
            self._pending[entry.call] = None
        elif entry.kind in ("call.outcome", "audit.gap"):
            self._pending.pop(entry.call, None)
        if set(self._query) == {"run"}:
            self._follow_chain(entry)

    def _follow_chain(self, entry: Entry) -> None:
        if entry.n >= 0:
            if entry.stream != self._query["run"]:
                raise NotProved(f"entry {entry.index}: it is not of the run that was asked for")
            if entry.n > self._length:
                missing = entry.n - self._length
                raise NotProved(f"entry {entry.index}: {missing} entries of the run before it are missing")
            if (entry.n, entry.previous) != (self._length, self._leaf.hex() or None):
                raise NotProved(f"entry {entry.index}: it does not continue the run's chain")
            self._is_closed = self._is_closed or entry.kind == "run.closed"
        self._length, self._leaf = self._length + 1, entry.leaf

    def judge(self, witnesses: Sequence[Key]) -> Verdict:
        """The verdict once every line is read. Raises `NotProved`."""
        checkpoint = self.checkpoint
        if not self._is_whole:
            raise NotProved("the export is cut off: its last lines are missing")
        if not any(checkpoint.signed_by(key) for key in self._trusted):
            raise NotProved("the checkpoint is not signed by a key that you trust")
        cosigned = tuple(key.name for key in witnesses if checkpoint.signed_by(key))
        if witnesses and not cosigned:
            raise NotProved("none of the witnesses that you named has cosigned the checkpoint")
        scope = self._check_statement()
        for anchor in self._anchors:
            self._check_anchor(anchor)
        self._check_withheld()
        counts = (len(self._withheld), len(self._absent), tuple(self._pending), self._query)
        return Verdict(checkpoint.origin, checkpoint.size, self.count, scope, bool(self._anchors), cosigned, *counts)

    def _check_statement(self) -> str:
        """What the log itself recorded of this answer is what stands here."""
        if self._statement is None or self._statement.kind != "audit.export":
            raise NotProved("the entry in which the log recorded this export is missing")
        told = self._statement.data
        if told.get("query") != self._query:
            raise NotProved("the question is not the one that the log recorded")
        size = _index(told, "size")
        if size > self._statement.index or self._last >= size:
            raise NotProved(f"entry {self._last}: it came after the answer was recorded")
        if told.get("count") != self.count:
            raise NotProved(f"the log recorded another number of entries in this answer than the {self.count} here")
        if told.get("answer") != self._answer.hexdigest():
            raise NotProved("the entries are not those that the log recorded as its answer")
        if set(self._query) != {"run"}:
            return "all that the log recorded as its answer"
        if told.get("stream") != {"length": self._length, "head": self._leaf.hex() or None}:
            raise NotProved("the run has another length or head than the log recorded: entries are missing")
        return f"the whole run, from its first entry to its {'end' if self._is_closed else 'latest (still open)'}"

    def _check_anchor(self, note: str) -> None:
        anchor, size = self._trusted_note(note), self.checkpoint.size
        if anchor.size > size:
            raise NotProved(f"an anchor covers {anchor.size} entries, this export {size}: it is older, or was cut back")
        known = {**self._compared, size: self.checkpoint.root}.get(anchor.size)
        if known is None:
            raise NotProved(f"the export holds no proof from your anchor at {anchor.size} entries: export with it")
        if known != anchor.root:
            raise NotProved(f"this log is not the one that was anchored at {anchor.size} entries")


def verify_export(
    lines: Iterable[bytes], keys: Sequence[Key], *, anchors: Sequence[str] = (), witnesses: Sequence[Key] = ()
) -> Verdict:
    """Judge an export. `keys` are pinned by whoever checks. Raises `NotProved`, and nothing else for any bytes."""
    if not any(key.kind == _LOG for key in keys):
        raise NotProved("name the log's public key: without one nothing can be proved")
    export = _Export(keys, anchors)
    try:
        for number, line in enumerate(lines, 1):
            if len(line) > _MAX_LINE:
                raise NotProved(f"line {number} is longer than {_MAX_LINE} bytes")
            value = _loads(line, f"line {number}")
            if _compact(value) + b"\n" != line:
                raise NotProved(f"line {number}: it is not in its one form")
            export.take(value)
        return export.judge(witnesses)
    except RecursionError as error:
        raise NotProved("a value nests too deeply") from error


def _loads(raw: bytes, where: str) -> dict[str, Json]:
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_object, parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NotProved(f"{where}: it is not strict JSON") from error
    if not isinstance(value, dict):
        raise NotProved(f"{where}: it is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs) or not all(key.isascii() for key in value):
        raise ValueError("a key stands twice, or is not ASCII")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not an integer")


def _compact(value: Json, *, is_sorted: bool = False) -> bytes:
    """The one form of a line; sorted it is RFC 8785, since keys are ASCII and numbers integers."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=is_sorted, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise NotProved("a value has no canonical form") from error


def _text(line: Mapping[str, Json], name: str) -> str:
    value = line.get(name)
    if not isinstance(value, str):
        raise NotProved(f"a line lacks the text {name!r}")
    return value


def _index(line: Mapping[str, Json], name: str) -> int:
    value = line.get(name)
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise NotProved(f"a line lacks the number {name!r}")
    return value


def _decimal(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16 or (text[0] == "0" and text != "0"):
        raise NotProved(f"{where} is not a plain number")
    return int(text)


def _base64(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise NotProved(f"{where} is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise NotProved(f"{where} is not base64 in its one form")
    return raw


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise NotProved(f"{where} is not UTF-8") from error


def _argument(text: str) -> str:
    """A value, or the content of the file that it names."""
    return text if "+" in text and not Path(text).exists() else Path(text).read_text(encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ringfence-verify", description="Check an export of a Ringfence log, offline.")
    parser.add_argument("export", type=Path, help="the export, a .jsonl file")
    parser.add_argument("--key", action="append", required=True, help="the log's public key, or a file that holds it")
    parser.add_argument("--anchor", action="append", default=[], help="a checkpoint that was kept elsewhere (a file)")
    parser.add_argument("--witness", action="append", default=[], help="a witness's public key, or a file")
    parser.add_argument("--report", type=Path, help="the page that this export is the evidence of")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 proved, 8 not proved, 2 cannot be tried."""
    asked = _parser().parse_args(argv)
    try:
        keys, witnesses = ([parse_key(_argument(text)) for text in texts] for texts in (asked.key, asked.witness))
        anchors = [Path(name).read_text(encoding="utf-8") for name in asked.anchor]
        with asked.export.open("rb") as file:
            lines = iter(lambda: file.readline(_MAX_LINE + 1), b"")
            verdict = verify_export(lines, keys, anchors=anchors, witnesses=witnesses)
        if asked.report is not None and verdict.query.get("report") != sha256(asked.report.read_bytes()).hexdigest():
            raise NotProved("the page is not the one that the log recorded with this evidence")
    except NotProved as error:
        return _say(asked.json, is_proved=False, text=f"NOT PROVED: {error}", code=NOT_PROVED)
    except (OSError, UnicodeDecodeError) as error:
        return _say(asked.json, is_proved=False, text=f"cannot read: {error}", code=USAGE)
    return _say(asked.json, is_proved=True, text=verdict.text, code=PROVED)


def _say(is_json: bool, *, is_proved: bool, text: str, code: int) -> int:
    """ASCII only: names in an export are hostile and must not move a terminal."""
    plain = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)[:2000]
    line = json.dumps({"type": "verdict", "is_proved": is_proved, "text": plain}) if is_json else plain
    sys.stdout.write(line + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

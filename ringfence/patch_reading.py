"""Reads a patch before anything is done with it. Bytes in, changes or `PatchRefused` out; no I/O.

A patch comes out of a sandbox and is as hostile as everything from there. Only the form that
`git diff --binary --full-index` writes is accepted (git-diff(1), "Generating patch text with -p"), every byte of it
accounted for: whatever this reader does not understand is refused, so that nothing is left for `git apply` to
understand in another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from ringfence.errors import Refused

PATCH_LIMIT_BYTES = 64 << 20
_MODE = re.compile(rb"(100644|100755|120000|160000)\Z")
_INDEX = re.compile(
    rb"index ([0-9a-f]{40}|[0-9a-f]{64})\.\.([0-9a-f]{40}|[0-9a-f]{64})(?: (100644|100755|120000|160000))?\Z"
)
_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?: .*)?\Z")
_BINARY = re.compile(rb"(?:literal|delta) \d{1,12}\Z")
_BASE85 = re.compile(rb"[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{5,65}\Z")
_OCTAL = re.compile(rb"[0-3][0-7]{2}")
_ESCAPES = {
    b"a": b"\a",
    b"b": b"\b",
    b"t": b"\t",
    b"n": b"\n",
    b"v": b"\v",
    b"f": b"\f",
    b"r": b"\r",
    b'"': b'"',
    b"\\": b"\\",
}


class PatchRefused(Refused):
    """The patch is not in the one form that Ringfence reads, or does what no patch may do."""


class Change(StrEnum):
    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    RENAMED = "renamed"
    COPIED = "copied"


@dataclass(frozen=True, slots=True)
class Hunk:
    """`lines` keep their first byte: space, `+`, `-` or `\\`. Line numbers start at 1."""

    old_start: int
    new_start: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of the patch. Modes are git's (`100644`), "" where the file does not exist on that side."""

    path: bytes
    old_path: bytes
    change: Change
    old_mode: str = ""
    new_mode: str = ""
    is_binary: bool = False
    hunks: tuple[Hunk, ...] = ()

    @property
    def name(self) -> str:
        """The path as text; bytes outside UTF-8 stay recognisable, and it must still be escaped to be shown."""
        return self.path.decode("utf-8", "backslashreplace")

    @property
    def added(self) -> int:
        return sum(line.startswith(b"+") for hunk in self.hunks for line in hunk.lines)

    @property
    def removed(self) -> int:
        return sum(line.startswith(b"-") for hunk in self.hunks for line in hunk.lines)


def read_patch(data: bytes) -> tuple[FileChange, ...]:
    """Every file that the patch changes, in its order. Raises `PatchRefused`; an empty patch changes nothing."""
    if len(data) > PATCH_LIMIT_BYTES:
        raise PatchRefused(f"the patch is larger than {PATCH_LIMIT_BYTES >> 20} MiB")
    if not data:
        return ()
    if not data.endswith(b"\n"):
        raise PatchRefused("the patch ends in the middle of a line")
    reader = _Reader(data[:-1].split(b"\n"))
    changes: list[FileChange] = []
    while not reader.is_at_end:
        changes.append(_read_file(reader))
    _refuse_repeats(changes)
    return tuple(changes)


@dataclass(slots=True)
class _Reader:
    lines: list[bytes]
    at: int = 0

    @property
    def is_at_end(self) -> bool:
        return self.at >= len(self.lines)

    def peek(self) -> bytes:
        return b"" if self.is_at_end else self.lines[self.at]

    def take(self) -> bytes:
        if self.is_at_end:
            raise PatchRefused("the patch ends too early")
        self.at += 1
        return self.lines[self.at - 1]

    def take_after(self, prefix: bytes) -> bytes | None:
        """The rest of the next line where it starts with `prefix`; otherwise nothing is taken."""
        if not self.is_at_end and self.lines[self.at].startswith(prefix):
            return self.take()[len(prefix) :]
        return None

    def refuse(self, reason: str) -> PatchRefused:
        return PatchRefused(f"line {self.at} of the patch: {reason}")


@dataclass(slots=True)
class _Header:
    """What the extended header lines of one file said, until it is checked as a whole."""

    names: bytes
    old_mode: bytes = b""
    new_mode: bytes = b""
    added_mode: bytes = b""
    deleted_mode: bytes = b""
    kept_mode: bytes = b""
    move: Change | None = None
    source: bytes = b""
    target: bytes = b""
    has_index: bool = False
    seen: set[bytes] = field(default_factory=set)


def _read_file(reader: _Reader) -> FileChange:
    names = reader.take_after(b"diff --git ")
    if names is None:
        reader.take()
        raise reader.refuse("expected the start of a file (`diff --git`)")
    header = _read_header(reader, names)
    old, new = _names(reader, header)
    is_binary = reader.peek() == b"GIT binary patch"
    hunks: tuple[Hunk, ...] = ()
    if is_binary:
        _read_binary(reader)
    elif reader.peek().startswith(b"--- "):
        _check_file_lines(reader, header, old, new)
        hunks = _read_hunks(reader)
    return _checked(reader, header, old=old, new=new, is_binary=is_binary, hunks=hunks)


def _read_header(reader: _Reader, names: bytes) -> _Header:
    header = _Header(names)
    modes = {
        b"old mode ": "old_mode",
        b"new mode ": "new_mode",
        b"new file mode ": "added_mode",
        b"deleted file mode ": "deleted_mode",
    }
    moves = {
        b"rename from ": ("source", Change.RENAMED),
        b"rename to ": ("target", Change.RENAMED),
        b"copy from ": ("source", Change.COPIED),
        b"copy to ": ("target", Change.COPIED),
    }
    while True:
        line = reader.peek()
        prefix = next(
            (known for known in (*modes, *moves, b"similarity index ", b"index ") if line.startswith(known)), None
        )
        if prefix is None:
            return header
        if prefix in header.seen:
            raise reader.refuse(f"a second `{prefix.decode().strip()}` for one file")
        header.seen.add(prefix)
        rest = reader.take()[len(prefix) :]
        if prefix in modes:
            if not _MODE.match(rest):
                raise reader.refuse("not a file mode that git writes")
            setattr(header, modes[prefix], rest)
        elif prefix in moves:
            side, header.move = moves[prefix]
            setattr(header, side, _unquoted(reader, rest))
        elif prefix == b"index ":
            match = _INDEX.match(line)
            if match is None:
                raise reader.refuse("an index line without full object names")
            header.has_index = True
            header.kept_mode = match.group(3) or b""


def _names(reader: _Reader, header: _Header) -> tuple[bytes, bytes]:
    """Old and new path, from the `diff --git` line and, for moves, checked against their own lines."""
    if header.move is not None:
        old, new = header.source, header.target
        if not old or not new:
            raise reader.refuse("a move without both of its paths")
    else:
        old = new = _same_name(reader, header.names)
    spellings = {_quoted(b"a/" + old) + b" " + _quoted(b"b/" + new), b"a/" + old + b" b/" + new}
    if header.names not in spellings:
        raise reader.refuse("the paths of a file do not agree with each other")
    return old, new


def _same_name(reader: _Reader, names: bytes) -> bytes:
    if names.startswith(b'"'):
        middle = (len(names) - 1) // 2
        name = _unquoted(reader, names[:middle])
        if not name.startswith(b"a/"):
            raise reader.refuse("a path without its a/ prefix")
        return name[2:]
    middle = (len(names) - 1) // 2
    if not names.startswith(b"a/") or names[middle : middle + 3] != b" b/":
        raise reader.refuse("the two paths of a file differ, and it is not a move")
    return names[2:middle]


def _check_file_lines(reader: _Reader, header: _Header, old: bytes, new: bytes) -> None:
    expected_old = b"/dev/null" if header.added_mode else b"a/" + old
    expected_new = b"/dev/null" if header.deleted_mode else b"b/" + new
    for prefix, expected in ((b"--- ", expected_old), (b"+++ ", expected_new)):
        given = reader.take_after(prefix)
        if given is None or _unquoted(reader, given.removesuffix(b"\t")) != expected:
            raise reader.refuse("the --- and +++ lines do not name the file of their header")


def _read_hunks(reader: _Reader) -> tuple[Hunk, ...]:
    hunks: list[Hunk] = []
    while (match := _HUNK.match(reader.peek())) is not None:
        reader.take()
        old_start, old_count, new_start, new_count = (
            int(number) if number is not None else 1 for number in match.groups()
        )
        hunks.append(Hunk(old_start, new_start, _read_hunk_lines(reader, old_count, new_count)))
    if not hunks:
        raise reader.refuse("a file without a readable hunk")
    return tuple(hunks)


def _read_hunk_lines(reader: _Reader, old_left: int, new_left: int) -> tuple[bytes, ...]:
    lines: list[bytes] = []
    while old_left > 0 or new_left > 0:
        line = reader.take()
        sign = line[:1]
        if sign not in (b" ", b"+", b"-", b"\\") or (sign == b"\\" and not lines):
            raise reader.refuse("not a line of a hunk")
        old_left -= sign in (b" ", b"-")
        new_left -= sign in (b" ", b"+")
        if old_left < 0 or new_left < 0:
            raise reader.refuse("a hunk is longer than it says")
        lines.append(line)
    if reader.peek().startswith(b"\\ "):
        lines.append(reader.take())
    return tuple(lines)


def _read_binary(reader: _Reader) -> None:
    reader.take()
    for is_required in (True, False):
        if not _BINARY.match(reader.peek()):
            if is_required:
                raise reader.refuse("a binary change without data")
            return
        reader.take()
        while reader.peek():
            if not _BASE85.match(reader.take()):
                raise reader.refuse("not a line of binary data")
        if reader.is_at_end:
            raise reader.refuse("binary data without its end")
        reader.take()


def _checked(
    reader: _Reader, header: _Header, *, old: bytes, new: bytes, is_binary: bool, hunks: tuple[Hunk, ...]
) -> FileChange:
    kinds = [bool(header.added_mode), bool(header.deleted_mode), header.move is not None, bool(header.old_mode)]
    if bool(header.old_mode) != bool(header.new_mode) or sum(kinds[:3]) > 1 or (kinds[3] and any(kinds[:2])):
        raise reader.refuse("the header of a file contradicts itself")
    has_body = is_binary or bool(hunks)
    if has_body and not header.has_index:
        raise reader.refuse("a change of content without its index line")
    old_mode = header.old_mode or header.deleted_mode or (b"" if header.added_mode else header.kept_mode)
    new_mode = header.new_mode or header.added_mode or (b"" if header.deleted_mode else header.kept_mode)
    change = header.move or (
        Change.ADDED if header.added_mode else Change.DELETED if header.deleted_mode else Change.MODIFIED
    )
    if change is Change.MODIFIED and not has_body and not header.old_mode:
        raise reader.refuse("a file that does not change")
    return FileChange(new, old, change, old_mode.decode(), new_mode.decode(), is_binary, hunks)


def _refuse_repeats(changes: list[FileChange]) -> None:
    seen: set[bytes] = set()
    for change in changes:
        if change.path in seen:
            raise PatchRefused("the patch changes one file twice")
        seen.add(change.path)


def _unquoted(reader: _Reader, text: bytes) -> bytes:
    """A path as git spells it: plain, or in double quotes with C escapes (git-config core.quotePath)."""
    if not text.startswith(b'"'):
        return text
    if len(text) < 2 or not text.endswith(b'"'):
        raise reader.refuse("a quoted path without its end")
    body, out, at = text[1:-1], bytearray(), 0
    while at < len(body):
        byte = body[at : at + 1]
        if byte == b'"':
            raise reader.refuse("a quote inside a quoted path")
        if byte != b"\\":
            out += byte
            at += 1
            continue
        octal = _OCTAL.match(body, at + 1)
        if octal is not None:
            out.append(int(octal.group(), 8))
            at = octal.end()
        elif body[at + 1 : at + 2] in _ESCAPES:
            out += _ESCAPES[body[at + 1 : at + 2]]
            at += 2
        else:
            raise reader.refuse("an unknown escape in a path")
    return bytes(out)


def _quoted(path: bytes) -> bytes:
    """`path` as git would spell it with its default core.quotePath."""
    names = {value: b"\\" + key for key, value in _ESCAPES.items()}
    out = b"".join(
        names.get(byte := path[at : at + 1])
        or (byte if 0x20 <= path[at] < 0x7F else b"\\" + format(path[at], "03o").encode())
        for at in range(len(path))
    )
    return path if out == path else b'"' + out + b'"'

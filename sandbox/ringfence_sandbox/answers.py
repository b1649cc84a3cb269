"""The in-sandbox server's answers as the contract's values: every field is checked, every text and number bounded."""

from __future__ import annotations

import io
from collections.abc import Sequence

from ringfence_sandbox.connection import JsonObject, Reply, is_sound
from ringfence_sandbox.contract import (
    CallId,
    ChangedFile,
    Dirent,
    Ending,
    FileContent,
    Match,
    Outcome,
    Patch,
    Probe,
)
from ringfence_sandbox.errors import ProtocolViolation
from ringfence_sandbox.inside import wire

PATH_LIMIT = 8192
TEXT_LIMIT = 4096
NAMES_LIMIT = 100
NUMBER_LIMIT = 1 << 60
KINDS = ("file", "directory", "symlink", "other")
STATUSES = ("added", "modified", "deleted")


def text(fields: JsonObject, key: str, *, limit: int = TEXT_LIMIT) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str) or len(value) > limit or not is_sound(value):
        raise ProtocolViolation(f"{key} is not a text of at most {limit} characters")
    return value


def number(fields: JsonObject, key: str) -> int:
    value = fields.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < NUMBER_LIMIT:
        raise ProtocolViolation(f"{key} is not a number")
    return value


def flag(fields: JsonObject, key: str) -> bool:
    value = fields.get(key)
    if not isinstance(value, bool):
        raise ProtocolViolation(f"{key} is neither true nor false")
    return value


def digest(fields: JsonObject, key: str) -> str:
    """A SHA-256 in hex, or ""."""
    value = text(fields, key, limit=64)
    if value and (len(value) != 64 or any(c not in "0123456789abcdef" for c in value)):
        raise ProtocolViolation(f"{key} is not a digest")
    return value


def outcome(call_id: CallId, reply: Reply) -> Outcome:
    """The outcome in a reply's header; its body is head and tail."""
    fields = reply.header.get("outcome")
    if not isinstance(fields, dict):
        raise ProtocolViolation("a reply without an outcome")
    try:
        ending = Ending(text(fields, "ending"))
    except ValueError as error:
        raise ProtocolViolation("an outcome with an unknown ending") from error
    exit_code = fields.get("exit_code")
    if exit_code is not None and (isinstance(exit_code, bool) or not isinstance(exit_code, int)):
        raise ProtocolViolation("an exit code that is no number")
    if exit_code is not None and not 0 <= exit_code <= 255:
        raise ProtocolViolation("an exit code out of bounds")
    # After an acknowledgement the body is gone while the fields still tell its length.
    head = min(number(fields, "head"), len(reply.body))
    return Outcome(
        call_id,
        ending,
        exit_code=exit_code,
        head=reply.body[:head],
        tail=reply.body[head:],
        omitted_bytes=number(fields, "omitted_bytes"),
        detail=text(fields, "detail"),
        duration_ms=number(fields, "duration_ms"),
        output_path=text(fields, "output_path", limit=PATH_LIMIT),
    )


def items(body: bytes, *, limit: int) -> Sequence[JsonObject]:
    """The objects of a list that came as JSON arrays one after another."""
    found: list[JsonObject] = []
    for count, line in enumerate(io.BytesIO(body)):
        # One line came in one frame: a longer one, or more of them than items, is made to be dear.
        if count > limit or len(line) > wire.BODY_LIMIT:
            raise ProtocolViolation("a list in pieces that nobody sends")
        try:
            values = wire.loads(line.decode())
        except (ValueError, StopIteration, RecursionError) as error:
            raise ProtocolViolation("a list that is not JSON") from error
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ProtocolViolation("a list of something else")
        found.extend(values)
        if len(found) > limit:
            raise ProtocolViolation("a list longer than was asked for")
    return found


def content(reply: Reply) -> FileContent:
    return FileContent(reply.body, number(reply.header, "size_bytes"), digest(reply.header, "sha256"))


def dirent(fields: JsonObject) -> Dirent:
    kind = text(fields, "kind")
    for known in KINDS:
        if kind == known:
            return Dirent(text(fields, "path", limit=PATH_LIMIT), known, number(fields, "size_bytes"))  # type: ignore[arg-type] # a tuple of literals does not narrow
    raise ProtocolViolation("an entry of an unknown kind")


def match(fields: JsonObject) -> Match:
    path = text(fields, "path", limit=PATH_LIMIT)
    if not path:
        raise ProtocolViolation("a match in no file")
    return Match(path, number(fields, "line"), text(fields, "text"))


def changed_file(fields: JsonObject) -> ChangedFile:
    status, path = text(fields, "status"), text(fields, "path", limit=PATH_LIMIT)
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ProtocolViolation("a change outside of the workspace")
    for known in STATUSES:
        if status == known:
            return ChangedFile(path, known, digest(fields, "sha256"))  # type: ignore[arg-type] # a tuple of literals does not narrow
    raise ProtocolViolation("a change of an unknown status")


def patch(reply: Reply) -> Patch:
    base = text(reply.header, "base_commit", limit=64)
    if len(base) not in (40, 64) or any(c not in "0123456789abcdef" for c in base):
        raise ProtocolViolation("a base commit that is none")
    return Patch(reply.body, base, _names(reply.header, "watched"), _names(reply.header, "left_out"))


def _names(fields: JsonObject, key: str) -> tuple[str, ...]:
    """A short list of paths that people are told."""
    listed = fields.get(key, [])
    if not isinstance(listed, list) or len(listed) > NAMES_LIMIT:
        raise ProtocolViolation(f"{key} is no short list")
    names = tuple(name for name in listed if isinstance(name, str) and len(name) <= PATH_LIMIT and is_sound(name))
    if len(names) != len(listed):
        raise ProtocolViolation(f"{key} holds what is no path")
    return names


def probe(fields: JsonObject) -> Probe:
    return Probe(text(fields, "name", limit=80), flag(fields, "is_held"), text(fields, "detail"))

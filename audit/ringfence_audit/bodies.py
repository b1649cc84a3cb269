"""How large values leave an entry and come back: references to bodies, and the escape that keeps them unmistakable.

A reference is a mapping with the one key `$blob`. Data that itself has a key `$blob` or `$json` is stored as
`{"$json": TEXT}` with its canonical JSON as text, so nothing that an agent says can pose as a reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

import orjson

from ringfence_audit.blobs import BLOB_LIMIT
from ringfence_audit.canonical import encode, plain
from ringfence_audit.events import JsonValue

_RESERVED = frozenset({"$blob", "$json", "$original", "$whole", "$sealed"})

Fetch: TypeAlias = Callable[[str], bytes | None]
"""Digest → body, or None where it is gone."""


def escape(value: JsonValue) -> JsonValue:
    """The value in plain types, with every mapping that uses a reserved key turned into its text."""
    if isinstance(value, Mapping):
        if not _RESERVED.isdisjoint(value):
            return {"$json": encode(plain(value)).decode()}
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return [escape(item) for item in value]
    return plain(value)


def take_out(value: JsonValue, blobs: dict[str, bytes]) -> JsonValue:
    """Replace every text of more than `BLOB_LIMIT` bytes by a reference; its body goes into `blobs`."""
    if isinstance(value, str):
        body = value.encode(errors="surrogatepass")
        return value if len(body) <= BLOB_LIMIT else _reference("text", body, blobs)
    if isinstance(value, Mapping):
        return {key: take_out(item, blobs) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [take_out(item, blobs) for item in value]
    return value


def take_out_fields(value: JsonValue, blobs: dict[str, bytes]) -> JsonValue:
    """Replace every top-level field whose JSON exceeds `BLOB_LIMIT` bytes; the whole, where many small ones do."""
    if not isinstance(value, Mapping):
        return value
    slim: dict[str, JsonValue] = {}
    for key, item in value.items():
        body = encode(item)
        slim[key] = item if len(body) <= BLOB_LIMIT else _reference("json", body, blobs)
    whole = encode(slim)
    return slim if len(whole) <= 4 * BLOB_LIMIT else _reference("json", whole, blobs)


def _reference(form: str, body: bytes, blobs: dict[str, bytes]) -> JsonValue:
    digest = sha256(body).hexdigest()
    blobs[digest] = body
    return {"$blob": {"form": form, "sha256": digest, "size": len(body)}}


def with_original(value: JsonValue, cipher: bytes, key: str, blobs: dict[str, bytes]) -> JsonValue:
    """The data with a reference to what it was before redaction, which lies sealed in `blobs`."""
    digest = sha256(cipher).hexdigest()
    blobs[digest] = cipher
    original: JsonValue = {"sha256": digest, "size": len(cipher), "key": key}
    if not isinstance(value, Mapping) or not _RESERVED.isdisjoint(value):
        return {"$original": original, "$whole": value}
    return {**value, "$original": original}


def original_digest(data: Mapping[str, JsonValue]) -> str:
    """The digest of the sealed original that an entry's data names, or nothing."""
    original = data.get("$original")
    digest = original.get("sha256") if isinstance(original, Mapping) else None
    return digest if isinstance(digest, str) else ""


def references(value: JsonValue) -> list[str]:
    """The digests that a stored value refers to."""
    if isinstance(value, Mapping):
        digest = _digest(value)
        return [digest] if digest else [found for item in value.values() for found in references(item)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [found for item in value for found in references(item)]
    return []


def _digest(value: Mapping[str, JsonValue]) -> str:
    reference = value.get("$blob")
    if len(value) != 1 or not isinstance(reference, Mapping):
        return ""
    digest = reference.get("sha256")
    return digest if isinstance(digest, str) else ""


def restore(value: JsonValue, fetch: Fetch) -> JsonValue:
    """The value as it was recorded, with bodies fetched; a reference stays where its body is gone."""
    if isinstance(value, Mapping):
        if "$whole" in value:
            return restore(value["$whole"], fetch)
        if len(value) == 1 and "$json" in value:
            text = restore(value["$json"], fetch)
            return _loaded(text.encode()) if isinstance(text, str) else value
        digest = _digest(value)
        if not digest:
            return {key: restore(item, fetch) for key, item in value.items()}
        body = fetch(digest)
        if body is None:
            return value
        reference = value["$blob"]
        is_text = isinstance(reference, Mapping) and reference.get("form") == "text"
        return body.decode(errors="replace") if is_text else restore(_loaded(body), fetch)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [restore(item, fetch) for item in value]
    return value


def _loaded(body: bytes) -> JsonValue:
    # orjson.loads is typed Any; the body is canonical JSON that this room wrote and whose digest was checked.
    loaded: JsonValue = orjson.loads(body)
    return loaded

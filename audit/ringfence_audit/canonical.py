"""The one byte form of an entry: RFC 8785 JSON, produced by orjson behind a guard that makes the two equal.

RFC 8785 and orjson with sorted keys agree where keys are ASCII (UTF-16 order equals byte order), numbers are integers
within ±(2^53-1) and strings hold no lone surrogate. The guard refuses everything else, so speed costs no exactness;
`tests/unit/audit/test_canonical.py` holds the two equal on generated values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from ringfence_audit.errors import InvalidEvent
from ringfence_audit.events import JsonValue, Personal

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 64
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_SUBCLASS


class Survey:
    """What a walk over a value found: strings, keys, the longest string, and whether it can be encoded as it is."""

    __slots__ = ("has_personal", "keys", "largest", "plain", "strings")

    def __init__(self) -> None:
        self.strings: list[str] = []
        self.keys: list[str] = []
        self.plain = True
        self.largest = 0
        self.has_personal = False

    def walk(self, value: object, depth: int = 0) -> None:
        """Collect every string and key below `value`. Raises `InvalidEvent` on what has no canonical form."""
        kind = type(value)
        if kind is str:
            self._text(value)  # type: ignore[arg-type]  # `kind is str` is not a narrowing that mypy knows
        elif kind is int or kind is bool or value is None:
            return
        elif depth > MAX_DEPTH:
            raise InvalidEvent(f"data nests deeper than {MAX_DEPTH} levels: store it as text")
        elif kind is dict:
            self._mapping(value, depth)  # type: ignore[arg-type]
        elif kind is list:
            for item in value:  # type: ignore[attr-defined]
                self.walk(item, depth + 1)
        else:
            self._unusual(value, depth)

    def _text(self, value: str) -> None:
        self.strings.append(value)
        if len(value) > self.largest:
            self.largest = len(value)

    def _mapping(self, value: Mapping[object, object], depth: int) -> None:
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                raise InvalidEvent(f"key {key!r} is not ASCII text: rename it or store the mapping as text")
            if key[:1] == "$":
                self.plain = False
            self.keys.append(key)
            self.walk(item, depth + 1)

    def _unusual(self, value: object, depth: int) -> None:
        self.plain = False
        if isinstance(value, str):
            self.has_personal = self.has_personal or isinstance(value, Personal)
            self._text(str(value))
        elif isinstance(value, Mapping):
            self._mapping(value, depth)
        elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
            for item in value:
                self.walk(item, depth + 1)
        elif not isinstance(value, int):
            raise InvalidEvent(f"a {type(value).__name__} has no canonical form: use text or an integer")


def encode(value: JsonValue) -> bytes:
    """The RFC 8785 bytes of a surveyed, plain value. Raises `InvalidEvent` for huge integers and lone surrogates."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise InvalidEvent(f"data has no canonical form ({error}): integers must lie within ±2^53") from error


def plain(value: JsonValue) -> JsonValue:
    """The same value in plain dicts, lists, strings and integers."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    return int(value)

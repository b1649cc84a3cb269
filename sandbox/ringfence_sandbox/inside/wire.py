"""The frames that control plane and in-sandbox server exchange, on both sides of both transports.

A frame is header length and body length (4 bytes each, big endian), a JSON object in UTF-8, then raw bytes. A request
is `{"id": n, "op": name, ...}`, n >= 1, and may be continued by frames `{"id": n, "more": true|false}` where its first
header says `"more": true`. Replies carry the request's id: any number of `{"id": n, "part": true}`, then one final
`{"id": n, "ok": true, ...}` or `{"id": n, "ok": false, "error": kind, "message": text}`. The server's first frame has
id 0 and `"ready": true`. Replies of different requests interleave; the frames of one keep their order.
"""

from __future__ import annotations

VERSION = 1
HEADER_LIMIT = 256 << 10
BODY_LIMIT = 1 << 20
CHUNK = 256 << 10

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
    Header: TypeAlias = "dict[str, Json]"


class WireError(Exception):
    """The other side sent what the protocol does not allow."""


def _refuse(value: object) -> object:
    raise TypeError(f"not JSON: {value!r}")


class _ScannerOptions:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - the C scanner reads it as an attribute

    @staticmethod
    def parse_constant(name: str) -> object:
        raise ValueError(name)


def _codec() -> tuple[Callable[[object], str], Callable[[str], object]]:
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner

        chunks = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
        scan = make_scanner(_ScannerOptions())  # type: ignore[arg-type] # typeshed names the result, not the argument
        if "".join(chunks({"a": [1, None]}, 0)) != '{"a":[1,null]}':
            raise TypeError("encoder")

        def decode(text: str) -> object:
            value, end = scan(text, 0)
            if text[end:].strip():
                raise ValueError("trailing text")
            return value

        return (lambda value: "".join(chunks(value, 0))), decode
    except (ImportError, TypeError):
        import json

        return (lambda value: json.dumps(value, separators=(",", ":"), allow_nan=False)), json.loads


dumps, loads = _codec()


def encode(header: Header, body: bytes = b"") -> bytes:
    """One frame. Raises `WireError` where a limit is exceeded: callers cut bodies into `CHUNK`s before."""
    head = dumps(header).encode()
    if len(head) > HEADER_LIMIT or len(body) > BODY_LIMIT:
        raise WireError("frame too large: %d + %d bytes" % (len(head), len(body)))
    return len(head).to_bytes(4, "big") + len(body).to_bytes(4, "big") + head + body


def decode_header(text: bytes) -> Header:
    """A header's JSON object, or `WireError`."""
    try:
        value = loads(text.decode())
    except (ValueError, StopIteration, RecursionError) as error:
        raise WireError("header is not JSON") from error
    if not isinstance(value, dict):
        raise WireError("header is not an object")
    return value


def check_lengths(head: int, body: int) -> None:
    """Refuse a frame by its announced lengths, before a byte of it is kept."""
    if head > HEADER_LIMIT or body > BODY_LIMIT or head < 2:
        raise WireError("frame lengths %d + %d are out of bounds" % (head, body))


class Decoder:
    """Frames out of a byte stream. Holds at most one frame and what one read brought."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """The frames completed by `data`. Raises `WireError`; the stream is then unusable."""
        pending = self._pending
        pending += data
        frames = []
        while len(pending) >= 8:
            head, body = int.from_bytes(pending[:4], "big"), int.from_bytes(pending[4:8], "big")
            check_lengths(head, body)
            end = 8 + head + body
            if len(pending) < end:
                break
            frames.append((decode_header(bytes(pending[8 : 8 + head])), bytes(pending[8 + head : end])))
            del pending[:end]
        return frames

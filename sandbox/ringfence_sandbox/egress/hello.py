"""What a TLS client says first, read without opening the connection: the server name, and whether it hides another.

Pure: bytes in, `ClientHello` or refusal out. Sources: RFC 8446 (records, ClientHello), RFC 6066 section 3
(server_name), RFC 9849 (encrypted client hello). Anything out of form is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hosts import canonical_host

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HIDDEN_NAMES = frozenset({0xFE0D, 0xFFCE})  # encrypted_client_hello and the drafts' encrypted_server_name
_RECORD_BYTES = 1 << 14
_RECORDS = 16
"""A ClientHello in more pieces than these is made to be dear: each piece that comes is read with all before it."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`server_name` in canonical form, "" where none was sent. `is_hidden`: an extension may carry another name."""

    server_name: str
    is_hidden: bool


class HelloReader:
    """Collects a ClientHello that may come in any number of pieces and records. For one connection."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._seen = bytearray()

    @property
    def seen(self) -> bytes:
        """All bytes fed so far, to be passed on unchanged."""
        return bytes(self._seen)

    def feed(self, data: bytes) -> ClientHello | None:
        """Take more bytes; None while the ClientHello is not whole. Raises `EgressRefusal` (content-refused)."""
        self._seen += data
        message = _handshake_bytes(bytes(self._seen))
        if len(message) >= 4:
            if message[0] != _CLIENT_HELLO:
                raise _refused("the first TLS message is not a ClientHello")
            size = int.from_bytes(message[1:4], "big")
            if size > self._limit_bytes:
                raise _refused("the ClientHello is too large")
            if len(message) > 4 + size:
                raise _refused("something follows the ClientHello in its record")
            if len(message) == 4 + size:
                return _parse(message[4:])
        if len(self._seen) > self._limit_bytes:
            raise _refused("the ClientHello is too large")
        return None


def check_hello(hello: ClientHello, host: str, *, is_address: bool) -> None:
    """The server name must be the host of the CONNECT. Raises `EgressRefusal` (content-refused)."""
    if hello.is_hidden:
        raise _refused("an encrypted client hello hides where the connection goes; switch it off")
    if hello.server_name != host and not (is_address and not hello.server_name):
        named = f"names {hello.server_name}" if hello.server_name else "names no server"
        raise _refused(f"the TLS handshake {named}, but CONNECT was for {host}")


def _handshake_bytes(data: bytes) -> bytes:
    """The handshake bytes of the records that have arrived; stops after the message that the first ones announce."""
    message = bytearray()
    at = 0
    records = 0
    while at < len(data):
        records += 1
        if records > _RECORDS:
            raise _refused("the ClientHello comes in too many records")
        if data[at] != _HANDSHAKE_RECORD:
            raise _refused("it is not TLS")
        if len(data) < at + 5:
            if len(data) > at + 1 and data[at + 1] != 3:
                raise _refused("it is not TLS")
            break
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at + 1] != 3 or not 0 < size <= _RECORD_BYTES:
            raise _refused("it is not TLS")
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            break
    return bytes(message)


class _Cursor:
    """Walks length-prefixed fields; a field that runs over its end is refused."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise _refused("the ClientHello is malformed")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def field(self, prefix: int) -> bytes:
        return self.take(self.number(prefix))


def _parse(body: bytes) -> ClientHello:
    cursor = _Cursor(body)
    cursor.take(2 + 32)  # legacy_version, random
    cursor.field(1)  # legacy_session_id
    cursor.field(2)  # cipher_suites
    cursor.field(1)  # legacy_compression_methods
    if cursor.is_done:
        return ClientHello("", is_hidden=False)
    extensions = _Cursor(cursor.field(2))
    if not cursor.is_done:
        raise _refused("the ClientHello is malformed")
    name = ""
    kinds: set[int] = set()
    while not extensions.is_done:
        kind, data = extensions.number(2), extensions.field(2)
        if kind in kinds:
            raise _refused("the ClientHello repeats an extension")
        kinds.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(data)
    return ClientHello(name, is_hidden=bool(kinds & _HIDDEN_NAMES))


def _server_name(data: bytes) -> str:
    cursor = _Cursor(data)
    names = _Cursor(cursor.field(2))
    kind, name = names.number(1), names.field(2)
    if kind != 0 or not names.is_done or not cursor.is_done or not name.isascii():
        raise _refused("the server name is not one DNS name")
    try:
        return canonical_host(name.decode("ascii"))
    except EgressRefusal as error:
        raise _refused("the server name is not a DNS name") from error


def _refused(reason: str) -> EgressRefusal:
    return EgressRefusal(Code.CONTENT_REFUSED, reason)

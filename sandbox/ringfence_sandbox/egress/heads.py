"""Reads the head of a request so that there is one meaning to it, or refuses it.

Pure. What leaves is written anew from the values here, never copied, so that no second reading of the sandbox's bytes
(request smuggling) reaches a server. Sources: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import h11

from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hosts import Authority, parse_authority

Header = tuple[bytes, bytes]

DEFAULT_PORTS = {"http": 80, "https": 443}
_NOT_PASSED = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"host",
        b"content-length",
        b"expect",
        b"forwarded",
        b"via",
        # Some servers read another method, host or path than a rule has judged from these.
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-forwarded-host",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
_METHOD = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_UNSAFE = re.compile(rb"[\x00-\x1f\x7f\\]")
_FORBIDDEN_METHODS = frozenset({"TRACE", "TRACK", "CONNECT"})


@dataclass(frozen=True, slots=True)
class Head:
    """A request as it will be sent. `target` is in origin form; `headers` hold no Host, framing or hop-by-hop field.

    `body_bytes` is None for a chunked body, 0 for none. `is_websocket`: it asks to go on as a websocket.
    """

    method: str
    authority: Authority
    target: str
    headers: tuple[Header, ...]
    body_bytes: int | None
    is_websocket: bool

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


def connect_authority(request: h11.Request) -> Authority:
    """Where a CONNECT wants to go. Raises `EgressRefusal` (malformed)."""
    authority = parse_authority(_text(request.target))
    if _framing(request) != 0:
        raise _malformed("a CONNECT carries no body")
    named = _values(request, b"host")
    # Some clients name only the host; a port that is there must be the same.
    if named and parse_authority(_text(named[0]), default_port=authority.port) != authority:
        raise _malformed("the Host header differs from the CONNECT target")
    return authority


def absolute_head(request: h11.Request) -> Head:
    """A plain HTTP request to a proxy, `GET http://host/path`. Raises `EgressRefusal` (malformed)."""
    target = _text(request.target)
    scheme, separator, rest = target.partition("://")
    if not separator:
        raise _malformed("a proxy is asked with a whole URL, or with CONNECT")
    if scheme.lower() != "http":
        raise _malformed(f"a {scheme[:10]} URL is fetched with CONNECT, not by naming it to the proxy")
    end = next((i for i, sign in enumerate(rest) if sign in "/?#"), len(rest))
    authority = parse_authority(rest[:end], default_port=80)
    path = rest[end:]
    return _head(request, authority, path if path.startswith("/") else "/" + path, scheme="http")


def origin_head(request: h11.Request, authority: Authority, *, scheme: str) -> Head:
    """A request inside a CONNECT that the proxy has opened: the Host must be the CONNECT's. Raises `EgressRefusal`."""
    target = _text(request.target)
    if not target.startswith("/"):
        raise _malformed("inside a CONNECT a request names a path")
    if not _values(request, b"host"):
        raise _malformed("there is no Host header")
    return _head(request, authority, target, scheme=scheme)


def _head(request: h11.Request, authority: Authority, target: str, *, scheme: str) -> Head:
    method = _text(request.method)
    if not _METHOD.fullmatch(method) or method in _FORBIDDEN_METHODS:
        raise _malformed(f"the method {method[:20]!r} does not pass")
    for value in _values(request, b"host"):
        if parse_authority(_text(value), default_port=DEFAULT_PORTS[scheme]) != authority:
            raise _malformed("the Host header differs from where the request goes")
    check_target(target)
    return Head(
        method=method,
        authority=authority,
        target=target,
        headers=end_to_end(request.headers),
        body_bytes=_framing(request),
        is_websocket=_is_websocket(request, method),
    )


def check_target(target: str) -> None:
    """Refuse a target that a server may read as another path than a rule does. Raises `EgressRefusal`."""
    if "#" in target:
        raise _malformed("a fragment does not belong in a request")
    path = target.partition("?")[0].encode("ascii")
    while (decoded := unquote_to_bytes(path)) != path:
        path = decoded
    if _UNSAFE.search(path):
        raise _malformed("the path holds a control character or backslash")
    if any(segment.partition(b";")[0] in (b".", b"..") for segment in path.split(b"/")):
        raise _malformed("the path holds a dot segment")


def end_to_end(headers: Iterable[Header]) -> tuple[Header, ...]:
    """The headers that go through: none that concern one connection only, nor those that a Connection header lists."""
    listed: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            listed |= {token.strip().lower() for token in value.split(b",")}
    return tuple((name, value) for name, value in headers if name not in _NOT_PASSED and name not in listed)


def _is_websocket(request: h11.Request, method: str) -> bool:
    tokens = {t.strip().lower() for value in _values(request, b"connection") for t in value.split(b",")}
    upgrades = [value.strip().lower() for value in _values(request, b"upgrade")]
    return method == "GET" and b"upgrade" in tokens and upgrades == [b"websocket"]


def _framing(request: h11.Request) -> int | None:
    """Body length, None for chunked. h11 has refused differing lengths and other codings already."""
    lengths = _values(request, b"content-length")
    codings = _values(request, b"transfer-encoding")
    if codings and (lengths or request.http_version < b"1.1"):
        raise _malformed("the length of its body can be read in two ways")
    if codings:
        return None
    return int(lengths[0]) if lengths else 0


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for key, value in request.headers if key == name]


def _text(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise _malformed("it holds bytes outside ASCII") from error


def _malformed(reason: str) -> EgressRefusal:
    return EgressRefusal(Code.MALFORMED, f"The request is refused: {reason}")

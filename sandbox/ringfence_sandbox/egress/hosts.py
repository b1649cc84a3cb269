"""One spelling for every host: what the policy judges is exactly what is resolved, connected and compared.

Pure. A host is a lower-case ASCII DNS name without trailing dot (RFC 5891 A-labels), or an IP address in its canonical
text form. Spellings that a resolver would read as an address and a rule would not (`127.1`, `0x7f.0.0.1`,
`2130706433`) are refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import idna

from ringfence_sandbox.egress.errors import Code, EgressRefusal

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[0-9]{1,5}")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Authority:
    """A host in canonical form and a port from 1 to 65535."""

    host: str
    port: int

    @property
    def address(self) -> IpAddress | None:
        """The address where the host is written as one."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def text(self, default_port: int | None = None) -> str:
        """`host:port`, IPv6 in brackets, the port left out where it is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == default_port else f"{host}:{self.port}"


def parse_authority(text: str, *, default_port: int | None = None) -> Authority:
    """Read `host[:port]` as in a request target or Host header. Raises `EgressRefusal` (malformed)."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in inside:
            raise _malformed(text, "the brackets do not hold an IPv6 address")
        return Authority(_canonical_ipv6(inside), _port(text, rest, default_port))
    host, colon, port = text.partition(":")
    return Authority(canonical_host(host), _port(text, colon + port, default_port))


def canonical_host(text: str) -> str:
    """The one spelling of a host name or address. Raises `EgressRefusal` (malformed)."""
    if ":" in text:
        return _canonical_ipv6(text)
    name = _to_ascii(text).lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _malformed(text, "it is not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        return _canonical_ipv4(name)
    if any(label.startswith("xn--") for label in labels):
        _check_a_labels(text, labels)
    return name


def _to_ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return idna.encode(text, uts46=True, transitional=False).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise _malformed(text, "it is not a valid international name") from error


def _check_a_labels(text: str, labels: list[str]) -> None:
    for label in labels:
        if label.startswith("xn--"):
            try:
                idna.ulabel(label)
            except (idna.IDNAError, UnicodeError) as error:
                raise _malformed(text, "one of its labels is not valid IDNA") from error


def _canonical_ipv4(name: str) -> str:
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError as error:
        raise _malformed(name, "an IPv4 address is written as four decimal numbers") from error


def _canonical_ipv6(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError("zone")
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise _malformed(text, "it is not an IPv6 address") from error


def _port(text: str, rest: str, default_port: int | None) -> int:
    if not rest and default_port is not None:
        return default_port
    digits = rest.removeprefix(":")
    if not rest.startswith(":") or not _PORT.fullmatch(digits) or not 1 <= int(digits) <= 65535:
        raise _malformed(text, "a port from 1 to 65535 must follow")
    return int(digits)


def _malformed(text: str, why: str) -> EgressRefusal:
    return EgressRefusal(Code.MALFORMED, f"{text[:100]!r} is no host that can be reached: {why}")

"""Hosts in one form: ASCII, lower case, no trailing dot, numbers as dotted quads.

Rules, grants, the proxy and the card must all speak of the same host; a name that a person cannot tell from another
is said to look like that other. Pure, no lookups. IDNA 2008 with UTS 46 mapping through `idna`; lookalikes through
the Unicode confusables table.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from dataclasses import dataclass

import idna

MAX_HOST = 253
_PLAIN = re.compile(r"^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$")
_NUMERIC = re.compile(r"^(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+)){0,3}$")
_DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": "."})


class HostInvalid(ValueError):
    """The text is no host name or address. Whoever reads hosts from hostile text must treat it as unreadable."""


@dataclass(frozen=True, slots=True)
class Host:
    """`ascii` is what is compared and connected to; `looks_like` is the ASCII name a person may take it for, or ""."""

    ascii: str
    looks_like: str = ""
    is_disguised_address: bool = False
    """An IP address written so that people do not see it as one (`0x7f.1`, `2130706433`)."""


def read_host(text: str) -> Host:
    """Bring a host into the one form. Raises `HostInvalid`."""
    if not text or len(text) > 4 * MAX_HOST:
        raise HostInvalid("a host has 1 to 253 characters")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        address = _address(bare.split("%", 1)[0])
        return Host(address, is_disguised_address=":" not in address)
    lowered = unicodedata.normalize("NFKC", bare.translate(_DOTS)).lower().removesuffix(".")
    if _NUMERIC.match(lowered):
        return _numeric(lowered)
    name = lowered if _PLAIN.match(lowered) else _to_ascii(bare)
    if len(name) > MAX_HOST or ".." in name or not _PLAIN.match(name):
        raise HostInvalid("not a host name")
    return Host(name, looks_like=_lookalike(name) if "xn--" in name else "")


def resource_of(host: str, port: int) -> str:
    """The `resource` of a network access: `host:port`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_resource(resource: str) -> tuple[str, int]:
    """Undo `resource_of`. Raises `HostInvalid`."""
    host, colon, port = resource.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise HostInvalid("a network resource is host:port")
    return read_host(host).ascii, int(port)


def _address(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise HostInvalid("not an IPv6 address") from error
    # ::ffff:10.0.0.1 reaches 10.0.0.1: one host, one name.
    return str(address.ipv4_mapped or address)


def _numeric(text: str) -> Host:
    try:
        plain = str(ipaddress.IPv4Address(socket.inet_aton(text)))
    except (OSError, ValueError) as error:
        raise HostInvalid("not an IPv4 address") from error
    return Host(plain, looks_like="", is_disguised_address=plain != text)


def _to_ascii(text: str) -> str:
    try:
        return idna.encode(text.translate(_DOTS).removesuffix("."), uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise HostInvalid("not a host name in any alphabet") from error


def _lookalike(name: str) -> str:
    """The ASCII name that an internationalised one can be taken for, "" where no letter has a Latin double."""
    # The table takes tens of milliseconds to load, and hardly any host needs it.
    from confusable_homoglyphs import confusables  # type: ignore[import-untyped]  # it ships no types

    try:
        shown = idna.decode(name)
    except (idna.IDNAError, UnicodeError):
        return ""
    seen = []
    for letter in shown:
        if letter.isascii():
            seen.append(letter)
            continue
        decomposed = unicodedata.normalize("NFKD", letter)[0]
        found = confusables.is_confusable(letter, greedy=True, preferred_aliases=[])
        doubles: list[str] = [str(twin["c"]) for hit in (found or []) for twin in hit["homoglyphs"]]
        ascii_twin = next((c for c in doubles if c.isascii() and c.isalnum()), "")
        seen.append(ascii_twin or (decomposed if decomposed.isascii() else letter))
    twin_name = "".join(seen).lower()
    return twin_name if twin_name.isascii() and twin_name != name else ""

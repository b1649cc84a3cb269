"""Where an address leads. Judged after resolution, on the address that is then connected, so rebinding gains nothing.

Pure. Sources: the IANA special-purpose registries (RFC 6890) and the clouds' documented metadata endpoints.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from ringfence_sandbox.egress.hosts import IpAddress


class Reach(StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"
    """Inside the company or the machine: only where the profile says so."""
    NEVER = "never"
    """Metadata, link-local, multicast, unspecified, reserved: whatever anybody says."""


@dataclass(frozen=True, slots=True)
class Place:
    """`kind` names what the address is, in one or two words."""

    reach: Reach
    kind: str


_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
    )
)
_EMBEDDING = (
    # prefix, bits to shift right to reach the embedded IPv4 address, and the kind's name
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0, "IPv4-mapped"),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0, "IPv4-translated"),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0, "NAT64"),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0, "NAT64"),
    (ipaddress.IPv6Network("2002::/16"), 80, "6to4"),
    (ipaddress.IPv6Network("::/96"), 0, "IPv4-compatible"),
)
_TEREDO = ipaddress.IPv6Network("2001::/32")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")
_BENCHMARK = ipaddress.IPv4Network("198.18.0.0/15")


def place(address: IpAddress) -> Place:
    """Where this address leads."""
    if address in _METADATA:
        return Place(Reach.NEVER, "metadata")
    if address.is_link_local:
        return Place(Reach.NEVER, "link-local")
    if address.is_multicast:
        return Place(Reach.NEVER, "multicast")
    if address.is_unspecified:
        return Place(Reach.NEVER, "unspecified")
    if address.is_loopback:
        return Place(Reach.PRIVATE, "loopback")
    if isinstance(address, ipaddress.IPv6Address):
        return _place_ipv6(address)
    if address.is_reserved:
        return Place(Reach.NEVER, "reserved")
    if not address.is_global or address in _BENCHMARK:
        return Place(Reach.PRIVATE, "private")
    return Place(Reach.PUBLIC, "public")


def _place_ipv6(address: ipaddress.IPv6Address) -> Place:
    for network, shift, kind in _EMBEDDING:
        if address in network:
            inner = place(ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF))
            if inner.reach is Reach.NEVER:
                return Place(Reach.NEVER, f"{kind} {inner.kind}")
            return Place(Reach.PRIVATE, kind)
    if address in _TEREDO:
        return Place(Reach.NEVER, "Teredo")
    if address in _SITE_LOCAL or not address.is_global:
        return Place(Reach.PRIVATE, "private")
    return Place(Reach.PUBLIC, "public")

"""The proxy as a service of its own: one TCP listener for many sandboxes, as a cluster runs it.

A connection is served only with the sandbox's own credential *and* from an address that belongs to that sandbox: a
credential that was carried elsewhere opens nothing. Clients send it as `http://SANDBOX:TOKEN@proxy:port`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import h11

from ringfence_sandbox.contract import EgressGatekeeper, SandboxId
from ringfence_sandbox.egress.connections import Identity
from ringfence_sandbox.egress.errors import Code, EgressRefusal, ListenerRefused
from ringfence_sandbox.egress.hosts import IpAddress
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.proxy import AuthorityOf, EgressProxy, Observer, accept
from ringfence_sandbox.egress.quota import Seats
from ringfence_sandbox.egress.settings import EgressSettings

_SANDBOX = re.compile(r"[a-z][a-z0-9-]{0,39}")
_TOKEN_BYTES = 1024


class Identities(Protocol):
    """Says who is who. What it raises, or does not answer in time, refuses the connection."""

    async def is_theirs(self, sandbox: SandboxId, token: str, address: IpAddress) -> bool:
        """Whether this is the sandbox's credential, and the address its own. Compare in constant time."""


@dataclass(frozen=True, slots=True)
class KnownSandbox:
    """A sandbox as `StaticIdentities` knows it: SHA-256 (hex) of its token, and where it may come from."""

    token_sha256: str
    sources: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


class StaticIdentities:
    """Identities from a table, for a handful of sandboxes that are known beforehand. The table may change."""

    def __init__(self, sandboxes: Mapping[SandboxId, KnownSandbox]) -> None:
        self._sandboxes = sandboxes

    async def is_theirs(self, sandbox: SandboxId, token: str, address: IpAddress) -> bool:
        known = self._sandboxes.get(sandbox)
        digest = hashlib.sha256(token.encode()).hexdigest()
        # Compared also where the sandbox is unknown, so that the time says nothing.
        is_same = hmac.compare_digest(digest, known.token_sha256 if known else hashlib.sha256(b"").hexdigest())
        return is_same and known is not None and any(address in network for network in known.sources)


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """What the rooms above put into a service that runs by itself (`python -m ringfence_sandbox.egress`)."""

    gatekeeper: EgressGatekeeper
    identities: Identities
    authority_of: AuthorityOf = field(default=lambda _: None)
    observer: Observer | None = None
    settings: EgressSettings = field(default_factory=EgressSettings)
    limits: EgressLimits = field(default_factory=EgressLimits)


class EgressService:
    """Serves one listener. `connections` bounds what is open before and after it is known whose it is."""

    def __init__(self, proxy: EgressProxy, identities: Identities, *, connections: int = 4096) -> None:
        self._proxy = proxy
        self._identities = identities
        self._seats = Seats(connections)
        self._log = logging.getLogger("ringfence.egress")

    async def serve(self, listener: socket.socket) -> None:
        """Accept until cancelled or the listener is closed. The caller owns the listener. Raises `ListenerRefused`."""
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenerRefused("the service's socket does not listen")
        listener.setblocking(False)
        async with self._proxy.watching(), asyncio.TaskGroup() as group:
            while (sock := await accept(listener)) is not None:
                if self._seats.take():
                    group.create_task(self._one(sock))
                else:
                    sock.close()

    async def _one(self, sock: socket.socket) -> None:
        held: list[Seats] = []

        async def identify(request: h11.Request) -> Identity:
            sandbox = await self._identified(request, source)
            quota = self._proxy.quota(sandbox)
            if not quota.connections.take():
                raise EgressRefusal(Code.BUSY, "Too many connections are open at once", instead="close some first")
            held.append(quota.connections)
            return Identity(sandbox, quota)

        try:
            source = _source(sock)
            await self._proxy.run(sock, self._proxy.parts(identify), self._seats)
        except OSError:
            sock.close()  # gone before it could be asked where it came from
            self._seats.give()
        finally:
            for seats in held:
                seats.give()

    async def _identified(self, request: h11.Request, source: IpAddress) -> SandboxId:
        claimed, token = _credential(request)
        try:
            async with asyncio.timeout(self._proxy.limits.admit_s):
                is_here = await self._identities.is_theirs(claimed, token, source)
        except Exception as error:
            raise _unknown() from error
        if not is_here:
            self._log.warning("a connection from %s that claims to be %s is refused", source, claimed)
            raise _unknown()
        return claimed


def _credential(request: h11.Request) -> tuple[SandboxId, str]:
    values = [value for name, value in request.headers if name == b"proxy-authorization"]
    if len(values) != 1:
        raise _unknown()
    scheme, _, encoded = values[0].partition(b" ")
    try:
        name, _, token = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError) as error:
        raise _unknown() from error
    if scheme.lower() != b"basic" or not _SANDBOX.fullmatch(name) or not 0 < len(token) <= _TOKEN_BYTES:
        raise _unknown()
    return SandboxId(name), token


def _source(sock: socket.socket) -> IpAddress:
    address = ipaddress.ip_address(str(sock.getpeername()[0]).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _unknown() -> EgressRefusal:
    # One answer for a missing, wrong or misplaced credential: it tells an attacker nothing.
    return EgressRefusal(Code.NOT_IDENTIFIED, "This proxy serves sandboxes: its own credential, from its own address")

"""Opens the connection to the outside: to an address that was resolved and judged here, or through a company's proxy.

On the path of an egress this comes after the gatekeeper's entry is durable and never before.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11
from cryptography import x509

from ringfence_sandbox.egress.addresses import Place, Reach, place
from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hosts import Authority, IpAddress
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.resolver import Resolver
from ringfence_sandbox.egress.streams import SocketStream, Stream, TlsStream

_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Upstream:
    """A company's own proxy. `credential` is `user:password` or "". Names are then resolved by it, not here.

    `direct` holds the hosts reached without it: a name, or `.suffix` for everything below.
    """

    authority: Authority
    is_tls: bool = False
    credential: str = field(default="", repr=False)
    direct: tuple[str, ...] = ()

    def covers(self, host: str) -> bool:
        """Whether this host is reached through the proxy."""
        return not any(host == name.removeprefix(".") or host.endswith("." + name.lstrip(".")) for name in self.direct)

    @property
    def header(self) -> tuple[tuple[bytes, bytes], ...]:
        """The Proxy-Authorization header, or nothing."""
        if not self.credential:
            return ()
        return ((b"proxy-authorization", b"Basic " + base64.b64encode(self.credential.encode())),)


class Dialer:
    """Connects for one proxy. Holds no connection itself."""

    def __init__(
        self,
        resolver: Resolver,
        limits: EgressLimits,
        *,
        upstream: Upstream | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver = resolver
        self._limits = limits
        self._upstream = upstream
        self._tls = tls or ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])

    def upstream_for(self, host: str) -> Upstream | None:
        return self._upstream if self._upstream is not None and self._upstream.covers(host) else None

    async def tunnel(self, authority: Authority, *, is_private_allowed: bool) -> Stream:
        """A byte stream to the host. The caller closes it. Raises `EgressRefusal`."""
        upstream = self.upstream_for(authority.host)
        if upstream is None:
            return await self._direct(authority, is_private_allowed=is_private_allowed)
        if authority.address is not None:
            _judge(authority, [authority.address], is_private_allowed=is_private_allowed)
        return await self._through(upstream, authority)

    async def plain_http(self, authority: Authority, *, is_private_allowed: bool) -> Stream:
        """A stream for one plain HTTP request: to the host, or to the company's proxy, which wants a whole URL."""
        upstream = self.upstream_for(authority.host)
        if upstream is None:
            return await self._direct(authority, is_private_allowed=is_private_allowed)
        if authority.address is not None:
            _judge(authority, [authority.address], is_private_allowed=is_private_allowed)
        return await self._to_upstream(upstream)

    async def tls(self, authority: Authority, *, is_private_allowed: bool) -> Stream:
        """A verified TLS stream to the host, HTTP/1.1 on it. The caller closes it. Raises `EgressRefusal`."""
        raw = await self.tunnel(authority, is_private_allowed=is_private_allowed)
        try:
            return await self._shake(raw, authority)
        except ssl.SSLCertVerificationError as error:
            raw.close()
            issuer = await self._issuer(authority, is_private_allowed=is_private_allowed)
            raise EgressRefusal(
                Code.TLS_UNVERIFIED,
                f"The certificate of {authority.host} does not verify ({error.verify_message}); {issuer}",
                instead="if that issuer is your company's, the platform team adds its CA to the egress settings",
            ) from error
        except BaseException:
            raw.close()
            raise

    async def _shake(self, raw: Stream, authority: Authority) -> Stream:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await TlsStream.handshake(raw, self._tls, server_hostname=authority.host)
        except ssl.SSLCertVerificationError:
            raise
        except TimeoutError as error:
            raise _timeout(f"{authority.host} did not finish its TLS handshake in time") from error
        except (ssl.SSLError, OSError) as error:
            raise EgressRefusal(Code.CONNECT_FAILED, f"The TLS handshake with {authority.host} failed") from error

    async def _issuer(self, authority: Authority, *, is_private_allowed: bool) -> str:
        """Who signed the certificate that did not verify: asked by a handshake that is then dropped unused."""
        blind = ssl.create_default_context()
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        raw = await self.tunnel(authority, is_private_allowed=is_private_allowed)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                stream = await TlsStream.handshake(raw, blind, server_hostname=authority.host)
            certificate = x509.load_der_x509_certificate(stream.peer_certificate())
            return f"it was issued by {certificate.issuer.rfc4514_string()[:200]}"
        except (OSError, ValueError):
            return "its issuer could not be read"
        finally:
            raw.close()

    async def _direct(self, authority: Authority, *, is_private_allowed: bool) -> Stream:
        addresses = await self._addresses(authority)
        usable = _judge(authority, addresses, is_private_allowed=is_private_allowed)
        return await self._connect(authority, usable)

    async def _addresses(self, authority: Authority) -> Sequence[IpAddress]:
        if authority.address is not None:
            return [authority.address]
        try:
            async with asyncio.timeout(self._limits.resolve_s):
                addresses = await self._resolver.resolve(authority.host)
        except TimeoutError as error:
            raise _timeout(f"The name {authority.host} was not resolved in time") from error
        except OSError as error:
            raise EgressRefusal(Code.NAME_UNKNOWN, f"The name {authority.host} could not be resolved") from error
        if not addresses:
            raise EgressRefusal(Code.NAME_UNKNOWN, f"There is no host named {authority.host}")
        return addresses

    async def _connect(self, authority: Authority, addresses: Sequence[IpAddress]) -> Stream:
        failure: OSError | None = None
        try:
            async with asyncio.timeout(self._limits.connect_s):
                for address in addresses[:_ATTEMPTS]:
                    try:
                        return await _connect_one(address, authority.port)
                    except OSError as error:
                        failure = error
        except TimeoutError as error:
            raise _timeout(f"{authority.text()} did not answer in time") from error
        why = (failure.strerror if failure else "") or "no connection"
        raise EgressRefusal(Code.CONNECT_FAILED, f"{authority.text()} could not be reached: {why}") from failure

    async def _to_upstream(self, upstream: Upstream) -> Stream:
        # The company's proxy is named in the settings by the operator, so its address may well be private.
        stream = await self._connect(upstream.authority, await self._addresses(upstream.authority))
        if not upstream.is_tls:
            return stream
        try:
            return await self._shake(stream, upstream.authority)
        except ssl.SSLCertVerificationError as error:
            stream.close()
            raise EgressRefusal(
                Code.TLS_UNVERIFIED, "The certificate of the company's proxy does not verify; set its CA"
            ) from error
        except BaseException:
            stream.close()
            raise

    async def _through(self, upstream: Upstream, authority: Authority) -> Stream:
        stream = await self._to_upstream(upstream)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                await _ask_connect(stream, upstream, authority)
        except TimeoutError as error:
            stream.close()
            raise _timeout(f"The company's proxy did not connect {authority.host} in time") from error
        except (OSError, h11.ProtocolError) as error:
            stream.close()
            raise EgressRefusal(Code.UPSTREAM_BROKEN, "The company's proxy broke off or answered nonsense") from error
        except BaseException:
            stream.close()
            raise
        return stream


def _judge(authority: Authority, addresses: Sequence[IpAddress], *, is_private_allowed: bool) -> Sequence[IpAddress]:
    """The addresses that may be connected, in order. Raises `EgressRefusal` where there is none."""
    places = [(address, _place_here(address)) for address in addresses]
    usable = [
        address
        for address, found in places
        if found.reach is Reach.PUBLIC or (found.reach is Reach.PRIVATE and is_private_allowed)
    ]
    if usable:
        return usable
    worst = next((found for _, found in places if found.reach is Reach.NEVER), places[0][1])
    instead = "" if worst.reach is Reach.NEVER else "a profile may mark this host as one inside the company"
    raise EgressRefusal(
        Code.ADDRESS_REFUSED,
        f"{authority.host} leads to a {worst.kind} address",
        rule=f"address:{worst.kind}",
        instead=instead,
    )


def _place_here(address: IpAddress) -> Place:
    found = place(address)
    if found.reach is Reach.PUBLIC and _is_own(address):
        return Place(Reach.PRIVATE, "this machine's own")
    return found


def _is_own(address: IpAddress) -> bool:
    """Whether it is an address of this machine: a datagram socket aimed at it gets it as source. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return str(probe.getsockname()[0]) == str(address)
    except OSError:
        return False  # there is no route to it, so connecting will say so


async def _connect_one(address: IpAddress, port: int) -> Stream:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        return SocketStream(sock)
    except BaseException:
        sock.close()
        raise


async def _ask_connect(stream: Stream, upstream: Upstream, authority: Authority) -> None:
    """CONNECT through the company's proxy. Raises `EgressRefusal` where it refuses."""
    wire = h11.Connection(h11.CLIENT)
    target = authority.text().encode("ascii")
    head = wire.send(h11.Request(method=b"CONNECT", target=target, headers=[(b"host", target), *upstream.header]))
    await stream.send(head or b"")
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await stream.receive())
        elif isinstance(event, h11.Response):
            break
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionError("closed before an answer")
    if not 200 <= event.status_code < 300:
        raise EgressRefusal(
            Code.UPSTREAM_BROKEN,
            f"The company's proxy refused {authority.text()} with status {event.status_code}",
            instead="the platform team's egress settings name that proxy and its credential",
        )
    if wire.trailing_data[0]:
        raise ConnectionError("bytes before the tunnel was asked for")


def _timeout(reason: str) -> EgressRefusal:
    return EgressRefusal(Code.TIMEOUT, reason)

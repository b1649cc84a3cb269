"""One connection of a sandbox to the proxy, from its first byte to its last.

On the path of an egress: read one head → one spelling → identify → admit (entry durable) → resolve, judge, connect →
carry → closed. Whatever does not pass is answered as JSON where an answer can still be given, and told to the observer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11

from ringfence_sandbox.contract import EgressRequest, SandboxId
from ringfence_sandbox.egress.admission import Admission, Admissions
from ringfence_sandbox.egress.authority import RunAuthority
from ringfence_sandbox.egress.dialer import Dialer
from ringfence_sandbox.egress.errors import Code, EgressRefusal, Refused, SandboxHungUp
from ringfence_sandbox.egress.exchange import Exchange, Secrets, injected_headers, request_out
from ringfence_sandbox.egress.heads import Head, absolute_head, connect_authority, origin_head
from ringfence_sandbox.egress.hello import HelloReader, check_hello
from ringfence_sandbox.egress.hosts import Authority
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.pipes import pipe
from ringfence_sandbox.egress.quota import MeteredStream, Quota
from ringfence_sandbox.egress.refusals import send_refusal
from ringfence_sandbox.egress.streams import PrefacedStream, Stream, TlsStream
from ringfence_sandbox.egress.wires import InsideWire

_TLS_HANDSHAKE = 0x16
_ALERT_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose connection it is, and what it has left."""

    sandbox: SandboxId
    quota: Quota


@dataclass(frozen=True, slots=True)
class Parts:
    """What every connection of a proxy is served with."""

    admissions: Admissions
    dialer: Dialer
    limits: EgressLimits
    authority_of: Callable[[SandboxId], RunAuthority | None]
    observe: Callable[[Refused], Awaitable[None]]
    new_id: Callable[[], str]
    identify: Callable[[h11.Request], Awaitable[Identity]]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A CONNECT whose content the proxy reads: where it goes, and with or without TLS to there."""

    authority: Authority
    scheme: str


class Connection:
    """Serves one accepted connection. Owns the stream."""

    def __init__(self, stream: Stream, parts: Parts) -> None:
        self._stream = stream
        self._parts = parts
        self._identity: Identity | None = None
        self._request: EgressRequest | None = None

    async def run(self) -> None:
        """Return when the connection is over, whatever the client does. Cancelling ends it at once."""
        try:
            async with asyncio.timeout(self._parts.limits.total_s):
                await self._serve(self._wire(self._stream), None)
        except (SandboxHungUp, TimeoutError):
            return  # nobody is left to answer, or its time is over; `closed` has been reported on the way here
        finally:
            self._stream.close()

    async def turn_away(self) -> None:
        """Say that there is no room, and close."""
        refusal = EgressRefusal(Code.BUSY, "Too many connections are open at once", instead="close some first")
        try:
            await send_refusal(self._wire(self._stream), refusal, None, goes_on=False)
        except SandboxHungUp:
            return
        finally:
            self._stream.close()

    def _wire(self, stream: Stream) -> InsideWire:
        limits = self._parts.limits
        return InsideWire(stream, head_bytes=limits.head_bytes, head_s=limits.head_s, idle_s=limits.idle_s)

    async def _serve(self, wire: InsideWire, opened: _Opened | None) -> None:
        while True:
            self._request = None
            try:
                request = await wire.next_request()
                if request is None:
                    return
                await self._one(wire, request, opened)
            except EgressRefusal as refusal:
                if not await self._answer(wire, refusal):
                    return
            if not wire.next_cycle():
                return

    async def _one(self, wire: InsideWire, request: h11.Request, opened: _Opened | None) -> None:
        identity = await self._identify(request)
        await identity.quota.requests.take(1)
        if opened is not None:
            await self._forward(wire, origin_head(request, opened.authority, scheme=opened.scheme), opened.scheme)
        elif request.method == b"CONNECT":
            await self._connect(wire, connect_authority(request))
        else:
            await self._forward(wire, absolute_head(request), "http")

    async def _identify(self, request: h11.Request) -> Identity:
        if self._identity is None:
            self._identity = await self._parts.identify(request)
        return self._identity

    def _ask(
        self, authority: Authority, method: str, head: Head | None = None, *, is_plain: bool = False
    ) -> EgressRequest:
        assert self._identity is not None  # noqa: S101 every request is identified before it is asked for
        self._request = EgressRequest(
            sandbox=self._identity.sandbox,
            id=self._parts.new_id(),
            host=authority.host,
            port=authority.port,
            method=method,
            path=head.path if head else "",
            query=head.query if head else "",
            is_plain=is_plain,
        )
        return self._request

    # Plain and opened HTTP

    async def _forward(self, wire: InsideWire, head: Head, scheme: str) -> None:
        asked = self._ask(head.authority, head.method, head, is_plain=scheme == "http")
        async with self._parts.admissions.admitted(asked) as admission:
            injected = injected_headers(admission.verdict)
            if injected and scheme == "http" and not admission.verdict.is_private_allowed:
                raise EgressRefusal(
                    Code.CONTENT_REFUSED,
                    f"A credential for {head.authority.host} is not sent over plain HTTP",
                    instead="use https",
                )
            upstream = self._parts.dialer.upstream_for(head.authority.host) if scheme == "http" else None
            outside = await self._open(head.authority, scheme, admission)
            try:
                out = request_out(
                    head, scheme=scheme, injected=injected, upstream_headers=upstream.header if upstream else None
                )
                exchange = Exchange(wire, self._metered(outside, admission), idle_s=self._parts.limits.idle_s)
                await exchange.run(out, secrets=Secrets.of(injected))
            finally:
                outside.close()

    async def _open(self, authority: Authority, scheme: str, admission: Admission) -> Stream:
        dialer, is_private_allowed = self._parts.dialer, admission.verdict.is_private_allowed
        if scheme == "https":
            return await dialer.tls(authority, is_private_allowed=is_private_allowed)
        return await dialer.plain_http(authority, is_private_allowed=is_private_allowed)

    def _metered(self, outside: Stream, admission: Admission) -> Stream:
        assert self._identity is not None  # noqa: S101 as in _ask
        return MeteredStream(outside, admission.meter, self._identity.quota)

    # CONNECT

    async def _connect(self, wire: InsideWire, authority: Authority) -> None:
        await wire.next_event()  # the end of a body that CONNECT does not have
        async with self._parts.admissions.admitted(self._ask(authority, "CONNECT")) as admission:
            if admission.verdict.ends_tls or admission.verdict.headers:
                await self._end_tls(wire, authority)
                return
            outside = await self._parts.dialer.tunnel(
                authority, is_private_allowed=admission.verdict.is_private_allowed
            )
            try:
                inside = await self._switch(wire)
                first = b"" if admission.verdict.is_plain_allowed else await self._first(inside)
                if admission.verdict.is_plain_allowed or first[:1] == bytes([_TLS_HANDSHAKE]):
                    if first:
                        first = await self._checked_hello(inside, first, authority)
                    await self._pass(PrefacedStream(first, inside), self._metered(outside, admission))
                    return
            finally:
                outside.close()
            # Not TLS: perhaps HTTP without it, which some clients send through CONNECT too. Then it is read as such.
            await self._serve(self._wire(PrefacedStream(first, inside)), _Opened(authority, "http"))

    async def _end_tls(self, wire: InsideWire, authority: Authority) -> None:
        assert self._identity is not None  # noqa: S101 as in _ask
        run_authority = self._parts.authority_of(self._identity.sandbox)
        if run_authority is None:
            raise EgressRefusal(Code.NOT_ADMITTED, f"There is no authority to open TLS to {authority.host} with")
        inside = await self._switch(wire)
        first = await self._checked_hello(inside, await self._first(inside), authority)
        try:
            async with asyncio.timeout(self._parts.limits.hello_s):
                tls = await TlsStream.handshake(inside, run_authority.server_context(authority.host), preface=first)
        except (ssl.SSLError, OSError) as error:
            # Most often a client that does not trust the run's CA: the observer's line is what helps then.
            raise EgressRefusal(
                Code.CONTENT_REFUSED, f"The client gave up the TLS handshake that the proxy ends for {authority.host}"
            ) from error
        await self._serve(self._wire(tls), _Opened(authority, "https"))
        await tls.send_eof()

    async def _switch(self, wire: InsideWire) -> Stream:
        await wire.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        return PrefacedStream(wire.http.trailing_data[0], wire.stream)

    async def _first(self, inside: Stream) -> bytes:
        try:
            async with asyncio.timeout(self._parts.limits.hello_s):
                first = await inside.receive()
        except OSError as error:
            raise SandboxHungUp("nothing came through the tunnel") from error
        if not first:
            raise SandboxHungUp("the tunnel was closed unused")
        return first

    async def _checked_hello(self, inside: Stream, first: bytes, authority: Authority) -> bytes:
        """All bytes up to and with the ClientHello, once its server name is the CONNECT's."""
        reader = HelloReader(self._parts.limits.hello_bytes)
        try:
            async with asyncio.timeout(self._parts.limits.hello_s):
                hello = reader.feed(first)
                while hello is None:
                    hello = reader.feed(await self._first(inside))
            check_hello(hello, authority.host, is_address=authority.address is not None)
        except TimeoutError as error:
            raise SandboxHungUp("the TLS handshake stopped") from error
        except EgressRefusal:
            with contextlib.suppress(OSError):  # the alert is a courtesy; the refusal stands without it
                await inside.send(_ALERT_UNRECOGNIZED_NAME)
            raise
        return reader.seen

    async def _pass(self, inside: Stream, outside: Stream) -> None:
        try:
            await pipe(inside, outside, idle_s=self._parts.limits.idle_s)
        except OSError as error:
            raise SandboxHungUp("the tunnel broke off or fell silent") from error

    # Refusals

    async def _answer(self, wire: InsideWire, refusal: EgressRefusal) -> bool:
        """Tell the observer, and the client where that can be done. True where the connection may go on."""
        if self._identity is not None:
            await self._parts.observe(
                Refused(self._identity.sandbox, refusal.code, refusal.reason, refusal.rule, self._request)
            )
        if wire.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False  # a response has begun, or the bytes belong to somebody else by now
        where = Authority(self._request.host, self._request.port) if self._request else None
        # An unread body, or bytes that could not be read as a request: what follows has no certain meaning.
        goes_on = refusal.code is not Code.MALFORMED and wire.is_request_read()
        await send_refusal(wire, refusal, where, goes_on=goes_on)
        return goes_on

"""The egress proxy: the only way out of a sandbox.

It runs on the host, outside every sandbox, and accepts on a listener that lives in the sandbox's own network namespace.
It asks the gatekeeper before anything leaves, resolves names itself, and opens TLS only where a profile says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias, runtime_checkable

import h11

from ringfence_sandbox.contract import EgressGatekeeper, EgressRequest, SandboxId
from ringfence_sandbox.egress.admission import Admissions
from ringfence_sandbox.egress.authority import RunAuthority
from ringfence_sandbox.egress.connections import Connection, Identity, Parts
from ringfence_sandbox.egress.dialer import Dialer, Upstream
from ringfence_sandbox.egress.errors import Refused
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.listeners import check_listener
from ringfence_sandbox.egress.quota import Quota, Seats
from ringfence_sandbox.egress.resolver import Resolver, SystemResolver
from ringfence_sandbox.egress.streams import SocketStream

AuthorityOf: TypeAlias = Callable[[SandboxId], RunAuthority | None]
Identify: TypeAlias = Callable[[h11.Request], Awaitable[SandboxId]]
Observer: TypeAlias = Callable[[Refused], Awaitable[None]]

_END_S = 1.5
_ACCEPT_PAUSE_S = 0.1


@runtime_checkable
class WitnessingGatekeeper(EgressGatekeeper, Protocol):
    """A gatekeeper that also keeps what was refused."""

    async def refused(self, refused: Refused) -> None: ...


class EgressProxy:
    """Serves any number of sandboxes; each has limits of its own.

    `ca` is the run's authority, or a function that gives each sandbox's; without it, hosts whose TLS would have to be
    opened are refused. `upstream` is a company's proxy, `tls` the client context that trusts a company's CA.
    Every refusal is told, also those that the gatekeeper cannot know (a wrong server name, a private address, malformed
    HTTP): to `observer`, or to the gatekeeper where it is a `WitnessingGatekeeper`. What that raises is logged and
    changes nothing: the request is refused either way.
    """

    def __init__(
        self,
        gatekeeper: EgressGatekeeper,
        *,
        resolver: Resolver | None = None,
        upstream: Upstream | None = None,
        tls: ssl.SSLContext | None = None,
        ca: RunAuthority | AuthorityOf | None = None,
        limits: EgressLimits | None = None,
        observer: Observer | None = None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._limits = limits or EgressLimits()
        self._admissions = Admissions(gatekeeper, self._limits)
        self._dialer = Dialer(resolver or SystemResolver(), self._limits, upstream=upstream, tls=tls)
        self._authority_of: AuthorityOf = ca if callable(ca) else lambda _: ca
        self._observer = observer or (gatekeeper.refused if isinstance(gatekeeper, WitnessingGatekeeper) else None)
        self._new_id = new_id
        self._quotas: dict[SandboxId, Quota] = {}
        self._log = logging.getLogger("ringfence.egress")

    async def serve(self, listener: socket.socket, sandbox: SandboxId) -> None:
        """Accept on a listening socket of the sandbox's namespace until cancelled, or until the listener is closed.

        The caller owns the listener. On return every connection is closed and its `closed` reported. Raises
        `ListenerRefused` before accepting anything.
        """
        check_listener(listener)
        listener.setblocking(False)
        identity = Identity(sandbox, self.quota(sandbox))

        async def identify(_: h11.Request) -> Identity:
            return identity

        parts = self.parts(identify)
        try:
            async with self.watching(sandbox), asyncio.TaskGroup() as group:
                while (sock := await accept(listener)) is not None:
                    quota = identity.quota
                    if quota.connections.take():
                        group.create_task(self.run(sock, parts, quota.connections))
                    elif quota.turned_away.take():
                        group.create_task(self.run(sock, parts, quota.turned_away, has_room=False))
                    else:
                        sock.close()
        finally:
            if identity.quota.connections.taken == 0:
                self._quotas.pop(sandbox, None)

    async def end(self, sandbox: SandboxId, host: str) -> int:
        """Close every connection of the sandbox to this host within 2 s; `*` means every host, `*.x.y` all below x.y.

        Returns how many connections there were. For a grant that ended: call it after the grant is gone, so that a
        reconnect is refused.
        """

        def is_over(request: EgressRequest) -> bool:
            return request.sandbox == sandbox and host_matches(host, request.host)

        return await self._admissions.end(is_over, timeout_s=_END_S)

    async def end_requests(self, ids: frozenset[str]) -> int:
        """Close the connections of these requests (`EgressRequest.id`) within 2 s."""
        return await self._admissions.end_requests(ids, timeout_s=_END_S)

    def live(self, sandbox: SandboxId | None = None) -> tuple[EgressRequest, ...]:
        """What is asked for or on its way now."""
        return self._admissions.live(sandbox)

    def forget(self, sandbox: SandboxId) -> None:
        """The sandbox is gone: drop what was counted for it."""
        self._quotas.pop(sandbox, None)

    @property
    def limits(self) -> EgressLimits:
        return self._limits

    @asynccontextmanager
    async def watching(self, sandbox: SandboxId | None = None) -> AsyncIterator[None]:
        """End what no longer stands, meanwhile; at the end wait for every `closed` under way."""
        watch = asyncio.create_task(self._admissions.watch(sandbox))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self._admissions.drain()

    def quota(self, sandbox: SandboxId) -> Quota:
        """What the sandbox has left, shared by all its connections."""
        return self._quotas.setdefault(sandbox, Quota(self._limits))

    def parts(self, identify: Callable[[h11.Request], Awaitable[Identity]]) -> Parts:
        """What connections are served with; `identify` says whose a request is."""
        return Parts(
            admissions=self._admissions,
            dialer=self._dialer,
            limits=self._limits,
            authority_of=self._authority_of,
            observe=self._observe,
            new_id=self._new_id,
            identify=identify,
        )

    async def run(self, sock: socket.socket, parts: Parts, seats: Seats, *, has_room: bool = True) -> None:
        """Serve one accepted connection to its end, then give its seat back; a fault ends it alone and is logged."""
        try:
            connection = Connection(SocketStream(sock), parts)
            await (connection.run() if has_room else connection.turn_away())
        except Exception:  # noqa: BLE001 the connection's boundary: one that fails must not take the others with it
            self._log.exception("a connection ended by a fault of the proxy")
        finally:
            sock.close()
            seats.give()

    async def _observe(self, refused: Refused) -> None:
        self._log.info("egress of %s refused: %s, %s", refused.sandbox, refused.code, refused.reason)
        if self._observer is None:
            return
        try:
            async with asyncio.timeout(self._limits.closed_s):
                await self._observer(refused)
        except Exception:  # noqa: BLE001 the request is refused either way; the observer's own failure is for the operator
            self._log.exception("a refusal could not be recorded")


def host_matches(pattern: str, host: str) -> bool:
    """Whether a host is meant by `host`, `*.domain` or `*`."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:].lower())
    return pattern == "*" or pattern.lower() == host


async def accept(listener: socket.socket) -> socket.socket | None:
    """The next connection; None where the listener was closed."""
    while True:
        try:
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            return sock
        except ConnectionError:
            continue  # the client was gone before it was accepted
        except OSError:
            if listener.fileno() < 0:
                return None
            await asyncio.sleep(_ACCEPT_PAUSE_S)  # out of descriptors or memory: others will end

"""The way to one in-sandbox server: mutual TLS to the pod's address, or the same TLS through a port-forward."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from ringfence_sandbox.connection import Greeting, ServerConnection
from ringfence_sandbox.errors import ProtocolViolation, SandboxError, SandboxGone
from ringfence_sandbox.kubernetes import kinds, names, waiting
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.credentials import ControlKey, server_name
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from ringfence_sandbox.kubernetes.streams import PortForward
from ringfence_sandbox.kubernetes.waiting import PodView


@dataclass(frozen=True, slots=True)
class Linked:
    connection: ServerConnection
    greeting: Greeting
    pod: PodView


@dataclass(slots=True)
class Link:
    """Connects, and connects again: a lost connection is not a lost sandbox here, since the pod lives on without it."""

    api: ClusterApi
    settings: ClusterSettings
    key: ControlKey
    namespace: str
    now: Callable[[], datetime]
    _forward: PortForward | None = field(default=None)

    async def connect(self, *, timeout_s: float) -> Linked:
        """Find the pod and connect to it. Raises `SandboxGone`, `SandboxBusy` or `ProtocolViolation`."""
        pod = await self.api.get(kinds.POD, names.POD, namespace=self.namespace)
        view = await waiting.until_running(self.api, self.namespace, pod, timeout_s=timeout_s)
        return await self.connect_to(view, timeout_s=timeout_s)

    async def connect_to(self, view: PodView, *, timeout_s: float) -> Linked:
        """Connect to a pod that runs; its server may still be a few milliseconds from listening."""
        context = self.key.client_context(self.namespace, now=self.now())
        pause_s = 0.005
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await self._attempt(view, context)
                    except ssl.SSLCertVerificationError as error:
                        raise ProtocolViolation(f"{self.namespace}: another server answers: {error}") from error
                    except (OSError, SandboxGone):
                        # refused or reset: not yet listening
                        await asyncio.sleep(pause_s)
                        pause_s = min(pause_s * 1.5, 0.5)
        except TimeoutError as error:
            where = f"node {view.node}" if view.node else "its node"
            raise SandboxGone(
                f"no server answered in {self.namespace} within {timeout_s:g} s: {where} or its network may be gone,"
                f" `kubectl get pods,nodes -n {self.namespace}` tells"
            ) from error

    async def _attempt(self, view: PodView, context: ssl.SSLContext) -> Linked:
        loop = asyncio.get_running_loop()
        connection = ServerConnection()
        name = server_name(self.namespace)
        if self.settings.reach == "port-forward":
            await self.let_go()
            forward = await PortForward.open(self.api, self.namespace, names.POD, self.settings.server_port)
            self._forward = forward
            await loop.create_connection(lambda: connection, sock=forward.socket, ssl=context, server_hostname=name)
        else:
            await loop.create_connection(
                lambda: connection, view.address, self.settings.server_port, ssl=context, server_hostname=name
            )
        return Linked(connection, await connection.ready(timeout_s=10.0), view)

    async def let_go(self) -> None:
        """Close what carries the connection; the connection itself is its sandbox's to close."""
        if self._forward is not None:
            forward, self._forward = self._forward, None
            with suppress(SandboxError, OSError):
                await forward.close()

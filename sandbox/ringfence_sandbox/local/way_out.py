"""The way out of a local sandbox: the listener that its server hands out once, served by the egress proxy outside."""

from __future__ import annotations

import asyncio
import socket

from ringfence_sandbox.contract import EgressGatekeeper, SandboxId
from ringfence_sandbox.egress import EgressProxy
from ringfence_sandbox.errors import ProtocolViolation
from ringfence_sandbox.local.launch import Launched

HAND_OUT_WITHIN_S = 10.0


class WayOut:
    """Serves one sandbox's listener until closed. Without one, nothing inside reaches anything."""

    def __init__(self, task: asyncio.Task[None], listener: socket.socket) -> None:
        self._task = task
        self._listener = listener

    @classmethod
    async def open(cls, launched: Launched, gatekeeper: EgressGatekeeper, sandbox: SandboxId) -> WayOut:
        """Take the listener, before any command has run, and begin to serve. Raises `ProtocolViolation`."""
        passer = launched.egress
        if passer is None:
            raise ProtocolViolation("the sandbox was started without a way out")
        try:
            async with asyncio.timeout(HAND_OUT_WITHIN_S):
                await launched.connection.request({"op": "egress"})
                listener = await asyncio.to_thread(_receive, passer)
        except TimeoutError as error:
            raise ProtocolViolation("the sandbox's server handed out no listener") from error
        finally:
            passer.close()
            launched.egress = None
        outside = launched.outside
        proxy = EgressProxy(
            gatekeeper,
            resolver=outside.resolver,
            upstream=outside.upstream,
            tls=outside.tls,
            ca=launched.authority,
        )
        task = asyncio.create_task(proxy.serve(listener, sandbox))
        return cls(task, listener)

    async def close(self) -> None:
        """End every connection and forget the listener."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._listener.close()


def _receive(passer: socket.socket) -> socket.socket:
    passer.settimeout(HAND_OUT_WITHIN_S)
    _, descriptors, flags, _ = socket.recv_fds(passer, 16, 4)
    received = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if len(received) != 1 or flags & socket.MSG_CTRUNC:
        for extra in received:
            extra.close()
        raise ProtocolViolation(f"the sandbox's server handed out {len(received)} descriptors instead of one")
    return received[0]

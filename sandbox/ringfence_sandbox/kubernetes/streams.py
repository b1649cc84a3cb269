"""Byte streams into a pod through the API server: port-forward as a socket, exec for bootstrap and diagnosis.

A port-forward carries the same mutually authenticated TLS as a direct connection, so the API server and the kubelet
see ciphertext only.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiohttp

from ringfence_sandbox.errors import ProtocolViolation, SandboxGone
from ringfence_sandbox.kubernetes import kinds
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.errors import ClusterUnavailable

_PROTOCOL: Final = "v4.channel.k8s.io"
_CHUNK: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class ExecResult:
    """`exit_code` is None where the API server did not say."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes


class PortForward:
    """One TCP connection to a port of a pod. `socket` is our end; whoever takes it closes it, which ends the rest."""

    def __init__(self, channel: aiohttp.ClientWebSocketResponse) -> None:
        self._channel = channel
        self.socket, self._inner = socket.socketpair()
        self.socket.setblocking(False)
        self._inner.setblocking(False)
        self._task = asyncio.create_task(self._run(), name="port-forward")
        self.failure = ""

    @classmethod
    async def open(cls, api: ClusterApi, namespace: str, pod: str, port: int) -> PortForward:
        """Raises `ClusterUnavailable`, `RequestRefused` or `ObjectNotFound` (no such pod)."""
        path = kinds.POD.path(namespace, pod, "portforward")
        channel = await api.websocket(path, [("ports", str(port))], protocol=_PROTOCOL).open()
        return cls(channel)

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._outward())
                group.create_task(self._inward())
        except* (OSError, aiohttp.ClientError, _Ended) as errors:
            self.failure = str(errors.exceptions[0])
        finally:
            self._inner.close()
            await self._channel.close()

    async def _outward(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._inner, _CHUNK):
            await self._channel.send_bytes(b"\x00" + data)
        raise _Ended("closed on our side")

    async def _inward(self) -> None:
        loop = asyncio.get_running_loop()
        heads = {0, 1}  # each channel's first frame is the port's number, two bytes
        async for message in self._channel:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel in heads:
                heads.discard(channel)
                data = data[2:]
            if channel == 1 and data:
                raise _Ended(data[:500].decode(errors="replace"))
            if channel == 0 and data:
                await loop.sock_sendall(self._inner, data)
        raise _Ended("closed by the API server")


class _Ended(Exception):
    """One direction is over, so the other has no use."""


async def run_in_pod(
    api: ClusterApi,
    namespace: str,
    pod: str,
    argv: Sequence[str],
    *,
    container: str,
    timeout_s: float = 30.0,
    limit_bytes: int = 1 << 20,
) -> ExecResult:
    """`pods/exec` without stdin. For bootstrap and diagnosis only: never for what an agent asks.

    Raises `SandboxGone` where the pod is gone and `ClusterUnavailable` on a lost connection or after `timeout_s`.
    """
    query = [("container", container), ("stdout", "true"), ("stderr", "true")]
    query += [("command", word) for word in argv]
    dial = api.websocket(kinds.POD.path(namespace, pod, "exec"), query, protocol=_PROTOCOL)
    out = {1: bytearray(), 2: bytearray(), 3: bytearray()}
    try:
        async with asyncio.timeout(timeout_s):
            async with await dial.open() as channel:
                async for message in channel:
                    if message.type is aiohttp.WSMsgType.BINARY and message.data:
                        kept = out.get(message.data[0])
                        if kept is not None and len(kept) < limit_bytes:
                            kept += message.data[1:]
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise ClusterUnavailable(f"exec in {namespace}/{pod} was cut: {error or 'timeout'}") from error
    return ExecResult(_exit_code(bytes(out[3]), namespace, pod), bytes(out[1]), bytes(out[2]))


def _exit_code(status: bytes, namespace: str, pod: str) -> int | None:
    if not status:
        return None
    try:
        answer = json.loads(status)
        if answer["status"] == "Success":
            return 0
        for cause in answer.get("details", {}).get("causes", []):
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        message = str(answer.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolViolation(f"exec in {namespace}/{pod} ended with a malformed status") from error
    raise SandboxGone(f"exec in {namespace}/{pod} did not start: {message[:500]}")

"""A sandbox on Kubernetes: the shared client of the in-sandbox server, over a connection that may come and go.

A lost connection is not a lost sandbox: the pod goes on. So each request that finds its connection gone looks for the
pod, connects again and repeats itself; actions are known by call id, so a repeated one is answered, not run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from ringfence_sandbox.contract import (
    Action,
    Bundle,
    CallId,
    ChangedFile,
    Exec,
    FileContent,
    Layer,
    Listing,
    Matches,
    Outcome,
    OutputSink,
    Patch,
    Proof,
    Recall,
    SandboxId,
)
from ringfence_sandbox.errors import SandboxGone
from ringfence_sandbox.kubernetes.agent_api import RunAccount
from ringfence_sandbox.kubernetes.link import Link, Linked
from ringfence_sandbox.served import ServedSandbox

T = TypeVar("T")
RECONNECT_WITHIN_S = 90.0


class KubernetesSandbox(ServedSandbox):
    """One sandbox. `on_suspend` is the backend's part of suspending: keep the files, free the pod."""

    def __init__(
        self,
        id: SandboxId,
        linked: Linked,
        layers: Sequence[Layer],
        *,
        link: Link,
        environment: Mapping[str, str],
        on_suspend: Callable[[KubernetesSandbox], Awaitable[None]],
    ) -> None:
        super().__init__(id, linked.connection, layers)
        self.link = link
        self.is_over = False
        self._environment = dict(environment)
        self._on_suspend = on_suspend
        self._mending = asyncio.Lock()
        self.agent = RunAccount(link.api, link.namespace)

    @property
    def namespace(self) -> str:
        return self.link.namespace

    async def _steadily(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask, and once more over a new connection where the old one is gone. Raises `SandboxGone` with the pod."""
        used = self.connection
        try:
            return await ask()
        except SandboxGone:
            if self.is_over or used.is_open:
                raise
            await self._mend(used)
            return await ask()

    async def _mend(self, used: object) -> None:
        async with self._mending:
            if self.connection is not used:
                return
            linked = await self.link.connect(timeout_s=RECONNECT_WITHIN_S)
            self.reconnect(linked.connection)

    async def perform(self, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        whole = action
        if isinstance(action, Exec) and self._environment:
            whole = replace(action, environment={**self._environment, **action.environment})
        act = super().perform
        return await self._steadily(lambda: act(whole, on_output=on_output))

    async def recall(self, call_id: CallId) -> Outcome | Recall:
        ask = super().recall
        return await self._steadily(lambda: ask(call_id))

    async def acknowledge(self, call_id: CallId) -> None:
        ask = super().acknowledge
        await self._steadily(lambda: ask(call_id))

    async def load(self, bundle: Bundle) -> None:
        await super().load(bundle)

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit_bytes: int = 1 << 20) -> FileContent:
        ask = super().read
        return await self._steadily(lambda: ask(path, offset=offset, limit_bytes=limit_bytes))

    async def list(self, path: PurePosixPath, *, depth: int = 1, limit: int = 1000) -> Listing:
        ask = super().list
        return await self._steadily(lambda: ask(path, depth=depth, limit=limit))

    async def search(self, pattern: str, path: PurePosixPath, *, limit: int = 200) -> Matches:
        ask = super().search
        return await self._steadily(lambda: ask(pattern, path, limit=limit))

    async def changed(self) -> Sequence[ChangedFile]:
        return await self._steadily(super().changed)

    async def diff(self) -> Patch:
        return await self._steadily(super().diff)

    async def prove(self) -> Proof:
        return await self._steadily(super().prove)

    async def suspend(self) -> None:
        await self._on_suspend(self)

    async def stop_processes(self) -> None:
        """End everything inside but the server: a container that ends too often is restarted ever later."""
        await self._connection.request({"op": "suspend", "stays": True})
        await self._connection.close()

    async def let_go(self) -> None:
        self.is_over = True
        await super().let_go()
        await self.link.let_go()
        await self.agent.close()

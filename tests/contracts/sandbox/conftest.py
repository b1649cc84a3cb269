"""Backends under the conformance suite. Each is real; where this machine cannot build one, its tests say why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Backend, Bundle, CallId, Exec, Limits, Outcome, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.source import bundle_from_path
from tests.contracts.sandbox.repositories import make_repository


@dataclass
class Box:
    """A sandbox with a workspace, and short ways to use it."""

    backend: Backend
    spec: SandboxSpec
    sandbox: Sandbox
    fence: int = 1
    ids: count[int] = field(default_factory=lambda: count(1))

    def call(self) -> CallId:
        return CallId(f"run/1/{next(self.ids)}/nonce")

    async def sh(self, command: str, *, timeout_s: float = 20, call: CallId | None = None) -> Outcome:
        action = Exec(call or self.call(), self.fence, ("bash", "-c", command), timeout_s=timeout_s)
        return await self.sandbox.perform(action)

    async def says(self, command: str) -> str:
        outcome = await self.sh(command)
        return (outcome.head + outcome.tail).decode(errors="replace").strip()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    local = LocalBackend(tmp_path / "state")
    try:
        await local.check()
    except IsolationUnavailable as error:
        pytest.skip(f"no local sandbox here: {error}")
    yield local
    await local.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_from_path(make_repository(tmp_path / "repository"), into=tmp_path)


@pytest.fixture
async def box(backend: Backend, bundle: Bundle) -> AsyncIterator[Box]:
    spec = SandboxSpec(SandboxId("box-1"), limits=Limits(processes=128, memory_bytes=512 << 20, disk_bytes=256 << 20))
    sandbox = await backend.create(spec)
    await sandbox.load(bundle)
    yield Box(backend, spec, sandbox)
    await backend.destroy(spec.id)

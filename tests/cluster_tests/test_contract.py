"""The conformance suite of every backend, against the real API server and kubelet.

The same tests as for the local backend: only the fixtures differ. Nobody waits for a namespace to be gone, which takes
six seconds whatever one does; that it goes is tested once, below.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from ringfence_sandbox.contract import Backend, Bundle, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster
from tests.contracts.sandbox.conftest import Box, bundle
from tests.contracts.sandbox.test_contract import *  # noqa: F403 - every test of the suite, also those to come
from tests.contracts.sandbox.test_files_contract import *  # noqa: F403 - as above

pytestmark = pytest.mark.cluster
__all__ = ["bundle"]


class Impatient(KubernetesBackend):
    """Asks for a namespace's removal and goes on."""

    async def _remove(self, namespace: str) -> None:
        await self.api.delete(kinds.NAMESPACE, namespace)


@pytest.fixture
async def backend(cluster: Cluster, settings: ClusterSettings) -> AsyncIterator[Backend]:
    async with administered(cluster, settings, Impatient) as opened:
        yield opened


@pytest.fixture
async def box(backend: Backend, bundle: Bundle) -> Box:
    limits = Limits(processes=128, memory_bytes=512 << 20, disk_bytes=256 << 20)
    spec = SandboxSpec(SandboxId(f"box-{os.urandom(4).hex()}"), limits=limits)
    sandbox = await backend.create(spec)
    await sandbox.load(bundle)
    return Box(backend, spec, sandbox)


async def test_a_destroyed_sandbox_is_gone_when_destroy_returns(cluster: Cluster, settings: ClusterSettings) -> None:
    async with administered(cluster, settings) as real:
        sandbox = await real.create(SandboxSpec(SandboxId(f"box-{os.urandom(4).hex()}")))
        namespace = names.cold_namespace(sandbox.id)
        assert await real.api.find(kinds.NAMESPACE, namespace) is not None
        await real.destroy(sandbox.id)
        assert await real.api.find(kinds.NAMESPACE, namespace) is None

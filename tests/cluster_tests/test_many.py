"""Two hundred sandboxes made and removed leave nothing, and each costs the API server little."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from ringfence_sandbox.contract import CallId, Exec, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.json_value import name_of
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.chart import kubectl
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

COUNT, AT_ONCE = 200, 10
REQUESTS_EACH = 25
LIMITS = Limits(processes=64, memory_bytes=64 << 20, disk_bytes=64 << 20, tmp_bytes=16 << 20)
OWNED = "persistentvolumes,clusterroles,clusterrolebindings"


async def test_two_hundred_sandboxes_leave_nothing_behind(cluster: Cluster, settings: ClusterSettings) -> None:
    async with administered(cluster, settings) as backend:
        room = asyncio.Semaphore(AT_ONCE)

        def cluster_wide() -> set[str]:
            listed = json.loads(kubectl(cluster, "get", OWNED, "--output=json"))
            return {f"{one['kind']}/{name_of(one)}" for one in listed["items"]}

        before = await asyncio.to_thread(cluster_wide)

        async def live(number: int) -> None:
            spec = SandboxSpec(SandboxId(f"many-{number}-{os.urandom(3).hex()}"), limits=LIMITS)
            async with room:
                sandbox = await backend.create(spec)
                done = await sandbox.perform(Exec(CallId(f"r/1/{number}/n"), 1, ("/bin/echo", "here"), timeout_s=60))
                assert done.head == b"here\n"
                await backend.destroy(spec.id)

        begun = backend.api.requests
        async with asyncio.TaskGroup() as group:
            for number in range(COUNT):
                group.create_task(live(number))
        each = (backend.api.requests - begun) / COUNT
        left = await backend.api.list(kinds.NAMESPACE, selector=f"{names.INSTANCE}={settings.instance}")
        assert [name_of(one) for one in left] == []
        assert await asyncio.to_thread(cluster_wide) == before
        assert await backend.sandboxes() == frozenset()
        print(f"{each:.1f} requests to the API server for each sandbox")
        assert each <= REQUESTS_EACH

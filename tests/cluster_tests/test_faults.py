"""The cluster's own faults, for real: a clear state, a retry where it helps, a message that says what to do."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import ringfence_sandbox.kubernetes.backend as backend_module
from ringfence_sandbox.contract import CallId, Ending, Exec, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.errors import SandboxBusy, SandboxGone, SandboxRemoved
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.errors import ClusterUnavailable
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster

pytestmark = pytest.mark.cluster

LIMITS = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20)


def spec() -> SandboxSpec:
    return SandboxSpec(SandboxId(f"fault-{os.urandom(4).hex()}"), limits=LIMITS)


def command(number: int, text: str) -> Exec:
    return Exec(CallId(f"run/1/{number}/nonce"), 1, ("bash", "-c", text), timeout_s=60)


async def test_an_api_server_that_stays_away_is_told_of_at_once_where_patience_ends(
    cluster: Cluster, settings: ClusterSettings
) -> None:
    async with administered(cluster, replace(settings, api_patience_s=0.5)) as backend:
        configuration = backend.api._client.configuration
        host, configuration.host = configuration.host, "https://127.0.0.1:1"
        try:
            with pytest.raises(ClusterUnavailable, match="did not answer"):
                await backend.create(spec())
        finally:
            configuration.host = host


async def test_a_namespace_stuck_in_terminating_says_what_holds_it_and_goes_later(
    backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await backend.create(spec())
    namespace = names.cold_namespace(sandbox.id)
    held: dict[str, Json] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": namespace, "finalizers": ["example.org/hold"]},
    }
    await backend.api.create(held)
    monkeypatch.setattr(backend_module, "DESTROY_WITHIN_S", 9.0)
    with pytest.raises(SandboxBusy, match=r"still there after 9 s: .*example.org/hold"):
        await backend.destroy(sandbox.id)
    monkeypatch.undo()
    free: Json = {"op": "remove", "path": "/metadata/finalizers"}
    await backend.api.json_patch(kinds.CONFIG_MAP, "held", [free], namespace=namespace)
    await backend.destroy(sandbox.id)
    assert await backend.api.find(kinds.NAMESPACE, namespace) is None


async def test_a_pod_that_is_evicted_makes_a_call_gone_and_a_deleted_namespace_is_removed(
    backend: KubernetesBackend,
) -> None:
    wanted = spec()
    sandbox = await backend.create(wanted)
    namespace = names.cold_namespace(sandbox.id)
    running = asyncio.create_task(sandbox.perform(command(1, "echo started; sleep 60")))
    await asyncio.wait({running}, timeout=0.3)
    await backend.api.delete(kinds.POD, names.POD, namespace=namespace)
    with pytest.raises(SandboxGone, match=namespace):
        await running
    with pytest.raises(SandboxGone, match=r"its files with it|is being deleted"):
        await backend.attach(wanted)
    await backend.api.delete(kinds.NAMESPACE, namespace)
    with pytest.raises(SandboxRemoved, match="was deleted, which ends its run"):
        await backend.attach(wanted)


async def test_a_lost_connection_is_mended_and_a_call_runs_once(backend: KubernetesBackend) -> None:
    sandbox = await backend.create(spec())
    task = asyncio.create_task(sandbox.perform(command(1, "echo once >> log; sleep 1; cat log")))
    await asyncio.wait({task}, timeout=0.3)
    sandbox._connection._transport.abort()  # type: ignore[attr-defined] # what a network does, no interface offers
    outcome = await task
    assert (outcome.ending, outcome.head) == (Ending.DONE, b"once\n")
    assert (await sandbox.perform(command(2, "wc -l < log"))).head == b"1\n"


async def test_an_api_server_killed_in_the_middle_costs_neither_a_start_nor_a_call(
    cluster: Cluster, backend: KubernetesBackend
) -> None:
    if cluster.state is None:
        pytest.skip("a foreign cluster's API server is not ours to kill")
    sandbox = await backend.create(spec())
    pids = json.loads((Path(cluster.state) / "running.json").read_text())
    running = asyncio.create_task(sandbox.perform(command(1, "sleep 1; echo done")))
    killed = await asyncio.to_thread(cluster.in_node, "kill", "-9", str(pids["kube-apiserver"]))
    assert killed.returncode == 0
    other = await backend.create(spec())
    assert (await running).head == b"done\n"
    assert (await other.perform(command(2, "echo here"))).head == b"here\n"

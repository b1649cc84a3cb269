"""Parts of the cluster that stop answering: its database for half a minute, and a node that is gone with its pods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

import ringfence_sandbox.kubernetes.backend as backend_module
import ringfence_sandbox.kubernetes.sandbox as sandbox_module
from ringfence_sandbox.contract import Ending
from ringfence_sandbox.errors import SandboxBusy, SandboxGone
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster
from tests.cluster_tests.test_faults import command, spec

pytestmark = pytest.mark.cluster

ETCD_AWAY_S = 30


@contextmanager
def stopped(cluster: Cluster, component: str) -> Iterator[None]:
    """One of our own cluster's processes stands still; it goes on at the end, whatever happened."""
    if cluster.state is None:
        pytest.skip(f"a foreign cluster's {component} is not ours to stop")
    pid = str(json.loads((cluster.state / "running.json").read_text())[component])
    assert cluster.in_node("kill", "-STOP", pid).returncode == 0
    try:
        yield
    finally:
        assert cluster.in_node("kill", "-CONT", pid).returncode == 0


@asynccontextmanager
async def impatient(cluster: Cluster, settings: ClusterSettings) -> AsyncIterator[KubernetesBackend]:
    async with administered(cluster, replace(settings, start_timeout_s=3.0)) as backend:
        yield backend


def kill_server(cluster: Cluster, namespace: str) -> None:
    """End the container as a node does that goes: by its runtime, with nobody there to start it again."""
    labels = f'labels."io.kubernetes.pod.namespace"=={namespace},labels."io.kubernetes.container.name"==sandbox'
    tool = [str(cluster.program("ctr")), "--address", f"{cluster.state}/containerd.sock", "-n", "k8s.io"]
    (container,) = cluster.in_node(*tool, "containers", "ls", "-q", labels).stdout.split()
    assert cluster.in_node(*tool, "tasks", "kill", "-s", "SIGKILL", container).returncode == 0


async def test_a_node_that_does_not_answer_is_named_and_half_a_start_does_not_stay(
    cluster: Cluster, settings: ClusterSettings
) -> None:
    async with impatient(cluster, settings) as backend:
        there = await backend.create(spec())
        with stopped(cluster, "kubelet"):
            with pytest.raises(SandboxBusy, match=r"did not start within 3 s: node \S+ has not .*kubectl get node"):
                await backend.create(spec())
            # the half that was built is on its way out already
            assert await backend.sandboxes() == {there.id}
            # what runs needs no kubelet
            assert (await there.perform(command(1, "echo once >> log; cat log"))).head == b"once\n"
        assert (await there.perform(command(2, "wc -l < log"))).head == b"1\n"


async def test_a_node_that_is_gone_makes_a_call_gone_and_its_removal_says_what_holds_it(
    cluster: Cluster, settings: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "RECONNECT_WITHIN_S", 2.0)
    monkeypatch.setattr(backend_module, "DESTROY_WITHIN_S", 8.0)
    async with impatient(cluster, settings) as backend:
        wanted = spec()
        sandbox = await backend.create(wanted)
        namespace = names.cold_namespace(sandbox.id)
        with stopped(cluster, "kubelet"):
            running = asyncio.create_task(sandbox.perform(command(1, "sleep 60")))
            await asyncio.wait({running}, timeout=0.3)
            await asyncio.to_thread(kill_server, cluster, namespace)
            with pytest.raises(SandboxGone, match=r"no server answered in .* within 2 s.*node"):
                await running
            with pytest.raises(SandboxBusy, match=r"still there after 8 s: .*pods.*kubectl get"):
                await backend.destroy(wanted.id)


@pytest.mark.slow
async def test_etcd_that_stands_still_for_half_a_minute_costs_neither_a_start_nor_a_call(
    cluster: Cluster, backend: KubernetesBackend
) -> None:
    there, wanted = await backend.create(spec()), spec()
    with stopped(cluster, "etcd"):
        starting = asyncio.create_task(backend.create(wanted))
        first = await there.perform(command(1, "echo once >> log; cat log"))
        assert (first.ending, first.head) == (Ending.DONE, b"once\n")
        done, _ = await asyncio.wait({starting}, timeout=ETCD_AWAY_S)
        assert not done
    started = await starting
    assert (await started.perform(command(1, "echo here"))).head == b"here\n"
    assert (await there.perform(command(1, "echo once >> log; cat log"))) == first
    assert (await there.perform(command(2, "wc -l < log"))).head == b"1\n"
    found = await backend.api.list(kinds.NAMESPACE, selector=f"{names.SANDBOX}={wanted.id}")
    assert len(found) == 1

"""What a start, a command and a run cost on a real cluster, beside a bare pod and `kubectl exec` in the same minutes.

`make bench` prints the figures; ratios are within one run. Nothing is asserted about the clock. With
RINGFENCE_BENCH_RUNS=200 as many runs are made and removed instead of the few that suit a busy machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence.cluster_pool import SqlPoolBook
from ringfence_sandbox.contract import CallId, Exec, Limits, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.json_value import Json, objects, text
from ringfence_sandbox.kubernetes.pool_book import Bounds
from ringfence_sandbox.kubernetes.sandbox import KubernetesSandbox
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered, cluster, settings
from tests.cluster_tests.node import Cluster
from tests.integration.agents.house import House

pytestmark = [pytest.mark.bench, pytest.mark.cluster]
__all__ = ["cluster", "settings"]

RUNS = int(os.environ.get("RINGFENCE_BENCH_RUNS", "20"))
EACH = 7
AT_ONCE = 20
LIMITS = Limits(processes=64, memory_bytes=128 << 20, disk_bytes=128 << 20, tmp_bytes=32 << 20)


def spec() -> SandboxSpec:
    return SandboxSpec(SandboxId(f"bench-{os.urandom(4).hex()}"), labels={"run": "bench"}, limits=LIMITS)


def told(name: str, seconds: Sequence[float], beside: str = "") -> float:
    """Print p50 and p95 in milliseconds; return the p50 in seconds."""
    ordered = sorted(seconds)
    p50, p95 = statistics.median(ordered), ordered[max(0, round(0.95 * len(ordered)) - 1)]
    print(f"{name:<58} p50 {p50 * 1000:8.1f} ms   p95 {p95 * 1000:8.1f} ms   n={len(ordered)}  {beside}")
    return p50


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path, real_clock=None)
    with house.store:
        yield house


@pytest.fixture
async def backend(cluster: Cluster, settings: ClusterSettings) -> AsyncIterator[KubernetesBackend]:
    async with administered(cluster, replace(settings, instance=f"bench-{os.getpid()}")) as opened:
        yield opened


async def first_output(backend: KubernetesBackend, wanted: SandboxSpec) -> tuple[float, Sandbox]:
    """From asking for a sandbox to its first command's output, in seconds."""
    began = time.perf_counter()
    sandbox = await backend.create(wanted)
    outcome = await sandbox.perform(Exec(CallId(f"b/1/1/{wanted.id}"), 1, ("echo", "here")))
    assert outcome.head == b"here\n"
    return time.perf_counter() - began, sandbox


async def bare_pod(api: ClusterApi, cluster: Cluster, *, has_token: bool) -> float:
    """Until a pod as `kubectl run` makes it is Ready; without the token it has no volume at all."""
    name = f"bare-{os.urandom(4).hex()}"
    container: Json = {
        "name": "bare", "image": cluster.image, "imagePullPolicy": cluster.pull_policy, "command": ["sleep", "600"],
    }  # fmt: skip
    body: dict[str, Json] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": has_token,
            "containers": [container],
        },
    }
    began = time.perf_counter()
    pod = await api.apply(body)
    version = text(pod, "metadata", "resourceVersion")
    async for change in api.watch(kinds.POD, namespace="default", name=name, version=version, timeout_s=60):
        if any(
            (text(one, "type"), text(one, "status")) == ("Ready", "True")
            for one in objects(change.object, "status", "conditions")
        ):
            break
    took = time.perf_counter() - began
    await api.delete(kinds.POD, name, namespace="default", grace_s=0)
    return took


async def test_a_cold_start_beside_a_bare_pod(backend: KubernetesBackend, cluster: Cluster) -> None:
    bare, plain, cold = [], [], []
    for _ in range(EACH):
        bare.append(await bare_pod(backend.api, cluster, has_token=True))
        plain.append(await bare_pod(backend.api, cluster, has_token=False))
        took, sandbox = await first_output(backend, spec())
        cold.append(took)
        await backend.remove(names.cold_namespace(sandbox.id))
    print()
    with_token = told("a bare pod, as kubectl run makes it, Ready", bare)
    without = told("a bare pod without any volume, Ready", plain)
    ours = told("cold: namespace, identity, fence, pod, first output", cold)
    print(f"{'cold / bare pod (aim: at most 1.5)':<58} {ours / with_token:.2f}   without volumes {ours / without:.2f}")


async def test_a_start_from_the_pool(backend: KubernetesBackend, house: House) -> None:
    pool = backend.use_pool(SqlPoolBook(house.store, backend.settings.instance), Bounds(least=AT_ONCE, most=AT_ONCE))
    pool.want(spec())
    one_by_one = []

    async def filled() -> None:
        await pool.fill()
        while pool._making:
            await asyncio.wait(set(pool._making), timeout=120)
            await pool.fill()

    await filled()
    for _ in range(AT_ONCE):
        took, sandbox = await first_output(backend, spec())
        assert isinstance(sandbox, KubernetesSandbox)
        assert sandbox.namespace.startswith("rf-p-")
        one_by_one.append(took)
        await backend.remove(sandbox.namespace)
    await filled()
    at_once = await asyncio.gather(*(first_output(backend, spec()) for _ in range(AT_ONCE)))
    print()
    told("from the pool, one by one (aim: p50 80, p95 200)", one_by_one)
    told(f"from the pool, {AT_ONCE} at once (aim: p95 600)", [took for took, _ in at_once])
    print(f"{'of these from the pool':<58} {sum('rf-p-' in str(one) for one in map(namespace_of, at_once))}")


def namespace_of(found: tuple[float, Sandbox]) -> str:
    sandbox = found[1]
    assert isinstance(sandbox, KubernetesSandbox)
    return sandbox.namespace


async def test_a_command_beside_kubectl_exec(backend: KubernetesBackend, cluster: Cluster) -> None:
    _, sandbox = await first_output(backend, spec())
    kubectl = [cluster.program("kubectl"), "--kubeconfig", str(cluster.kubeconfig)]
    words = [*kubectl, "exec", "-n", namespace_of((0.0, sandbox)), "-c", names.CONTAINER, names.POD, "--", "true"]
    ours, theirs = [], []
    for number in range(50):
        began = time.perf_counter()
        await sandbox.perform(Exec(CallId(f"b/2/{number}/n"), 1, ("true",)))
        ours.append(time.perf_counter() - began)
    for _ in range(EACH):
        began = time.perf_counter()
        await asyncio.to_thread(subprocess.run, words, check=True)
        theirs.append(time.perf_counter() - began)
    print()
    mine, kubectl_exec = told("true, through the in-sandbox server", ours), told("kubectl exec true", theirs)
    print(f"{'server / kubectl exec (aim: at most 0.05)':<58} {mine / kubectl_exec:.3f}")


async def test_what_a_run_costs_the_api_server_and_leaves(backend: KubernetesBackend) -> None:
    before = backend.api.requests
    began = time.perf_counter()
    room = asyncio.Semaphore(4)

    async def one() -> None:
        async with room:
            _, sandbox = await first_output(backend, spec())
        await backend.destroy(sandbox.id)

    await asyncio.gather(*(one() for _ in range(RUNS)))
    each = (backend.api.requests - before) / RUNS
    left = await backend.api.list(kinds.NAMESPACE, selector=f"{names.INSTANCE}={backend.settings.instance}")
    took = time.perf_counter() - began
    print(
        f"\n{f'{RUNS} runs made and removed in {took:.0f} s':<58} requests each {each:.1f} (aim: 25), left {len(left)}"
    )
    assert left == []

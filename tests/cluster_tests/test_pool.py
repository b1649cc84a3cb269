"""Prepared namespaces on the real cluster: claimed once, bound late, and never less safe than a cold start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ringfence.cluster_pool import SqlPoolBook
from ringfence_sandbox.contract import CallId, Exec, Limits, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import kinds, names, objects
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.json_value import Json, labels_of, strings, text
from ringfence_sandbox.kubernetes.pool_book import Bounds
from ringfence_sandbox.kubernetes.pools import Pool
from ringfence_sandbox.kubernetes.sandbox import KubernetesSandbox
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster
from tests.integration.agents.house import House

pytestmark = pytest.mark.cluster

LIMITS = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20)


def spec(**more: str) -> SandboxSpec:
    labels = {"run": "r7", "task": "t7", "team": "payments", "profile": "default@1", "person": "person:ana"}
    return SandboxSpec(SandboxId(f"pool-{os.urandom(4).hex()}"), labels=labels, limits=LIMITS, environment=more)


@dataclass(frozen=True)
class Shop:
    backend: KubernetesBackend
    pool: Pool
    book: SqlPoolBook

    async def filled(self) -> str:
        """Make one member; its namespace."""
        self.pool.want(spec())
        before = await self.book.known()
        await self.pool.fill()
        while self.pool._making:
            await asyncio.wait(set(self.pool._making), timeout=60)
        (namespace,) = await self.book.known() - before
        return namespace


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


@pytest.fixture
async def shop(cluster: Cluster, settings: ClusterSettings, house: House) -> AsyncIterator[Shop]:
    # a name of its own: removed with all that carries it, and no other test's
    how = replace(settings, instance=f"{settings.instance}-{os.urandom(2).hex()}")
    async with administered(cluster, how) as backend:
        book = SqlPoolBook(house.store, how.instance)
        yield Shop(backend, backend.use_pool(book, Bounds(least=1, most=1)), book)


def namespace_of(sandbox: Sandbox) -> str:
    assert isinstance(sandbox, KubernetesSandbox)
    return sandbox.namespace


async def says(sandbox: Sandbox, command: str) -> str:
    outcome = await sandbox.perform(Exec(CallId(f"r7/1/1/{os.urandom(4).hex()}"), 1, ("bash", "-c", command)))
    return (outcome.head + outcome.tail).decode().strip()


async def test_an_exhausted_pool_is_a_cold_start(shop: Shop) -> None:
    wanted = spec()
    assert namespace_of(await shop.backend.create(wanted)) == names.cold_namespace(wanted.id)


async def test_a_member_whose_pod_is_gone_costs_nothing_but_a_cold_start(shop: Shop) -> None:
    namespace = await shop.filled()
    api = shop.backend.api
    pod = await api.get(kinds.POD, names.POD, namespace=namespace)
    await api.delete(kinds.POD, names.POD, namespace=namespace)
    version = text(pod, "metadata", "resourceVersion")
    async for change in api.watch(kinds.POD, namespace=namespace, name=names.POD, version=version, timeout_s=60):
        if change.type == "DELETED":
            break
    wanted = spec()
    sandbox = await shop.backend.create(wanted)
    assert namespace_of(sandbox) == names.cold_namespace(wanted.id)
    assert await says(sandbox, "echo here") == "here"
    assert namespace not in await shop.book.known()


async def test_a_member_that_somebody_took_meanwhile_is_left_to_them(shop: Shop) -> None:
    namespace = await shop.filled()
    label: Json = {"op": "replace", "path": f"/metadata/labels/{names.STATE.replace('/', '~1')}", "value": "taken"}
    await shop.backend.api.json_patch(kinds.NAMESPACE, namespace, [label])
    wanted = spec()
    assert namespace_of(await shop.backend.create(wanted)) == names.cold_namespace(wanted.id)
    found = await shop.backend.api.find(kinds.NAMESPACE, namespace)
    assert found is None or labels_of(found).get(names.SANDBOX) is None


async def test_a_claim_gives_identity_late_and_a_used_namespace_goes(shop: Shop) -> None:
    namespace = await shop.filled()
    before = await shop.backend.api.get(kinds.NAMESPACE, namespace)
    assert {"ringfence/run", names.SANDBOX} & set(labels_of(before)) == set()
    wanted = spec(GREETING="late")
    sandbox = await shop.backend.create(wanted)
    assert namespace_of(sandbox) == namespace
    after = await shop.backend.api.get(kinds.NAMESPACE, namespace)
    labels = labels_of(after)
    assert (labels["ringfence/run"], labels[names.SANDBOX], labels[names.STATE]) == ("r7", wanted.id, "running")
    assert names.POOL not in labels
    assert strings(after, "metadata", "annotations")["ringfence/person"] == "person:ana"
    assert await says(sandbox, "echo $GREETING; ls -A /workspace ~ /tmp | grep -v :") == "late"
    assert [layer.is_held for layer in sandbox.layers if layer.name == "network"] == [True]
    again = await shop.backend.attach(wanted)
    assert namespace_of(again) == namespace
    await shop.backend.destroy(wanted.id)
    assert await shop.backend.api.find(kinds.NAMESPACE, namespace) is None


async def test_what_a_dead_filler_left_is_removed_and_a_member_stays(shop: Shop) -> None:
    kept = await shop.filled()
    orphan = names.pooled_namespace(os.urandom(8).hex())
    thing = objects.namespace_object(orphan, spec(), shop.backend.settings, state="pooled")
    await shop.backend.api.create(thing)
    await shop.pool.reconcile()
    left = await shop.backend.api.find(kinds.NAMESPACE, orphan)
    assert left is None or text(left, "metadata", "deletionTimestamp")
    assert not text(await shop.backend.api.get(kinds.NAMESPACE, kept), "metadata", "deletionTimestamp")

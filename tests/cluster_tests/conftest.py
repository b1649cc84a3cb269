"""The cluster of this session, and who talks to it. Without a cluster the tests are skipped, saying why."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.json_value import name_of
from ringfence_sandbox.kubernetes.settings import ClusterSettings, Requests
from tests.cluster_tests.node import Cluster, NoCluster
from tests.cluster_tests.node import cluster as open_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        with open_cluster() as found:
            yield found
    except NoCluster as reason:
        if os.environ.get("RINGFENCE_REQUIRE_CLUSTER"):
            raise
        pytest.skip(f"no Kubernetes: {reason}")


@pytest.fixture
def settings(cluster: Cluster) -> ClusterSettings:
    base = ClusterSettings(
        image=cluster.image,
        inside_image=cluster.inside_image,
        instance=f"tests-{os.getpid()}",
        requests=Requests(cpu_milli=10, memory_bytes=32 << 20, storage_bytes=0),
        control_cidrs=cluster.control_cidrs,
        reach="direct" if cluster.is_ours else "port-forward",
    )
    return replace(base, image_pull_policy="Never", has_storage_limits=False) if cluster.is_ours else base


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[ClusterApi]:
    """As the cluster's administrator."""
    async with await ClusterApi.open(cluster.kubeconfig) as opened:
        yield opened


@asynccontextmanager
async def administered(
    cluster: Cluster, settings: ClusterSettings, kind: type[KubernetesBackend] = KubernetesBackend
) -> AsyncIterator[KubernetesBackend]:
    """A backend as the cluster's administrator. Whatever is left behind is removed, without waiting for its end."""
    opened = await kind.open(settings, key=ControlKey(b"t" * 32), kubeconfig=cluster.kubeconfig)
    try:
        yield opened
    finally:
        for left in await opened.api.list(kinds.NAMESPACE, selector=f"{names.INSTANCE}={settings.instance}"):
            await opened.api.delete(kinds.NAMESPACE, name_of(left))
        await opened.close()


@pytest.fixture
async def backend(cluster: Cluster, settings: ClusterSettings) -> AsyncIterator[KubernetesBackend]:
    async with administered(cluster, settings) as opened:
        yield opened

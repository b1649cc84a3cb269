"""A sandbox whose workspace is a volume claim: suspended it has no pod and keeps its files, and goes on from them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ringfence_sandbox.contract import Ending, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.errors import SandboxGone, SandboxRemoved
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.json_value import Json, labels_of
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster
from tests.cluster_tests.test_faults import command

pytestmark = pytest.mark.cluster

LIMITS = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=64 << 20, tmp_bytes=64 << 20)


@pytest.fixture
def storage_class(cluster: Cluster, settings: ClusterSettings) -> Iterator[str]:
    """A class of one volume that the administrator made by hand: a folder of the node, with nobody who provisions."""
    if cluster.state is None:
        pytest.skip("a folder on a foreign cluster's node is not ours to make")
    name = f"static-{os.urandom(4).hex()}"
    folder = cluster.state / name
    # what a storage driver does for `fsGroup`, which the kubelet leaves to it
    folder.mkdir(mode=0o700)
    os.chown(folder, settings.uid, settings.uid)
    volume: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": str(LIMITS.disk_bytes)},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": name,
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }
    kubectl = [cluster.program("kubectl"), "--kubeconfig", str(cluster.kubeconfig)]
    subprocess.run([*kubectl, "create", "-f", "-"], input=json.dumps(volume), text=True, check=True, timeout=60)
    yield name
    subprocess.run([*kubectl, "delete", "pv", name, "--wait=false"], check=True, timeout=60)


async def test_a_suspended_sandbox_has_no_pod_and_goes_on_with_its_files_and_outcomes(
    cluster: Cluster, settings: ClusterSettings, storage_class: str
) -> None:
    async with administered(cluster, replace(settings, storage_class=storage_class)) as backend:
        spec = SandboxSpec(SandboxId(f"claim-{os.urandom(4).hex()}"), limits=LIMITS)
        namespace = names.cold_namespace(spec.id)
        sandbox = await backend.create(spec)
        first = await sandbox.perform(command(1, "echo once >> log; mkdir .deep; ln -s log .deep/link; cat log"))
        assert (first.ending, first.head) == (Ending.DONE, b"once\n")
        await sandbox.suspend()
        with pytest.raises(SandboxGone):
            await sandbox.perform(command(2, "true"))
        assert labels_of(await backend.api.get(kinds.NAMESPACE, namespace))[names.STATE] == "suspended"
        # at once, though the pod that was may still be on its way out
        again = await backend.attach(spec)
        assert labels_of(await backend.api.get(kinds.NAMESPACE, namespace))[names.STATE] == "running"
        assert await again.perform(command(1, "echo once >> log; cat log")) == first
        said = await again.perform(command(3, "cat log; readlink .deep/link; touch new && echo new"))
        assert said.head.splitlines() == [b"once", b"log", b"new"]
        # a drained node ends the pod without asking: the files are there all the same
        await backend.api.delete(kinds.POD, names.POD, namespace=namespace)
        drained = await backend.attach(spec)
        assert (await drained.perform(command(4, "cat log; ls new"))).head.splitlines() == [b"once", b"new"]
        await backend.api.delete(kinds.NAMESPACE, namespace)
        with pytest.raises(SandboxRemoved):
            await backend.attach(spec)

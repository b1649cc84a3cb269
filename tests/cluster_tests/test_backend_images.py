"""An image that a team brings needs nothing of ours: tried with one that holds a single static program."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from ringfence_sandbox.contract import Bundle, CallId, Ending, Exec, Limits, SandboxId, SandboxSpec, Write
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes import kinds
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster
from tests.contracts.sandbox.conftest import bundle
from tests.contracts.sandbox.repositories import apply, clone

pytestmark = pytest.mark.cluster
__all__ = ["bundle"]

STATIC = "ringfence.test/pause:1"


def spec(image: str) -> SandboxSpec:
    limits = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20)
    return SandboxSpec(SandboxId(f"image-{os.urandom(4).hex()}"), limits=limits, image=image)


@pytest.mark.parametrize("image", ["ringfence.test/absent:1", "No Such:Name"])
async def test_an_image_that_cannot_be_had_is_named_and_nothing_stays(backend: KubernetesBackend, image: str) -> None:
    wanted = spec(image)
    with pytest.raises(IsolationUnavailable, match="cannot be pulled") as refused:
        await backend.create(wanted)
    assert "To fix it" in str(refused.value)
    assert wanted.id not in await backend.sandboxes()


async def test_a_runtime_that_the_nodes_do_not_have_is_told_while_they_still_try(
    cluster: Cluster, settings: ClusterSettings
) -> None:
    """The node tries for ever and the pod's status never says so: waiting would end in 20 s here, as "busy"."""
    name = f"nowhere-{os.urandom(4).hex()}"
    wanted = replace(spec(settings.image), runtime_class=name)
    async with administered(cluster, replace(settings, start_timeout_s=20)) as backend:
        await backend.api.create(
            {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "nowhere"}
        )
        try:
            with pytest.raises(IsolationUnavailable, match=r'node cannot start the pod.*"nowhere"') as refused:
                await backend.create(wanted)
            assert "To fix it" in str(refused.value)
        finally:
            await backend.api.delete(kinds.RUNTIME_CLASS, name)
        assert wanted.id not in await backend.sandboxes()


async def test_an_image_without_libc_shell_or_git_is_a_workspace(
    backend: KubernetesBackend, cluster: Cluster, bundle: Bundle, tmp_path: Path
) -> None:
    if not cluster.is_ours:
        pytest.skip("the static image is only on our own cluster")
    sandbox = await backend.create(spec(STATIC))
    await sandbox.load(bundle)
    path = PurePosixPath("/workspace/app.py")
    assert (await sandbox.read(path)).data == b"x = 1\n"
    missing = await sandbox.perform(Exec(CallId("run/1/1/n"), 1, ("sh", "-c", "true")))
    assert (missing.ending, "sh" in missing.detail) == (Ending.REFUSED, True)
    paused = await sandbox.perform(Exec(CallId("run/1/2/n"), 1, ("/pause",), timeout_s=0.3))
    assert paused.ending is Ending.TIMEOUT
    await sandbox.perform(Write(CallId("run/1/3/n"), 1, path, b"x = 2\n"))
    patch = await sandbox.diff()
    target = clone(bundle, tmp_path / "clean")
    apply(patch.data, target)
    assert (target / "app.py").read_text() == "x = 2\n"
    assert (await sandbox.prove()).is_held

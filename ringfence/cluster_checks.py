"""`ringfence doctor --cluster`: whether the cluster holds the fence, shown by attacks and from inside a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from ringfence.cluster import open_cluster
from ringfence_sandbox.contract import Limits, SandboxSpec

if TYPE_CHECKING:
    from ringfence.settings import Settings
    from ringfence_sandbox.kubernetes.backend import KubernetesBackend

PROVED_WITH = Limits(memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20, processes=64)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `detail` is what was seen; it may hold a cluster's own words."""

    kind: Literal["layer", "attack", "right", "probe"]
    name: str
    is_held: bool
    detail: str = ""


async def check_cluster(settings: Settings, *, is_proof_asked: bool) -> AsyncIterator[Check]:
    """Every check in turn. Raises `Mistake` (nothing set up) and `IsolationUnavailable` (not even a start is possible).

    The attacks are dry runs but for one namespace, `rf-check-*`, that is made and removed; `is_proof_asked` also makes
    a sandbox and removes it.
    """
    backend = await open_cluster(settings)
    try:
        yield Check("layer", "api-server", True, await backend.api.version())
        async for one in _rights(backend):
            yield one
        if is_proof_asked:
            async for one in _proof(backend):
                yield one
    finally:
        await backend.close()


async def _rights(backend: KubernetesBackend) -> AsyncIterator[Check]:
    from ringfence_sandbox.kubernetes import rights_check

    who = rights_check.orchestrator_of(backend.settings)
    if who is None:
        yield Check("layer", "orchestrator-rights", True, "not limited: runs are made with your own kubeconfig")
        return
    tried = await rights_check.attack(backend.api, who, now=datetime.now(UTC))
    for one in tried:
        if not one.is_refused:
            yield Check("attack", f"it can {one.name}", False, one.said)
    if all(one.is_refused for one in tried):
        yield Check("layer", "orchestrator-rights", True, f"all {len(tried)} attacks were refused")
    accidents = await rights_check.accidents(backend.api, who)
    for accident in accidents:
        yield Check(
            "right", f"it may {accident.right} in {accident.namespace}", False, "find the binding that gives it"
        )
    if not accidents:
        yield Check("layer", "no-other-rights", True, "nothing outside runs but namespaces and their bindings")


async def _proof(backend: KubernetesBackend) -> AsyncIterator[Check]:
    from ringfence_sandbox.kubernetes import names

    spec = SandboxSpec(names.check_sandbox(), limits=PROVED_WITH)
    try:
        sandbox = await backend.create(spec)
        for layer in sandbox.layers:
            yield Check("layer", layer.name, layer.is_held, layer.detail)
        for probe in (await sandbox.prove()).probes:
            yield Check("probe", probe.name, probe.is_held, probe.detail)
    finally:
        await backend.destroy(spec.id)

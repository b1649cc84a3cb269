"""Where attacks take place: the chart's rights, a live run under them, and bystanders that an administrator made."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from ringfence_sandbox.contract import ClusterRule, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import kinds, names, rights
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.json_value import Json, name_of
from ringfence_sandbox.kubernetes.settings import ClusterSettings, Requests
from tests.cluster_tests.chart import Installed, installed_rights
from tests.cluster_tests.node import Cluster

RULES = (
    ClusterRule(
        ("", "apps", "batch"),
        ("pods", "pods/log", "pods/portforward", "configmaps", "services", "deployments", "replicasets", "jobs"),
        ("get", "list", "watch", "create", "update", "patch", "delete"),
    ),
)
LONG_NAMES = {
    "enforce": "pod-security.kubernetes.io/enforce",
    "version": "pod-security.kubernetes.io/enforce-version",
    "instance": names.INSTANCE,
    "managed": names.MANAGED_BY,
}


@dataclass(frozen=True)
class Field:
    """`lookalike` is named rf-* without our label; `neighbour` is a run of another installation."""

    installed: Installed
    run: str
    bystander: str
    lookalike: str
    neighbour: str

    @property
    def image(self) -> str:
        return self.installed.cluster.image

    def labels(self, **changed: str | None) -> dict[str, Json]:
        """A run's labels, with some changed; `enforce`, `version`, `instance`, `managed` stand for their long names."""
        changes = {LONG_NAMES.get(word, word): value for word, value in changed.items()}
        return rights.run_labels(self.installed.who, state="running") | changes

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[ClusterApi]:
        """The API server, with the token of the run's own ServiceAccount and nothing else."""
        async with await ClusterApi.open(self.installed.cluster.kubeconfig) as admin:
            token = await admin.token(self.run, names.SERVICE_ACCOUNT)
            async with admin.with_token(token) as opened:
                yield opened


def base_settings(cluster: Cluster) -> ClusterSettings:
    return ClusterSettings(
        image=cluster.image,
        inside_image=cluster.inside_image,
        image_pull_policy="Never" if cluster.is_ours else "IfNotPresent",
        has_storage_limits=not cluster.is_ours,
        requests=Requests(cpu_milli=10, memory_bytes=32 << 20, storage_bytes=0),
        control_cidrs=cluster.control_cidrs,
        reach="direct" if cluster.is_ours else "port-forward",
    )


@contextmanager
def field(cluster: Cluster, word: str, rules: tuple[ClusterRule, ...] = RULES) -> Iterator[Field]:
    with installed_rights(cluster, word) as installed:
        run = asyncio.run(_live_run(installed, rules))
        found = Field(
            installed, run, f"{installed.name}-bystander", f"rf-{installed.name}-look", f"rf-{installed.name}-n"
        )
        labels = found.labels(instance=f"{installed.name}-n")
        neighbour = rights.namespace(found.neighbour, labels)
        installed.kubectl("create", "namespace", found.bystander)
        installed.kubectl("create", "namespace", found.lookalike)
        installed.kubectl("create", "--filename", "-", stdin=json.dumps(neighbour))
        try:
            yield found
        finally:
            spaces = (found.bystander, found.lookalike, found.neighbour)
            installed.kubectl("delete", "namespace", "--wait=false", "--ignore-not-found", *spaces)


async def _live_run(installed: Installed, rules: tuple[ClusterRule, ...]) -> str:
    """A real sandbox, made under the orchestrator's own identity. Returns its namespace."""
    spec = SandboxSpec(
        SandboxId(f"t-{os.urandom(4).hex()}"),
        limits=Limits(processes=64, memory_bytes=256 << 20, disk_bytes=64 << 20),
        cluster_rules=rules,
        has_egress=True,
    )
    async with installed.orchestrator() as api:
        backend = KubernetesBackend(api, installed.settings(base_settings(installed.cluster)), ControlKey(b"f" * 32))
        await backend.create(spec)
        (found,) = await api.list(kinds.NAMESPACE, selector=f"{names.SANDBOX}={spec.id}")
        await backend.close()
        return name_of(found)

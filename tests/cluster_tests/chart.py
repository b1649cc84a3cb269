"""The chart's rights on the test cluster, under a name of their own, and identities to attack them with."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes import rights_check
from ringfence_sandbox.kubernetes.api import ClusterApi, Reply
from ringfence_sandbox.kubernetes.json_value import Json
from ringfence_sandbox.kubernetes.rights import Orchestrator
from ringfence_sandbox.kubernetes.settings import ClusterSettings, Peer
from tests.cluster_tests.node import ROOT, Cluster

CHART = ROOT / "deploy" / "helm" / "ringfence"
RIGHTS = ("rights", "policy-orchestrator", "policy-agents", "policy-run-pods")
GIVEN = (
    "image.repository=images.example.org/ringfence",
    "database.secret=database",
    "keys.secret=r-keys",
    "sandbox.image=images.example.org/team:1",
    "sandbox.insideImage=images.example.org/inside:1",
    "sandbox.allowedImages={images.example.org/}",
)
"""Values without which the chart refuses."""
Completed: TypeAlias = "subprocess.CompletedProcess[str]"
ENFORCED_WITHIN_S = 30.0


@dataclass(frozen=True)
class Installed:
    """One installation of the rights. `manifest` is what was applied."""

    cluster: Cluster
    name: str
    manifest: str

    @property
    def namespace(self) -> str:
        return f"{self.name}-system"

    @property
    def who(self) -> Orchestrator:
        account, manager = f"{self.name}-orchestrator", f"{self.name}-run-manager"
        return Orchestrator(self.namespace, account, manager, self.name, self.cluster.image)

    def settings(self, base: ClusterSettings) -> ClusterSettings:
        """The backend's settings under this installation's own identity."""
        return replace(
            base,
            instance=self.name,
            run_manager_role=self.who.run_manager,
            orchestrator=Peer(self.namespace, {"name": self.who.account}),
            control_peer=Peer(self.namespace, {"ringfence/component": "control-plane"}),
            egress_peer=Peer(self.namespace, {"ringfence/component": "egress"}),
        )

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        return kubectl(self.cluster, *argv, stdin=stdin)

    def kubeconfig(self, at: Path) -> Path:
        """A file that holds the orchestrator's token and nothing else."""
        view = ("config", "view", "--raw", "--minify", "--output=json")
        ours = json.loads(self.kubectl(*view))
        token = self.kubectl("create", "token", self.who.account, f"--namespace={self.namespace}").strip()
        ours["users"] = [{"name": ours["users"][0]["name"], "user": {"token": token}}]
        at.write_text(json.dumps(ours))
        at.chmod(0o600)
        return at

    @asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[ClusterApi]:
        """The API server, with the orchestrator's own token and nothing else."""
        async with await ClusterApi.open(self.cluster.kubeconfig) as admin:
            token = await admin.token(self.namespace, self.who.account)
            async with admin.with_token(token) as opened:
                yield opened


def kubectl(cluster: Cluster, *argv: str, stdin: str = "") -> str:
    command = [cluster.program("kubectl"), "--kubeconfig", str(cluster.kubeconfig), *argv]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def renders(cluster: Cluster, name: str, *, values: tuple[str, ...], only: tuple[str, ...] = ()) -> Completed:
    """`helm template`, whatever comes of it."""
    command = [cluster.program("helm"), "template", name, str(CHART), "--namespace", f"{name}-system"]
    for template in only:
        command += ["--show-only", f"templates/{template}.yaml"]
    for value in values:
        command += ["--set", value]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def rendered(cluster: Cluster, name: str, *, only: tuple[str, ...] = (), values: tuple[str, ...] = ()) -> str:
    done = renders(cluster, name, values=(*GIVEN, *values), only=only)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def installed_rights(cluster: Cluster, word: str) -> Iterator[Installed]:
    """Apply the chart's rights and wait until they are enforced; taken away afterwards, with every run's namespace."""
    name = f"rf{word}{os.getpid()}"
    prefix = cluster.image.rpartition("/")[0] + "/"
    values = [f"sandbox.allowedImages={{{prefix},{cluster.inside_image}}}"]
    values += [f"sandbox.controlCidrs={{{','.join(cluster.control_cidrs)}}}"] if cluster.control_cidrs else []
    found = Installed(cluster, name, rendered(cluster, name, only=RIGHTS, values=tuple(values)))
    found.kubectl("create", "namespace", found.namespace)
    try:
        found.kubectl("apply", "--filename", "-", stdin=found.manifest)
        asyncio.run(until_enforced(found))
        yield found
    finally:
        found.kubectl("delete", "namespace", "--wait=false", "--selector", f"ringfence/instance={name}")
        found.kubectl("delete", "--wait=false", "--ignore-not-found", "--filename", "-", stdin=found.manifest)
        found.kubectl("delete", "namespace", "--wait=false", found.namespace)


async def until_enforced(installed: Installed) -> None:
    async def holds() -> bool:
        try:
            await rights_check.must_hold(api, installed.who, now=datetime.now(UTC))
        except IsolationUnavailable:
            return False
        return True

    async with installed.orchestrator() as api:
        await until(holds)


async def send(api: ClusterApi, method: str, path: str, body: Json = None, *, kind: str = "json") -> Reply:
    """One real request, not a dry run. `kind`: json, merge, apply, patch."""
    types = {
        "json": "application/json",
        "merge": "application/merge-patch+json",
        "apply": "application/apply-patch+yaml",
        "patch": "application/json-patch+json",
    }
    query = {"fieldManager": "test", "force": "true"} if kind == "apply" else {}
    return await api.attempt(method, path, query=query, body=body, content_type=types[kind])


def assert_refused(reply: Reply) -> None:
    """By RBAC, admission or Pod Security: nothing else counts, least of all a request that was malformed."""
    assert reply.status in (403, 422), f"HTTP {reply.status} {reply.body[:400]!r}"
    assert b"forbidden" in reply.body, reply.body[:400]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the cluster's controllers and caches have come to it. Raises `TimeoutError`."""
    async with asyncio.timeout(ENFORCED_WITHIN_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.1)

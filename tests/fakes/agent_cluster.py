"""A run's account on a cluster, in memory: objects by resource and name, rights as RBAC would hold them.

`crash` makes the next change fail after it took effect, as a killed worker would see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ringfence_sandbox.kubernetes.agent_objects import changes
from ringfence_sandbox.kubernetes.agent_port import (
    GROUP_OF,
    RESOURCE_OF,
    DryRun,
    Found,
    Held,
    NotPermitted,
    NotThere,
    Resource,
    Right,
    Seen,
)
from ringfence_sandbox.kubernetes.json_value import Object, name_of, text
from tests.fakes.counting_sandbox import CountingSandbox, Crash


class FakeAccount:
    """Satisfies `AgentCluster`. `given` is what the Role says; grants add to it while they are held."""

    def __init__(self, *given: Right) -> None:
        self.given = frozenset(given)
        self.held: tuple[Held, ...] = ()
        self.every_held: list[tuple[Held, ...]] = []
        self.objects: dict[tuple[str, str], Object] = {}
        self.learned: dict[str, DryRun] = {}
        self.applied: list[Object] = []
        self.deleted: list[str] = []
        self.refuses_grants = False
        self.crash = False

    async def get(self, resource: Resource, name: str) -> Object:
        self._must("get", resource, name)
        return self._there(resource, name)

    async def list(self, resource: Resource, *, selector: str, limit: int) -> Found:
        self._must("list", resource)
        found = [item for (kind, _), item in self.objects.items() if kind == resource]
        return Found(found[:limit], len(found) > limit)

    async def watch(self, resource: Resource, *, selector: str, seconds: int, limit: int) -> Sequence[Seen]:
        self._must("watch", resource)
        return [Seen("ADDED", item) for (kind, _), item in self.objects.items() if kind == resource][:limit]

    async def logs(self, pod: str, *, container: str, lines: int, is_previous: bool) -> bytes:
        self._must("get", "pods/log", pod)
        return b"\x1b[31mhello\n"

    async def dry_run(self, manifest: Object) -> DryRun:
        resource, name = self._may_apply(manifest)
        before = self.objects.get((resource, name))
        return DryRun(before is None, changes(before, manifest))

    async def apply(self, manifest: Object) -> Object:
        resource, name = self._may_apply(manifest)
        self.objects[resource, name] = manifest
        self.applied.append(manifest)
        if self.crash:
            self.crash = False
            raise Crash
        return manifest

    async def delete(self, resource: Resource, name: str, *, uid: str) -> None:
        self._must("delete", resource, name)
        self._there(resource, name)
        del self.objects[resource, name]
        self.deleted.append(name)

    async def probe(self, pod: str, port: int, *, send: bytes, seconds: float) -> bytes:
        self._must("create", "pods/portforward", pod)
        return b""

    async def rights(self) -> Sequence[Right]:
        return sorted(self._now())

    async def hold(self, grants: Sequence[Held]) -> None:
        if grants and self.refuses_grants:
            raise NotPermitted("this cannot be granted on the cluster: a run's role names listed resources only")
        self.held = tuple(grants)
        self.every_held.append(self.held)

    def _now(self) -> frozenset[Right]:
        return self.given | {right for grant in self.held for right in grant.rights}

    def _must(self, verb: str, resource: str, name: str = "") -> None:
        wanted = Right(verb, GROUP_OF[resource.partition("/")[0]], resource, name)
        if not {wanted, replace(wanted, name="")} & self._now():
            raise NotPermitted(f"cannot {verb} {resource} {name}")

    def _may_apply(self, manifest: Object) -> tuple[Resource, str]:
        resource = RESOURCE_OF[text(manifest, "apiVersion"), text(manifest, "kind")]
        name = name_of(manifest)
        self._must("patch", resource, name)
        if (resource, name) not in self.objects:
            self._must("create", resource, name)
        return resource, name

    def _there(self, resource: Resource, name: str) -> Object:
        if (resource, name) not in self.objects:
            raise NotThere(f"no {resource} {name}")
        return self.objects[resource, name]


class ClusterSandbox(CountingSandbox):
    """Files in memory, and an account on a cluster."""

    def __init__(self, agent: FakeAccount) -> None:
        super().__init__()
        self.agent = agent

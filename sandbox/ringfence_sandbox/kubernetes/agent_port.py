"""What the `kubernetes` tools need of a cluster: plain values, no client, so that importing it costs nothing.

Everything here acts as the run's own ServiceAccount in the run's own namespace, with a token that never enters the
sandbox. RBAC and admission are the limit; these types only say what was asked and what came back.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

from ringfence_sandbox.errors import SandboxError
from ringfence_sandbox.kubernetes.json_value import Json, Object

Resource: TypeAlias = Literal[
    "pods", "configmaps", "services", "events", "deployments", "replicasets", "statefulsets", "jobs", "cronjobs"
]

GROUP_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pods": "",
        "configmaps": "",
        "services": "",
        "events": "",
        "deployments": "apps",
        "replicasets": "apps",
        "statefulsets": "apps",
        "jobs": "batch",
        "cronjobs": "batch",
    }
)
"""The API group of each resource that an agent can ever have; admission refuses it all others."""

RESOURCE_OF: Final[Mapping[tuple[str, str], Resource]] = MappingProxyType(
    {
        ("v1", "Pod"): "pods",
        ("v1", "ConfigMap"): "configmaps",
        ("v1", "Service"): "services",
        ("apps/v1", "Deployment"): "deployments",
        ("apps/v1", "StatefulSet"): "statefulsets",
        ("batch/v1", "Job"): "jobs",
        ("batch/v1", "CronJob"): "cronjobs",
    }
)
"""What can be applied, by apiVersion and kind."""


class NotPermitted(SandboxError):
    """RBAC or admission refused the run's own identity. The message is the API server's."""


class NotThere(SandboxError):
    """No such object in the run's namespace."""


class NotAccepted(SandboxError):
    """The API server finds the object or the request invalid, or over quota. Nothing was changed."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one resource (`pods`, `pods/log`) of one group; `name` "" is every object."""

    verb: str
    group: str
    resource: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A grant as it stands on the cluster: a Role with an expiry (Unix seconds)."""

    id: str
    rights: tuple[Right, ...]
    expires_at: int


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf that would differ. `before` None: it was not there; `after` None: it goes away."""

    path: str
    before: Json
    after: Json


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a server-side dry run says an apply would do. `is_new`: the object does not exist yet."""

    is_new: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Objects of a list, at most as many as were asked for."""

    items: Sequence[Object]
    is_more: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """One event of a watch."""

    type: str
    object: Object


class AgentCluster(Protocol):
    """The run's own identity on the cluster. Raises `NotPermitted`, `NotThere`, `NotAccepted` and `SandboxBusy`."""

    @property
    def learned(self) -> MutableMapping[str, DryRun]:
        """Dry runs that were possible only while a grant stood, by the digest of their manifest. Lost with us."""

    async def get(self, resource: Resource, name: str) -> Object: ...

    async def list(self, resource: Resource, *, selector: str, limit: int) -> Found: ...

    async def watch(self, resource: Resource, *, selector: str, seconds: int, limit: int) -> Sequence[Seen]: ...

    async def logs(self, pod: str, *, container: str, lines: int, is_previous: bool) -> bytes: ...

    async def dry_run(self, manifest: Object) -> DryRun: ...

    async def apply(self, manifest: Object) -> Object: ...

    async def delete(self, resource: Resource, name: str, *, uid: str) -> None: ...

    async def probe(self, pod: str, port: int, *, send: bytes, seconds: float) -> bytes:
        """What a port of a pod answers to `send`, at most 16 KiB, through a port-forward."""

    async def rights(self) -> Sequence[Right]:
        """What the run's own identity may do now (SelfSubjectRulesReview)."""

    async def hold(self, grants: Sequence[Held]) -> None:
        """Make exactly these grants stand, as the orchestrator. Raises `NotPermitted` for what no run may have."""


@runtime_checkable
class OnCluster(Protocol):
    """A sandbox that has an identity on a cluster."""

    @property
    def agent(self) -> AgentCluster: ...

"""What an installation must say about its cluster. Plain values: the API server is asked elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Reach: TypeAlias = Literal["direct", "port-forward"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Pods that a NetworkPolicy lets through: those with `labels` in namespaces named `namespace`."""

    namespace: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Requests:
    """What a sandbox's container is promised by the scheduler; its limits come from the spec."""

    cpu_milli: int = 100
    memory_bytes: int = 256 << 20
    storage_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How sandboxes are built on one cluster.

    `image` is used where a spec names none. `inside_image` carries the self-contained Python and the server.
    `control_peer` is who may reach the in-sandbox server, `control_cidrs` the same for a control plane outside the
    cluster (`reach="direct"` only; port-forward needs no opening). `egress_peer` is the proxy. `storage_class` "" keeps
    the workspace on an emptyDir; otherwise it is a PVC of that class.
    """

    image: str
    inside_image: str
    instance: str = "default"
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    reach: Reach = "direct"
    control_peer: Peer = field(
        default_factory=lambda: Peer("ringfence-system", {"ringfence/component": "control-plane"})
    )
    control_cidrs: tuple[str, ...] = ()
    egress_peer: Peer = field(default_factory=lambda: Peer("ringfence-system", {"ringfence/component": "egress"}))
    egress_cidr: str = ""
    """Where the proxy stands outside the cluster, instead of `egress_peer`."""
    egress_port: int = 3128
    egress_address: str = ""
    """The proxy's IP address as pods see it (no name is resolved inside). "": no sandbox has a way out."""
    company_roots: tuple[bytes, ...] = ()
    """PEM texts of the company's own authorities, trusted inside beside the public ones."""
    server_port: int = 7443
    requests: Requests = field(default_factory=Requests)
    storage_class: str = ""
    has_storage_limits: bool = True
    """Whether the nodes account for ephemeral storage. Where not, only the in-sandbox server watches disk use."""
    has_user_namespaces: bool = True
    """Whether pods get a user namespace of their own. Where the nodes cannot, only reduced profiles run."""
    sandboxed_runtimes: tuple[str, ...] = ()
    """Runtime classes that give each pod a kernel of its own (gVisor, Kata): in these alone Landlock may be missing."""
    uid: int = 64000
    extra_pods: int = 8
    """How many pods an agent with rights of its own may run beside the sandbox."""
    closed_window_s: float = 0.1
    """How long the API server is given to answer a probe that must not be answered; ten times what it takes nearby."""
    closed_within_s: float = 15.0
    """How long a NetworkPolicy may take to be enforced before the start is refused."""
    start_timeout_s: float = 120.0
    api_patience_s: float = 60.0
    """How long a call to the API server is retried while it is away, before `SandboxBusy`."""
    run_manager_role: str = ""
    """ClusterRole that the orchestrator binds to itself in each run namespace ("" where its user needs none)."""
    orchestrator: Peer | None = None
    """The orchestrator's own ServiceAccount: `namespace` and `labels["name"]`. Subject of that binding."""

"""Spec → objects, pure: everything a sandbox is made of on a cluster, in the order in which it is applied.

Golden files in tests/unit/kubernetes hold each of them word for word, because a reviewer of the fence reads YAML.
There is no finaliser of ours: one would keep a namespace from going away whenever the control plane is down. Everything
lives in the namespace, so its deletion removes everything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ringfence_sandbox.contract import ClusterRule, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import names
from ringfence_sandbox.kubernetes.credentials import ServerFiles
from ringfence_sandbox.kubernetes.json_value import Json, mapping
from ringfence_sandbox.kubernetes.pod import (
    CLAIM,
    FIRST_CPUS,
    FIRST_DISK_BYTES,
    FIRST_MEMORY_BYTES,
    pod,
)
from ringfence_sandbox.kubernetes.settings import ClusterSettings, Peer

Thing = dict[str, Json]


@dataclass(frozen=True, slots=True)
class SandboxObjects:
    """`namespace` first, then `orchestrator` (its own rights there, where needed), then `fence`, then `pod`."""

    namespace: Thing
    orchestrator: Sequence[Thing]
    fence: Sequence[Thing]
    pod: Thing


def build(
    spec: SandboxSpec,
    settings: ClusterSettings,
    *,
    namespace: str,
    state: str,
    credential: ServerFiles,
) -> SandboxObjects:
    """All objects of one sandbox. `state` is `running` for a cold start and `pooled` for a pool member."""
    fence = [
        credential_secret(namespace, credential),
        service_account(namespace),
        role(namespace, spec.cluster_rules),
        role_binding(namespace),
        resource_quota(namespace, spec, settings),
        limit_range(namespace, spec, settings),
        closed(namespace),
        openings(namespace, spec, settings),
    ]
    if settings.storage_class:
        fence.append(workspace_claim(namespace, spec, settings))
    return SandboxObjects(
        namespace=namespace_object(namespace, spec, settings, state=state),
        orchestrator=orchestrator_binding(namespace, settings),
        fence=fence,
        pod=pod(spec, settings, namespace=namespace),
    )


def shape_digest(spec: SandboxSpec, settings: ClusterSettings) -> str:
    """What two specs must share for one warm pod to serve either: all that is applied, but for whose it is and for the
    server's own certificate. 16 hex digits."""
    anyone = replace(spec, id=SandboxId("anyone"), labels={}, environment={})
    made = build(anyone, settings, namespace="anywhere", state="running", credential=ServerFiles(b"", b"", b""))
    fixed = [made.namespace, *made.orchestrator, *made.fence, made.pod]
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def namespace_object(namespace: str, spec: SandboxSpec, settings: ClusterSettings, *, state: str) -> Thing:
    """Restricted Pod Security at `latest` in all three modes: a pinned old version would be a weaker fence."""
    labels: dict[str, Json] = {names.MANAGED_BY: names.MANAGER, names.STATE: state, names.INSTANCE: settings.instance}
    for mode in ("enforce", "warn", "audit"):
        labels[f"pod-security.kubernetes.io/{mode}"] = "restricted"
        labels[f"pod-security.kubernetes.io/{mode}-version"] = "latest"
    annotations: dict[str, Json] = {}
    if spec.runtime_class:
        annotations[names.RUNTIME_CLASS] = spec.runtime_class
    if state == "pooled":
        labels[names.POOL] = annotations[names.SHAPE] = shape_digest(spec, settings)
        if profile := spec.labels.get("profile"):
            labels["ringfence/profile"] = names.label_value(profile)
    else:
        labels[names.SANDBOX] = spec.id
        labels.update(names.person_labels(spec.labels))
        annotations.update(names.person_annotations(spec.labels))
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": labels, "annotations": annotations},
    }


def annotated(thing: Thing, more: Mapping[str, str]) -> Thing:
    """The same object with more annotations."""
    metadata = dict(mapping(thing, "metadata"))
    annotations: dict[str, Json] = {**mapping(metadata, "annotations"), **more}
    return thing | {"metadata": metadata | {"annotations": annotations}}


def orchestrator_binding(namespace: str, settings: ClusterSettings) -> list[Thing]:
    """The orchestrator hands itself the rest of its rights, in this namespace only. Empty where its user needs none."""
    if not settings.run_manager_role or settings.orchestrator is None:
        return []
    binding = _meta("rbac.authorization.k8s.io/v1", "RoleBinding", namespace, "orchestrator")
    binding["roleRef"] = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": settings.run_manager_role,
    }
    binding["subjects"] = [
        {
            "kind": "ServiceAccount",
            "name": settings.orchestrator.labels["name"],
            "namespace": settings.orchestrator.namespace,
        }
    ]
    return [binding]


def credential_secret(namespace: str, files: ServerFiles) -> Thing:
    """What the in-sandbox server starts with. Nothing in it lets anyone into the sandbox."""
    parts = {"server.crt": files.certificate, "server.key": files.key, "client-ca.crt": files.client_ca}
    data: dict[str, Json] = {name: base64.b64encode(content).decode() for name, content in parts.items()}
    return _meta("v1", "Secret", namespace, names.CREDENTIAL) | {"type": "Opaque", "data": data}


def service_account(namespace: str) -> Thing:
    return _meta("v1", "ServiceAccount", namespace, names.SERVICE_ACCOUNT) | {"automountServiceAccountToken": False}


def role(namespace: str, rules: Sequence[ClusterRule]) -> Thing:
    """What the run's own identity may do in its own namespace: nothing, unless the profile says so."""
    rendered: list[Json] = [
        {"apiGroups": list(rule.groups), "resources": list(rule.resources), "verbs": list(rule.verbs)} for rule in rules
    ]
    return _meta("rbac.authorization.k8s.io/v1", "Role", namespace, names.SERVICE_ACCOUNT) | {"rules": rendered}


def role_binding(namespace: str) -> Thing:
    return _meta("rbac.authorization.k8s.io/v1", "RoleBinding", namespace, names.SERVICE_ACCOUNT) | {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": names.SERVICE_ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": names.SERVICE_ACCOUNT, "namespace": namespace}],
    }


def resource_quota(namespace: str, spec: SandboxSpec, settings: ClusterSettings) -> Thing:
    """The sandbox's own limits once, and room for a profile's workloads only where it grants any."""
    limits = spec.limits
    has_workloads = bool(spec.cluster_rules)
    times = 2 if has_workloads else 1
    hard: dict[str, Json] = {
        "pods": str(1 + (settings.extra_pods if has_workloads else 0)),
        "limits.memory": str(limits.memory_bytes * times + FIRST_MEMORY_BYTES),
        "requests.storage": str(limits.disk_bytes),
        "persistentvolumeclaims": "1" if settings.storage_class else "0",
        "services": "5" if has_workloads else "0",
        "services.nodeports": "0",
        "services.loadbalancers": "0",
        "count/configmaps": "20" if has_workloads else "2",
        "secrets": "2",
    }
    if has_workloads:
        # what an agent makes without end would be the control plane's burden, not its own
        hard |= {"count/deployments.apps": "10", "count/statefulsets.apps": "10", "count/replicasets.apps": "50"}
        hard |= {"count/jobs.batch": "20", "count/cronjobs.batch": "10"}
    if settings.has_storage_limits:
        hard["limits.ephemeral-storage"] = str(limits.disk_bytes * times + FIRST_DISK_BYTES)
    if limits.cpus is not None:
        hard["limits.cpu"] = str(limits.cpus * times + FIRST_CPUS)
    return _meta("v1", "ResourceQuota", namespace, "sandbox") | {"spec": {"hard": hard}}


def limit_range(namespace: str, spec: SandboxSpec, settings: ClusterSettings) -> Thing:
    """Defaults for pods that an agent applies, and a ceiling for any container, so that none is unbounded."""
    memory, disk = spec.limits.memory_bytes, spec.limits.disk_bytes
    ceiling: dict[str, Json] = {"memory": str(max(memory, FIRST_MEMORY_BYTES))}
    default: dict[str, Json] = {"memory": str(min(512 << 20, memory))}
    request: dict[str, Json] = {
        "cpu": f"{settings.requests.cpu_milli}m",
        "memory": str(min(settings.requests.memory_bytes, memory, 512 << 20)),
    }
    if settings.has_storage_limits:
        ceiling["ephemeral-storage"] = str(max(disk, FIRST_DISK_BYTES))
        default["ephemeral-storage"] = str(min(512 << 20, disk))
        request["ephemeral-storage"] = str(min(settings.requests.storage_bytes, disk, 512 << 20))
    if spec.limits.cpus is not None:
        ceiling["cpu"] = str(spec.limits.cpus)
        default["cpu"] = str(spec.limits.cpus)
    item: dict[str, Json] = {"type": "Container", "max": ceiling, "default": default, "defaultRequest": request}
    return _meta("v1", "LimitRange", namespace, "sandbox") | {"spec": {"limits": [item]}}


def closed(namespace: str) -> Thing:
    """Default-deny both ways for every pod of the namespace, whoever made it. None is open for DNS."""
    return _meta("networking.k8s.io/v1", "NetworkPolicy", namespace, "closed") | {
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }


def openings(namespace: str, spec: SandboxSpec, settings: ClusterSettings) -> Thing:
    """The only two openings, for the sandbox pod alone: to the egress proxy, from the control plane to the server.

    Pods that an agent applies get none (admission keeps the role label from them). Never changed during a run: many
    clusters leave standing connections alive when a policy changes, so what opens and closes is the proxy.
    """
    ingress: list[Json] = []
    if settings.reach == "direct":
        sources: list[Json] = [_peer(settings.control_peer)]
        sources += [{"ipBlock": {"cidr": cidr}} for cidr in settings.control_cidrs]
        ingress.append({"from": sources, "ports": [{"protocol": "TCP", "port": settings.server_port}]})
    egress: list[Json] = []
    if spec.has_egress and settings.egress_address:
        proxy: dict[str, Json] = (
            {"ipBlock": {"cidr": settings.egress_cidr}} if settings.egress_cidr else _peer(settings.egress_peer)
        )
        egress.append({"to": [proxy], "ports": [{"protocol": "TCP", "port": settings.egress_port}]})
    return _meta("networking.k8s.io/v1", "NetworkPolicy", namespace, "openings") | {
        "spec": {
            "podSelector": {"matchLabels": {names.ROLE: names.POD}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        }
    }


def workspace_claim(namespace: str, spec: SandboxSpec, settings: ClusterSettings) -> Thing:
    return _meta("v1", "PersistentVolumeClaim", namespace, CLAIM) | {
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": settings.storage_class,
            "resources": {"requests": {"storage": str(spec.limits.disk_bytes)}},
        }
    }


def _peer(peer: Peer) -> dict[str, Json]:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": peer.namespace}},
        "podSelector": {"matchLabels": dict(peer.labels)},
    }


def _meta(api_version: str, kind: str, namespace: str, name: str) -> Thing:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {names.MANAGED_BY: names.MANAGER}},
    }

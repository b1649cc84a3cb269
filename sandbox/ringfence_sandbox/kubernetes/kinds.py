"""The kinds of object that this package touches, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from ringfence_sandbox.kubernetes.json_value import Object, name_of, text


@dataclass(frozen=True, slots=True)
class Kind:
    """`group` "" is the core group. `plural` is the word in the path and in RBAC."""

    group: str
    version: str
    plural: str
    is_namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path; every part is quoted, so that a hostile name cannot leave its segment."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.is_namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACE: Final = Kind("", "v1", "namespaces", is_namespaced=False)
NODE: Final = Kind("", "v1", "nodes", is_namespaced=False)
POD: Final = Kind("", "v1", "pods")
SERVICE: Final = Kind("", "v1", "services")
SECRET: Final = Kind("", "v1", "secrets")
CONFIG_MAP: Final = Kind("", "v1", "configmaps")
EVENT: Final = Kind("", "v1", "events")
SERVICE_ACCOUNT: Final = Kind("", "v1", "serviceaccounts")
RESOURCE_QUOTA: Final = Kind("", "v1", "resourcequotas")
LIMIT_RANGE: Final = Kind("", "v1", "limitranges")
VOLUME_CLAIM: Final = Kind("", "v1", "persistentvolumeclaims")
ROLE: Final = Kind("rbac.authorization.k8s.io", "v1", "roles")
ROLE_BINDING: Final = Kind("rbac.authorization.k8s.io", "v1", "rolebindings")
NETWORK_POLICY: Final = Kind("networking.k8s.io", "v1", "networkpolicies")
RUNTIME_CLASS: Final = Kind("node.k8s.io", "v1", "runtimeclasses", is_namespaced=False)
DEPLOYMENT: Final = Kind("apps", "v1", "deployments")
REPLICA_SET: Final = Kind("apps", "v1", "replicasets")
STATEFUL_SET: Final = Kind("apps", "v1", "statefulsets")
JOB: Final = Kind("batch", "v1", "jobs")
CRON_JOB: Final = Kind("batch", "v1", "cronjobs")
ACCESS_REVIEW: Final = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", is_namespaced=False)
RULES_REVIEW: Final = Kind("authorization.k8s.io", "v1", "selfsubjectrulesreviews", is_namespaced=False)

BY_NAME: Final = MappingProxyType(
    {
        ("v1", "Namespace"): NAMESPACE,
        ("v1", "Pod"): POD,
        ("v1", "Service"): SERVICE,
        ("v1", "Secret"): SECRET,
        ("v1", "ConfigMap"): CONFIG_MAP,
        ("v1", "Event"): EVENT,
        ("v1", "ServiceAccount"): SERVICE_ACCOUNT,
        ("v1", "ResourceQuota"): RESOURCE_QUOTA,
        ("v1", "LimitRange"): LIMIT_RANGE,
        ("v1", "PersistentVolumeClaim"): VOLUME_CLAIM,
        ("rbac.authorization.k8s.io/v1", "Role"): ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding"): ROLE_BINDING,
        ("networking.k8s.io/v1", "NetworkPolicy"): NETWORK_POLICY,
        ("node.k8s.io/v1", "RuntimeClass"): RUNTIME_CLASS,
        ("apps/v1", "Deployment"): DEPLOYMENT,
        ("apps/v1", "ReplicaSet"): REPLICA_SET,
        ("apps/v1", "StatefulSet"): STATEFUL_SET,
        ("batch/v1", "Job"): JOB,
        ("batch/v1", "CronJob"): CRON_JOB,
    }
)


def kind_of(thing: Object) -> Kind:
    """The kind of an object by its apiVersion and kind. Raises `KeyError` for one that this package never makes."""
    return BY_NAME[text(thing, "apiVersion"), text(thing, "kind")]


def path_of(thing: Object) -> str:
    """Where the API server keeps this object."""
    return kind_of(thing).path(text(thing, "metadata", "namespace"), name_of(thing))

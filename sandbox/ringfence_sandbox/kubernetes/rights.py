"""What the orchestrator may do on a cluster, as data: the rights of the chart, and the attacks that must be refused.

Pure. RBAC and admission in `deploy/helm/ringfence/templates` are the fence; this is the list that proves it, at each
start, by `ringfence doctor` and by `helm test`, because a policy with a wrong name in it fails open without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.json_value import Json, Object, child, objects
from ringfence_sandbox.kubernetes.kinds import Kind

RBAC: Final = "rbac.authorization.k8s.io"
CLUSTER_ROLE: Final = Kind(RBAC, "v1", "clusterroles", is_namespaced=False)
CLUSTER_ROLE_BINDING: Final = Kind(RBAC, "v1", "clusterrolebindings", is_namespaced=False)
POLICY_BINDING: Final = Kind(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", is_namespaced=False
)
FOREIGN_IMAGE: Final = "foreign.invalid/image:1"
DRIVER_VOLUMES: Final[Json] = ({"name": "check", "csi": {"driver": "secrets.example.org"}},)
"""A volume of a driver on the node: those of secret stores hand out what they hold for the account or the node."""

ALLOWED: Final[Mapping[tuple[str, str], frozenset[str]]] = MappingProxyType(
    {
        ("", "namespaces"): frozenset({"get", "list", "watch", "create", "patch", "delete"}),
        (RBAC, "rolebindings"): frozenset({"create", "patch"}),
        ("authorization.k8s.io", "selfsubjectaccessreviews"): frozenset({"create"}),
        ("authorization.k8s.io", "selfsubjectrulesreviews"): frozenset({"create"}),
        ("authentication.k8s.io", "selfsubjectreviews"): frozenset({"create"}),
        # public trust roots, which Kubernetes itself shows to every account
        ("certificates.k8s.io", "clustertrustbundles"): frozenset({"get", "list", "watch"}),
    }
)
"""All that the orchestrator may do outside its runs' namespaces, besides `bind` on its run-manager role by name."""


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """Who the orchestrator is. `instance` is the value of the instance label on its runs' namespaces.

    `image` is one that runs may use: a pod that is refused for its image would hide whether it is refused for more.
    """

    namespace: str
    account: str
    run_manager: str
    instance: str
    image: str
    has_user_namespaces: bool = True


@dataclass(frozen=True, slots=True)
class Attack:
    """One request that must be refused. `name` is a sentence's end: "it can …". Sent with dryRun, so harmless."""

    name: str
    method: str
    path: str
    body: Json = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Question:
    """A right that has no request without effect (streams, impersonation): the API server is asked about it."""

    name: str
    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""

    def spec(self) -> Object:
        asked: dict[str, Json] = {"verb": self.verb, "group": self.group, "resource": self.resource}
        asked |= {"subresource": self.subresource, "namespace": self.namespace}
        return {"resourceAttributes": {key: value for key, value in asked.items() if value}}


def run_labels(who: Orchestrator, *, state: str) -> dict[str, Json]:
    """The labels without which admission refuses a run's namespace."""
    return {
        names.MANAGED_BY: names.MANAGER,
        names.INSTANCE: who.instance,
        names.STATE: state,
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }


def namespace(name: str, labels: Mapping[str, Json]) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}


def binding(place: str, name: str, *, role: tuple[str, str], subject: tuple[str, str, str]) -> Object:
    """`role`: kind and name. `subject`: kind, name, namespace."""
    kind, account, home = subject
    who: dict[str, Json] = {"kind": kind, "name": account}
    who |= {"namespace": home} if kind == "ServiceAccount" else {"apiGroup": RBAC}
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding" if place else "ClusterRoleBinding",
        "metadata": {"name": name} | ({"namespace": place} if place else {}),
        "roleRef": {"apiGroup": RBAC, "kind": role[0], "name": role[1]},
        "subjects": [who],
    }


def role(place: str, name: str, rules: Sequence[Mapping[str, Json]]) -> Object:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": place},
        "rules": [dict(rule) for rule in rules],
    }


def restricted_pod(place: str, image: str, **spec: Json) -> dict[str, Json]:
    """A pod that restricted Pod Security lets through; `spec` is laid over its spec."""
    container: dict[str, Json] = {
        "name": "main",
        "image": image,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"memory": "16Mi", "cpu": "1m"}, "limits": {"memory": "16Mi", "cpu": "100m"}},
    }
    body: dict[str, Json] = {
        "automountServiceAccountToken": False,
        "hostUsers": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "check", "namespace": place},
        "spec": body | spec,
    }


def outside_attacks(who: Orchestrator, nonce: str) -> Sequence[Attack]:
    """What a stolen orchestrator token would try outside the runs' namespaces."""
    merge = "application/merge-patch+json"
    good = run_labels(who, state="check")
    system, itself = "kube-system", ("ServiceAccount", who.account, who.namespace)
    weak = good | {"pod-security.kubernetes.io/enforce": "privileged"}
    pinned = good | {"pod-security.kubernetes.io/enforce-version": "v1.24"}
    other = good | {names.INSTANCE: f"{who.instance}-other"}
    spaces, bindings = kinds.NAMESPACE.path(), kinds.ROLE_BINDING.path(system)
    rules: Json = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    token: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    manager, admin = ("ClusterRole", who.run_manager), ("ClusterRole", "cluster-admin")
    return (
        Attack(
            "relabel kube-system as a run's namespace",
            "PATCH",
            kinds.NAMESPACE.path(name=system),
            {"metadata": {"labels": good}},
            merge,
        ),
        Attack("delete kube-system", "DELETE", kinds.NAMESPACE.path(name=system)),
        Attack("make a namespace outside rf-*", "POST", spaces, namespace(f"check-{nonce}", good)),
        Attack("make a run's namespace without its labels", "POST", spaces, namespace(f"rf-check-{nonce}", {})),
        Attack("make a run's namespace without Pod Security", "POST", spaces, namespace(f"rf-check-{nonce}", weak)),
        Attack("pin Pod Security to an old version", "POST", spaces, namespace(f"rf-check-{nonce}", pinned)),
        Attack("make another installation's namespace", "POST", spaces, namespace(f"rf-check-{nonce}", other)),
        Attack(
            "take its run-manager role in kube-system",
            "POST",
            bindings,
            binding(system, f"check-{nonce}", role=manager, subject=itself),
        ),
        Attack(
            "take cluster-admin in kube-system",
            "POST",
            bindings,
            binding(system, f"check-{nonce}", role=admin, subject=itself),
        ),
        Attack(
            "take cluster-admin",
            "POST",
            CLUSTER_ROLE_BINDING.path(),
            binding("", f"check-{nonce}", role=admin, subject=itself),
        ),
        Attack(
            "make a ClusterRole",
            "POST",
            CLUSTER_ROLE.path(),
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": f"check-{nonce}"},
                "rules": rules,
            },
        ),
        Attack("end an admission policy", "DELETE", POLICY_BINDING.path(name=f"check-{nonce}")),
        Attack(
            "take a token in kube-system", "POST", kinds.SERVICE_ACCOUNT.path(system, "default", "token"), dict(token)
        ),
        Attack(
            "take a token of its own account",
            "POST",
            kinds.SERVICE_ACCOUNT.path(who.namespace, who.account, "token"),
            dict(token),
        ),
        Attack("read the secrets of kube-system", "GET", kinds.SECRET.path(system)),
        Attack("read the secrets of its own namespace", "GET", kinds.SECRET.path(who.namespace)),
        Attack("read every secret", "GET", kinds.SECRET.path()),
        Attack("read every config map", "GET", kinds.CONFIG_MAP.path()),
        Attack("read every pod", "GET", kinds.POD.path()),
        Attack("read the nodes", "GET", kinds.NODE.path()),
        Attack("start a pod in kube-system", "POST", kinds.POD.path(system), restricted_pod(system, who.image)),
    )


def questions() -> Sequence[Question]:
    """Rights whose use would have an effect even in a dry run."""
    return (
        Question("run commands in kube-system", "create", "", "pods", "exec", "kube-system"),
        Question("reach pods of kube-system", "create", "", "pods", "portforward", "kube-system"),
        Question("run commands in every pod", "create", "", "pods", "exec"),
        Question("speak through the kubelet", "get", "", "nodes", "proxy"),
        Question("act as somebody else", "impersonate", "", "users"),
        Question("act as another account", "impersonate", "", "serviceaccounts"),
        Question("write roles beyond its own rights", "escalate", RBAC, "clusterroles"),
        Question("bind any role", "bind", RBAC, "clusterroles"),
        Question("sign certificates", "approve", "certificates.k8s.io", "signers"),
    )


def inside_attacks(who: Orchestrator, place: str) -> Sequence[Attack]:
    """What it would try inside a run's namespace, where it holds its run-manager role."""
    apply = "application/apply-patch+yaml"
    itself = kinds.NAMESPACE.path(name=place)
    merge = "application/merge-patch+json"
    stranger = ("ServiceAccount", "default", "kube-system")
    agent = ("ServiceAccount", names.SERVICE_ACCOUNT, place)
    bindings, roles = kinds.ROLE_BINDING.path(place), kinds.ROLE.path(place)
    anything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}

    def relabel(name: str, labels: Mapping[str, Json]) -> Attack:
        return Attack(name, "PATCH", itself, {"metadata": {"labels": dict(labels)}}, merge)

    def bind(name: str, role_ref: tuple[str, str], subject: tuple[str, str, str]) -> Attack:
        return Attack(name, "POST", bindings, binding(place, "check", role=role_ref, subject=subject))

    return (
        relabel("weaken a run's Pod Security", {"pod-security.kubernetes.io/enforce": "baseline"}),
        relabel("pin a run's Pod Security", {"pod-security.kubernetes.io/enforce-version": "v1.20"}),
        relabel("take a run's label away", {names.MANAGED_BY: None}),
        relabel("give a run's namespace a stranger's label", {"team": "payments"}),
        bind("bind cluster-admin in a run", ("ClusterRole", "cluster-admin"), agent),
        bind("give its run-manager role to an agent", ("ClusterRole", who.run_manager), agent),
        bind("give its run-manager role to a stranger", ("ClusterRole", who.run_manager), stranger),
        bind("give a run's role to a stranger", ("Role", names.SERVICE_ACCOUNT), stranger),
        bind("give a run's role to everybody", ("Role", names.SERVICE_ACCOUNT), ("Group", "system:authenticated", "")),
        Attack("write a role of everything", "POST", roles, role(place, "check", [anything])),
        Attack("write a role that reads secrets", "POST", roles, role(place, "check", [secrets])),
        Attack(
            "open a run's network",
            "PATCH",
            kinds.NETWORK_POLICY.path(place, "check"),
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "check", "namespace": place},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]},
            },
            apply,
        ),
        Attack(
            "make a token that never ends",
            "POST",
            kinds.SECRET.path(place),
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/service-account-token",
                "metadata": {
                    "name": "check",
                    "annotations": {"kubernetes.io/service-account.name": names.SERVICE_ACCOUNT},
                },
            },
        ),
        Attack(
            "start a pod from a foreign image",
            "POST",
            kinds.POD.path(place),
            restricted_pod(place, FOREIGN_IMAGE, serviceAccountName=names.SERVICE_ACCOUNT),
        ),
        Attack(
            "start a pod with a driver's volume",
            "POST",
            kinds.POD.path(place),
            restricted_pod(place, who.image, serviceAccountName=names.SERVICE_ACCOUNT, volumes=DRIVER_VOLUMES),
        ),
        Attack(
            "start a pod on the host's network",
            "POST",
            kinds.POD.path(place),
            restricted_pod(
                place, who.image, serviceAccountName=names.SERVICE_ACCOUNT, hostNetwork=True, hostUsers=True
            ),
        ),
    )


AGENT_RULE: Final[Mapping[str, Json]] = MappingProxyType(
    {
        "apiGroups": ["", "apps", "batch"],
        "resources": ["pods", "pods/log", "configmaps", "services", "deployments"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    }
)
"""The Role that the agent of the check gets, so that admission and not RBAC has to refuse."""


def agent_attacks(who: Orchestrator, place: str) -> Sequence[Attack]:
    """What an agent would try with its own account and a wide Role."""
    pods = kinds.POD.path(place)
    marked = restricted_pod(place, who.image)
    marked["metadata"] = {"name": "check", "namespace": place, "labels": {names.ROLE: names.POD}}
    mount: Json = [{"name": "s", "secret": {"secretName": names.CREDENTIAL}}]
    account = names.SERVICE_ACCOUNT
    service: dict[str, Json] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "check"}}
    ports: Json = [{"port": 80}]
    as_node = Attack(
        "share the node's users as an agent", "POST", pods, restricted_pod(place, who.image, hostUsers=True)
    )
    root: Json = {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    return (
        Attack("be root as an agent", "POST", pods, restricted_pod(place, who.image, securityContext=root)),
        *((as_node,) if who.has_user_namespaces else ()),
        Attack("start an agent's pod from a foreign image", "POST", pods, restricted_pod(place, FOREIGN_IMAGE)),
        Attack("name a node as an agent", "POST", pods, restricted_pod(place, who.image, nodeName="node")),
        Attack("mark an agent's pod as the sandbox", "POST", pods, marked),
        Attack(
            "start an agent's pod as its own account",
            "POST",
            pods,
            restricted_pod(place, who.image, serviceAccountName=account),
        ),
        Attack(
            "outlive the run as an agent",
            "POST",
            pods,
            restricted_pod(place, who.image, terminationGracePeriodSeconds=86400),
        ),
        Attack("mount a secret as an agent", "POST", pods, restricted_pod(place, who.image, volumes=mount)),
        Attack(
            "mount a driver's volume as an agent",
            "POST",
            pods,
            restricted_pod(place, who.image, volumes=DRIVER_VOLUMES),
        ),
        Attack(
            "open a load balancer as an agent",
            "POST",
            kinds.SERVICE.path(place),
            service | {"spec": {"type": "LoadBalancer", "ports": ports}},
        ),
        Attack(
            "open a node port as an agent",
            "POST",
            kinds.SERVICE.path(place),
            service | {"spec": {"type": "NodePort", "ports": ports}},
        ),
        Attack(
            "write outside its namespace as an agent",
            "POST",
            kinds.CONFIG_MAP.path("default"),
            config_map("default"),
        ),
    )


def config_map(place: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "check", "namespace": place}}


def excess(rules: Object, who: Orchestrator) -> Sequence[str]:
    """Rights in a SelfSubjectRulesReview beyond the chart's, as `verb group/resource`; empty where there are none."""
    found: set[str] = set()
    for rule in resource_rules(rules):
        limited = words(rule, "resourceNames")
        for group in words(rule, "apiGroups"):
            for resource in words(rule, "resources"):
                allowed = ALLOWED.get((group, resource), frozenset())
                if (group, resource) == (RBAC, "clusterroles") and limited == [who.run_manager]:
                    allowed = frozenset({"bind"})
                found |= {f"{verb} {group}/{resource}" for verb in words(rule, "verbs") if verb not in allowed}
    return sorted(found)


def resource_rules(review: Object) -> Sequence[Object]:
    """The rules of a SelfSubjectRulesReview."""
    return objects(review, "status", "resourceRules")


def words(rule: Object, name: str) -> list[str]:
    """A list of words in a rule, empty where it has none."""
    value = child(rule, name)
    return [str(word) for word in value] if isinstance(value, Sequence) and not isinstance(value, str) else []

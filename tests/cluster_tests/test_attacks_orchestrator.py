"""A stolen orchestrator token, tried for real on the real cluster: each request is sent as it is, not as a dry run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ringfence_sandbox.kubernetes import kinds, names, rights
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.json_value import Json, Object, labels_of
from ringfence_sandbox.kubernetes.kinds import Kind
from tests.cluster_tests.chart import assert_refused, send
from tests.cluster_tests.field import Field, field
from tests.cluster_tests.node import Cluster

pytestmark = pytest.mark.cluster

RBAC = "rbac.authorization.k8s.io"
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices")
INGRESS = Kind("networking.k8s.io", "v1", "ingresses")
POLICY = Kind("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", is_namespaced=False)
WEBHOOK = Kind("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", is_namespaced=False)
CSR = Kind("certificates.k8s.io", "v1", "certificatesigningrequests", is_namespaced=False)
VOLUME = Kind("", "v1", "persistentvolumes", is_namespaced=False)
PRIORITY = Kind("scheduling.k8s.io", "v1", "priorityclasses", is_namespaced=False)
LEASE = Kind("coordination.k8s.io", "v1", "leases")


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Field]:
    with field(cluster, "thief") as found:
        yield found


@dataclass(frozen=True)
class Try:
    name: str
    method: str
    path: str
    body: Json = None
    kind: str = "json"


def as_patch(labels: dict[str, Json] | None = None, **metadata: Json) -> Object:
    return {"metadata": ({"labels": labels} if labels else {}) | metadata}


def on_namespaces(place: Field) -> list[Try]:
    """Adopting, deleting and making namespaces; weakening those of runs."""
    every, labels = kinds.NAMESPACE.path(), place.labels

    def one(name: str) -> str:
        return kinds.NAMESPACE.path(name=name)

    fresh = f"rf-{place.installed.name}-new"
    tries = [
        Try(f"adopt {name}", "PATCH", one(name), as_patch(labels()), "merge")
        for name in (
            "kube-system",
            "default",
            place.installed.namespace,
            place.bystander,
            place.lookalike,
            place.neighbour,
        )
    ]
    tries += [
        Try(f"delete {name}", "DELETE", one(name))
        for name in ("kube-system", place.installed.namespace, place.bystander, place.lookalike, place.neighbour)
    ]
    made = {
        "kube-evil": labels(),
        "default-rf-x": labels(),
        fresh: {},
        f"{fresh}-a": labels(enforce=None),
        f"{fresh}-b": labels(enforce="privileged"),
        f"{fresh}-c": labels(enforce="baseline"),
        f"{fresh}-d": labels(version="v1.24"),
        f"{fresh}-e": labels(instance=f"{place.installed.name}-n"),
        f"{fresh}-f": labels(managed="Helm"),
        f"{fresh}-g": labels(**{"istio-injection": "disabled"}),
        f"{fresh}-h": labels(team="payments"),
    }
    tries += [
        Try(f"make {name}", "POST", every, rights.namespace(name, {k: v for k, v in found.items() if v is not None}))
        for name, found in made.items()
    ]
    run = one(place.run)
    weak: dict[str, dict[str, str | None]] = {
        "weaken to baseline": {"enforce": "baseline"},
        "take enforcement away": {"enforce": None},
        "pin to v1.20": {"version": "v1.20"},
        "drop the managed-by label": {"managed": None},
        "move to another installation": {"instance": "other"},
        "exempt from a stranger's policy": {"admission.gatekeeper.sh/ignore": "yes"},
    }
    tries += [Try(word, "PATCH", run, as_patch(labels(**changed)), "merge") for word, changed in weak.items()]
    annotated = as_patch(None, annotations={"scheduler.alpha.kubernetes.io/node-selector": "role=control"})
    tries += [
        Try("pin to nodes", "PATCH", run, annotated, "merge"),
        Try("keep from going", "PATCH", run, as_patch(None, finalizers=["a/b"]), "merge"),
        Try("replace whole", "PUT", run, rights.namespace(place.run, labels(enforce="privileged"))),
        Try("finalise", "PUT", f"{run}/finalize", rights.namespace(place.run, labels())),
    ]
    return tries


def on_bindings(place: Field) -> list[Try]:
    """Handing rights to itself, to strangers, and to an agent what is not an agent's."""
    who, run = place.installed.who, place.run
    itself = ("ServiceAccount", who.account, who.namespace)
    agent = ("ServiceAccount", names.SERVICE_ACCOUNT, run)
    manager, own = ("ClusterRole", who.run_manager), ("Role", names.SERVICE_ACCOUNT)
    path = kinds.ROLE_BINDING.path
    tries: list[Try] = []
    for elsewhere in ("kube-system", "default", who.namespace, place.bystander, place.lookalike, place.neighbour):
        body = rights.binding(elsewhere, "thief", role=manager, subject=itself)
        tries.append(Try(f"manage {elsewhere}", "POST", path(elsewhere), body))
        tries.append(Try(f"manage {elsewhere} by apply", "PATCH", path(elsewhere, "thief"), body, "apply"))
    for role in ("cluster-admin", "admin", "edit", "view", f"{who.account}"):
        body = rights.binding(run, "thief", role=("ClusterRole", role), subject=itself)
        tries.append(Try(f"become {role} in a run", "POST", path(run), body))
    strangers = {
        "another account": ("ServiceAccount", "default", "kube-system"),
        "the run's default account": ("ServiceAccount", "default", run),
        "another run's agent": ("ServiceAccount", names.SERVICE_ACCOUNT, place.neighbour),
        "a user": ("User", "mallory", ""),
        "every account": ("Group", "system:serviceaccounts", ""),
        "anonymous": ("User", "system:anonymous", ""),
    }
    for word, subject in strangers.items():
        for role_word, role_ref in (("manager", manager), ("agent", own)):
            body = rights.binding(run, "thief", role=role_ref, subject=subject)
            tries.append(Try(f"give the {role_word} role to {word}", "POST", path(run), body))
    tries.append(
        Try("manage as an agent", "POST", path(run), rights.binding(run, "thief", role=manager, subject=agent))
    )
    admin = rights.binding("", "thief", role=("ClusterRole", "cluster-admin"), subject=itself)
    tries.append(Try("become cluster-admin", "POST", rights.CLUSTER_ROLE_BINDING.path(), admin))
    everything: Json = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    wide: dict[str, Json] = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": who.run_manager}}
    manager_path = rights.CLUSTER_ROLE.path(name=who.run_manager)
    tries.append(Try("widen its own role", "PATCH", manager_path, wide | {"rules": everything}, "apply"))
    return tries


def on_roles(place: Field) -> list[Try]:
    rules: dict[str, dict[str, Json]] = {
        "everything": {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        "every verb": {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]},
        "secrets": {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        "tokens": {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
        "exec": {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
        "any subresource": {"apiGroups": [""], "resources": ["pods/*"], "verbs": ["get"]},
        "roles": {"apiGroups": [RBAC], "resources": ["roles"], "verbs": ["get"]},
        "escalation": {"apiGroups": [""], "resources": ["pods"], "verbs": ["escalate"]},
        "impersonation": {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
        "network policy": {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["delete"]},
        "quota": {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["patch"]},
    }
    path = kinds.ROLE.path(place.run)
    tries = [
        Try(f"write {word}", "POST", path, rights.role(place.run, "thief", [rule])) for word, rule in rules.items()
    ]
    body = rights.role(place.run, names.SERVICE_ACCOUNT, [rules["everything"]])
    agents = kinds.ROLE.path(place.run, names.SERVICE_ACCOUNT)
    return [*tries, Try("widen the agent's role", "PATCH", agents, body, "apply")]


def on_credentials(place: Field) -> list[Try]:
    """Tokens and secrets, outside and inside."""
    token: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    long: Object = token | {"spec": {"expirationSeconds": 86400 * 30}} if isinstance(token, dict) else token
    own = place.installed
    forever: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "forever", "annotations": {"kubernetes.io/service-account.name": names.SERVICE_ACCOUNT}},
    }
    cloud: Object = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": names.SERVICE_ACCOUNT,
            "namespace": place.run,
            "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/admin"},
        },
    }
    account = kinds.SERVICE_ACCOUNT.path
    return [
        Try("token in kube-system", "POST", account("kube-system", "default", "token"), token),
        Try("token of itself", "POST", account(own.namespace, own.who.account, "token"), token),
        Try("token of a bystander", "POST", account(place.bystander, "default", "token"), token),
        Try("token of a neighbour's agent", "POST", account(place.neighbour, "agent", "token"), token),
        Try("token of a run's default account", "POST", account(place.run, "default", "token"), token),
        Try("a month's token", "POST", account(place.run, names.SERVICE_ACCOUNT, "token"), long),
        Try("a token that never ends", "POST", kinds.SECRET.path(place.run), forever),
        Try("a cloud role for an agent", "PATCH", account(place.run, names.SERVICE_ACCOUNT), cloud, "apply"),
        Try("another account", "POST", account(place.run), {
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "two"},
        }),
        Try("sign a certificate", "POST", CSR.path(), {
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "thief"},
            "spec": {"request": "eA==", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]},
        }),
    ]  # fmt: skip


def on_reads(place: Field) -> list[Try]:
    """Admission never sees these, so RBAC alone must."""
    elsewhere = ("kube-system", "default", place.installed.namespace, place.bystander, place.lookalike, place.neighbour)
    tries = [
        Try(f"read {kind.plural} of {where}", "GET", kind.path(where))
        for where in elsewhere
        for kind in (kinds.SECRET, kinds.CONFIG_MAP, kinds.POD, kinds.ROLE_BINDING, kinds.SERVICE_ACCOUNT)
    ]
    everywhere = (kinds.SECRET, kinds.CONFIG_MAP, kinds.POD, kinds.EVENT, kinds.ROLE_BINDING, kinds.NODE, VOLUME, LEASE)
    tries += [Try(f"read all {kind.plural}", "GET", kind.path()) for kind in (*everywhere, rights.CLUSTER_ROLE, POLICY)]
    tries.append(Try("read a run's secrets", "GET", kinds.SECRET.path(place.run)))
    tries.append(Try("read one secret of a run", "GET", kinds.SECRET.path(place.run, names.CREDENTIAL)))
    tries.append(Try("read metrics", "GET", "/metrics"))
    tries.append(Try("read logs of the node", "GET", "/logs/"))
    return tries


def on_networks(place: Field) -> list[Try]:
    base: dict[str, Json] = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    world: Json = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]
    both: Json = ["Ingress", "Egress"]
    own = {"kubernetes.io/metadata.name": place.installed.namespace}
    anyone: Json = [{"from": [{"namespaceSelector": {}}]}]
    closed = {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": both}
    specs: dict[str, tuple[str, dict[str, Json]]] = {
        "open to the world": ("thief", {"podSelector": {}, "policyTypes": both, "egress": world}),
        "open to everything": ("thief", {"podSelector": {}, "policyTypes": both, "egress": [{}]}),
        "open to all of our namespace": (
            "openings",
            {"podSelector": {}, "policyTypes": both, "egress": [{"to": [{"namespaceSelector": {"matchLabels": own}}]}]},
        ),
        "let anyone in": ("openings", {"podSelector": {}, "policyTypes": both, "ingress": anyone}),
        "speak of one direction only": ("openings", {"podSelector": {}, "policyTypes": ["Ingress"]}),
        "close less than all pods": ("closed", closed),
    }
    path = kinds.NETWORK_POLICY.path
    tries = [
        Try(word, "PATCH", path(place.run, name), base | {"metadata": {"name": name}, "spec": spec}, "apply")
        for word, (name, spec) in specs.items()
    ]
    tries += [Try(f"delete {name}", "DELETE", path(place.run, name)) for name in ("closed", "openings")]
    tries += [
        Try("delete a quota", "DELETE", kinds.RESOURCE_QUOTA.path(place.run, "sandbox")),
        Try("delete limits", "DELETE", kinds.LIMIT_RANGE.path(place.run, "sandbox")),
        Try("an endpoint slice", "POST", ENDPOINT_SLICE.path(place.run), {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "thief"},
            "addressType": "IPv4", "endpoints": [{"addresses": ["169.254.169.254"]}], "ports": [],
        }),
        Try("an ingress", "POST", INGRESS.path(place.run), {
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "thief"},
            "spec": {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}},
        }),
        Try("a service", "POST", kinds.SERVICE.path(place.run), {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "thief"},
            "spec": {"type": "ExternalName", "externalName": "example.org"},
        }),
    ]  # fmt: skip
    return tries


def on_pods(place: Field) -> list[Try]:
    agent: dict[str, Json] = {"serviceAccountName": names.SERVICE_ACCOUNT}
    root: Json = {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    container: dict[str, Json] = {"name": "main", "image": place.image}
    privileged: Json = [container | {"securityContext": {"privileged": True}}]
    host: Json = [{"name": "h", "hostPath": {"path": "/"}}]
    specs: dict[str, dict[str, Json]] = {
        "privileged": {"containers": privileged},
        "on a host path": {"volumes": host},
        "on the host's network": {"hostNetwork": True, "hostUsers": True},
        "among the host's processes": {"hostPID": True, "hostUsers": True},
        "as root": {"securityContext": root},
        "on a node by name": {"nodeName": "rf-node"},
        "as the default account": {"serviceAccountName": "default"},
        "before all others": {"priorityClassName": "system-node-critical"},
        "with a day to end": {"terminationGracePeriodSeconds": 86400},
        "from an image volume": {"volumes": [{"name": "i", "image": {"reference": "foreign.invalid/x:1"}}]},
    }
    pods = kinds.POD.path
    tries = [
        Try(f"a pod {word}", "POST", pods(place.run), rights.restricted_pod(place.run, place.image, **(agent | spec)))
        for word, spec in specs.items()
    ]
    tries.append(
        Try("a foreign pod", "POST", pods(place.run), rights.restricted_pod(place.run, "foreign.invalid/x:1", **agent))
    )
    tries += [
        Try(f"a pod in {where}", "POST", pods(where), rights.restricted_pod(where, place.image, **agent))
        for where in ("kube-system", place.installed.namespace, place.bystander, place.lookalike, place.neighbour)
    ]
    image: Json = [{"op": "replace", "path": "/spec/containers/1/image", "value": "foreign.invalid/x:1"}]
    tries.append(Try("a foreign image for a sandbox", "PATCH", pods(place.run, names.POD), image, "patch"))
    debug: Json = {"spec": {"ephemeralContainers": [{"name": "d", "image": place.image}]}}
    tries.append(Try("a debugger", "PATCH", pods(place.run, names.POD, "ephemeralcontainers"), debug, "merge"))
    tries.append(Try("exec in a sandbox", "POST", pods(place.run, names.POD, "exec") + "?command=id&stdout=1"))
    tries.append(Try("attach to a sandbox", "POST", pods(place.run, names.POD, "attach") + "?stdout=1"))
    tries.append(Try("a proxy to a sandbox", "GET", pods(place.run, names.POD, "proxy")))
    tries.append(Try("a tunnel to a stranger's pod", "POST", pods("kube-system", "etcd", "portforward") + "?ports=1"))
    tries.append(Try("a tunnel to an agent's pod", "POST", pods(place.run, "other", "portforward") + "?ports=1"))
    return tries


def on_the_cluster(place: Field) -> list[Try]:
    name = place.installed.name
    return [
        Try("end the policy", "DELETE", POLICY.path(name=f"{name}-orchestrator")),
        Try("unbind the policy", "DELETE", rights.POLICY_BINDING.path(name=f"{name}-orchestrator")),
        Try("unbind the agents' policy", "DELETE", rights.POLICY_BINDING.path(name=f"{name}-agents")),
        Try("a webhook", "POST", WEBHOOK.path(), {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "thief"},
        }),
        Try("a host's volume", "POST", VOLUME.path(), {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "thief"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/"}},
        }),
        Try("a priority", "POST", PRIORITY.path(), {
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "thief"}, "value": 1000,
        }),
        Try("a node's kubelet", "GET", "/api/v1/nodes/rf-node/proxy/pods"),
        Try("cordon a node", "PATCH", kinds.NODE.path(name="rf-node"), {"spec": {"unschedulable": True}}, "merge"),
    ]  # fmt: skip


GROUPS = {
    "namespaces": on_namespaces,
    "bindings": on_bindings,
    "roles": on_roles,
    "credentials": on_credentials,
    "reads": on_reads,
    "networks": on_networks,
    "pods": on_pods,
    "cluster": on_the_cluster,
}


@pytest.mark.parametrize("group", GROUPS)
async def test_a_stolen_orchestrator_token_is_refused(place: Field, group: str) -> None:
    tries = GROUPS[group](place)
    async with place.installed.orchestrator() as thief:
        replies = await asyncio.gather(*(send(thief, one.method, one.path, one.body, kind=one.kind) for one in tries))
    for one, reply in zip(tries, replies, strict=True):
        try:
            assert_refused(reply)
        except AssertionError as error:
            raise AssertionError(f"{one.name}: {error}") from error


async def test_what_the_orchestrator_needs_inside_a_run_is_not_refused(place: Field) -> None:
    async with place.installed.orchestrator() as own:
        assert labels_of(await own.get(kinds.NAMESPACE, place.run))[names.MANAGED_BY] == names.MANAGER
        assert await own.token(place.run, names.SERVICE_ACCOUNT, expiry_s=600)
        assert await own.logs(place.run, names.POD, container=names.INSTALLER)
        rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
        await own.apply(rights.role(place.run, "extra", [rule]))
        assert await own.delete(kinds.ROLE, "extra", namespace=place.run)


async def test_the_bystanders_labels_are_those_that_an_administrator_gave(place: Field, api: ClusterApi) -> None:
    for name in (place.bystander, place.lookalike):
        assert labels_of(await api.get(kinds.NAMESPACE, name)) == {"kubernetes.io/metadata.name": name}
    assert labels_of(await api.get(kinds.NAMESPACE, place.neighbour))[names.INSTANCE].endswith("-n")

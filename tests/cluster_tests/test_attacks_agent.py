"""An agent's account that somebody made cluster-admin in its namespace: its fence holds whatever its Role says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ringfence_sandbox.kubernetes import kinds, names, rights
from ringfence_sandbox.kubernetes.json_value import Json, child
from ringfence_sandbox.kubernetes.kinds import Kind
from tests.cluster_tests.chart import assert_refused, send, until
from tests.cluster_tests.field import Field, field
from tests.cluster_tests.node import Cluster

pytestmark = pytest.mark.cluster

RBAC = "rbac.authorization.k8s.io"
POD = kinds.POD.path
MARKS = {names.MANAGED_BY: names.MANAGER}


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[Field]:
    with field(cluster, "agent") as found:
        account = f"--serviceaccount={found.run}:{names.SERVICE_ACCOUNT}"
        bind = ("create", "rolebinding", "far-too-much", "--clusterrole=cluster-admin", account)
        found.installed.kubectl(*bind, f"--namespace={found.run}")
        yield found


@dataclass(frozen=True)
class Try:
    name: str
    method: str
    path: str
    body: Json = None
    kind: str = "json"


def pod_tries(place: Field) -> list[Try]:
    main: dict[str, Json] = {"name": "main", "image": place.image}
    whole: dict[str, Json] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    locked = main | {"securityContext": whole}
    secret: Json = [{"name": "x", "valueFrom": {"secretKeyRef": {"name": names.CREDENTIAL, "key": "server.key"}}}]
    token: Json = {"sources": [{"serviceAccountToken": {"path": "t", "audience": "sts.example.org"}}]}
    certificate: Json = {"signerName": "example.org/any", "keyType": "ED25519", "credentialBundlePath": "c"}
    scratch: Json = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}
    specs: dict[str, dict[str, Json]] = {
        "in the node's user namespace": {"hostUsers": True},
        "that says nothing of users": {"hostUsers": None},
        "with a driver's volume": {"volumes": [{"name": "c", "csi": {"driver": "secrets.example.org"}}]},
        "with a claim of its own": {"volumes": [{"name": "e", "ephemeral": {"volumeClaimTemplate": scratch}}]},
        "with a share of elsewhere": {"volumes": [{"name": "n", "nfs": {"server": "192.0.2.1", "path": "/"}}]},
        "with a certificate": {"volumes": [{"name": "p", "projected": {"sources": [{"podCertificate": certificate}]}}]},
        "from a foreign image": {"containers": [main | {"image": "foreign.invalid/x:1"}]},
        "with a foreign first container": {"initContainers": [main | {"name": "i", "image": "foreign.invalid/x:1"}]},
        "with a foreign image volume": {"volumes": [{"name": "i", "image": {"reference": "foreign.invalid/x:1"}}]},
        "on a node by name": {"nodeName": "rf-node"},
        "on a host path": {"volumes": [{"name": "h", "hostPath": {"path": "/var/run"}}]},
        "on the host's network": {"hostNetwork": True, "hostUsers": True},
        "as root": {"securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}},
        "as whoever the image says": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}},
        "with a first container as root": {
            "initContainers": [locked | {"name": "i", "securityContext": whole | {"runAsUser": 0}}]
        },
        "that sees all of /proc": {"containers": [locked | {"securityContext": whole | {"procMount": "Unmasked"}}]},
        "privileged": {"containers": [main | {"securityContext": {"privileged": True}}]},
        "as the agent's own account": {"serviceAccountName": names.SERVICE_ACCOUNT},
        "with the sandbox's secret mounted": {"volumes": [{"name": "s", "secret": {"secretName": names.CREDENTIAL}}]},
        "with a secret projected": {
            "volumes": [{"name": "s", "projected": {"sources": [{"secret": {"name": names.CREDENTIAL}}]}}]
        },
        "with a secret in its environment": {"containers": [main | {"env": secret}]},
        "with all of a secret in its environment": {
            "containers": [main | {"envFrom": [{"secretRef": {"name": names.CREDENTIAL}}]}]
        },
        "with a token for elsewhere": {"volumes": [{"name": "t", "projected": token}]},
        "on the workspace's volume": {"volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": "workspace"}}]},
        "before all others": {"priorityClassName": "system-cluster-critical"},
        "with a day to end": {"terminationGracePeriodSeconds": 86400},
    }
    tries = [
        Try(f"a pod {word}", "POST", POD(place.run), rights.restricted_pod(place.run, place.image, **spec))
        for word, spec in specs.items()
    ]
    marked: dict[str, dict[str, Json]] = {
        "marked as the sandbox": {"labels": {names.ROLE: names.POD}},
        "marked as ours": {"labels": MARKS},
        "that never goes": {"finalizers": ["example.org/stay"]},
    }
    for word, metadata in marked.items():
        body = rights.restricted_pod(place.run, place.image)
        body["metadata"] = {"name": "check", **metadata}
        tries.append(Try(f"a pod {word}", "POST", POD(place.run), body))
    for where in ("default", "kube-system", place.bystander, place.neighbour):
        body = rights.restricted_pod(where, place.image)
        tries.append(Try(f"a pod in {where}", "POST", POD(where), body))
    return tries


def sandbox_tries(place: Field) -> list[Try]:
    sandbox = POD(place.run, names.POD)
    image: Json = [{"op": "replace", "path": "/spec/containers/1/image", "value": place.image}]
    unmark: Json = {"metadata": {"labels": {names.ROLE: None, names.MANAGED_BY: None}}}
    debug: Json = {"spec": {"ephemeralContainers": [{"name": "d", "image": place.image}]}}
    evict: Json = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": names.POD}}
    bound: Json = {
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": names.POD}, "target": {"kind": "Node", "name": "n"},
    }  # fmt: skip
    more: Json = [{"op": "replace", "path": "/spec/containers/1/resources/limits/memory", "value": "300Mi"}]
    status: Json = {"status": {"phase": "Failed"}}
    return [
        Try("change its own sandbox's image", "PATCH", sandbox, image, "patch"),
        Try("take the marks off its sandbox", "PATCH", sandbox, unmark, "merge"),
        Try("annotate its sandbox", "PATCH", sandbox, {"metadata": {"annotations": {"a": "b"}}}, "merge"),
        Try("delete its sandbox", "DELETE", sandbox),
        Try("delete every pod", "DELETE", POD(place.run)),
        Try("evict its sandbox", "POST", f"{sandbox}/eviction", evict),
        Try("bind its sandbox to a node", "POST", f"{sandbox}/binding", bound),
        Try("lie about its sandbox", "PATCH", f"{sandbox}/status", status, "merge"),
        Try("debug its sandbox", "PATCH", f"{sandbox}/ephemeralcontainers", debug, "merge"),
        Try("resize its sandbox", "PATCH", f"{sandbox}/resize", more, "patch"),
        Try("exec", "POST", f"{sandbox}/exec?command=id&stdout=true"),
        Try("attach", "POST", f"{sandbox}/attach?stdout=true"),
        Try("a tunnel to the server inside", "POST", f"{sandbox}/portforward?ports=7443"),
        Try("a proxy to the server inside", "POST", f"{sandbox}/proxy/"),
    ]


def fence_tries(place: Field) -> list[Try]:
    run = place.run
    token: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    agent = ("ServiceAccount", names.SERVICE_ACCOUNT, run)
    bound = rights.binding(run, "more", role=("ClusterRole", "cluster-admin"), subject=agent)
    everything: dict[str, Json] = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    network: Json = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "open"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}], "ingress": [{}]},
    }  # fmt: skip
    slices = Kind("discovery.k8s.io", "v1", "endpointslices")
    ingress = Kind("networking.k8s.io", "v1", "ingresses")
    lease = Kind("coordination.k8s.io", "v1", "leases")
    endpoints = Kind("", "v1", "endpoints")
    account = kinds.SERVICE_ACCOUNT.path
    policy, quota, limits = kinds.NETWORK_POLICY.path, kinds.RESOURCE_QUOTA.path, kinds.LIMIT_RANGE.path
    small: Json = {"spec": {"hard": {"pods": "1000"}}}
    made: dict[str, tuple[Kind, Json]] = {
        "a secret": (kinds.SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        "an account": (kinds.SERVICE_ACCOUNT, {
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"},
        }),
        "a role": (kinds.ROLE, rights.role(run, "more", [everything])),
        "a binding": (kinds.ROLE_BINDING, bound),
        "an open network": (kinds.NETWORK_POLICY, network),
        "an endpoint slice": (slices, {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [],
        }),
        "endpoints": (endpoints, {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"}}),
        "an ingress": (ingress, {
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "s"},
            "spec": {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}},
        }),
        "a lease": (lease, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "s"}}),
        "a volume claim": (kinds.VOLUME_CLAIM, {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "s"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }),
        "a quota": (kinds.RESOURCE_QUOTA, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "s"}}),
    }  # fmt: skip
    relabeled: Json = {"metadata": {"labels": {"a": "b"}}}
    tries = [Try(f"make {word}", "POST", kind.path(run), body) for word, (kind, body) in made.items()]
    return [
        *tries,
        Try("take its own token", "POST", account(run, names.SERVICE_ACCOUNT, "token"), token),
        Try("take a token of the default account", "POST", account(run, "default", "token"), token),
        Try("open its network", "PATCH", policy(run, "closed"), {"spec": {"egress": [{}]}}, "merge"),
        Try("end its network policy", "DELETE", policy(run, "closed")),
        Try("end all network policies", "DELETE", policy(run)),
        Try("raise its quota", "PATCH", quota(run, "sandbox"), small, "merge"),
        Try("end its quota", "DELETE", quota(run, "sandbox")),
        Try("end its limits", "DELETE", limits(run, "sandbox")),
        Try("delete its credential", "DELETE", kinds.SECRET.path(run, names.CREDENTIAL)),
        Try("widen its role", "PATCH", kinds.ROLE.path(run, names.SERVICE_ACCOUNT), {"rules": [everything]}, "merge"),
        Try("delete the orchestrator's binding", "DELETE", kinds.ROLE_BINDING.path(run, "orchestrator")),
        Try("relabel its namespace", "PATCH", kinds.NAMESPACE.path(name=run), relabeled, "merge"),
        Try("delete its namespace", "DELETE", kinds.NAMESPACE.path(name=run)),
        Try("make a namespace", "POST", kinds.NAMESPACE.path(), rights.namespace("rf-mine", place.labels())),
    ]  # fmt: skip


def service_tries(place: Field) -> list[Try]:
    specs: dict[str, dict[str, Json]] = {
        "a load balancer": {"type": "LoadBalancer"},
        "a node port": {"type": "NodePort"},
        "a name elsewhere": {"type": "ExternalName", "externalName": "kubernetes.default.svc"},
        "an external address": {"externalIPs": ["192.0.2.1"]},
    }
    return [
        Try(word, "POST", kinds.SERVICE.path(place.run), {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": spec if "externalName" in spec else spec | {"ports": [{"port": 80}]},
        })
        for word, spec in specs.items()
    ]  # fmt: skip


def outside_tries(place: Field) -> list[Try]:
    where = (place.bystander, place.neighbour, place.installed.namespace, "kube-system", "default")
    tries = [
        Try(f"read {kind.plural} of {one}", "GET", kind.path(one))
        for one in where
        for kind in (kinds.SECRET, kinds.POD, kinds.CONFIG_MAP)
    ]
    tries += [
        Try(f"read all {kind.plural}", "GET", kind.path()) for kind in (kinds.NAMESPACE, kinds.NODE, kinds.SECRET)
    ]
    return tries


GROUPS = {
    "pods": pod_tries,
    "sandbox": sandbox_tries,
    "fence": fence_tries,
    "services": service_tries,
    "outside": outside_tries,
}


@pytest.mark.parametrize("group", GROUPS)
async def test_an_agent_that_is_cluster_admin_in_its_namespace_cannot_change_its_fence(
    place: Field, group: str
) -> None:
    tries = GROUPS[group](place)
    async with place.agent() as agent:
        replies = await asyncio.gather(*(send(agent, one.method, one.path, one.body, kind=one.kind) for one in tries))
    for one, reply in zip(tries, replies, strict=True):
        try:
            assert_refused(reply)
        except AssertionError as error:
            raise AssertionError(f"{one.name}: {error}") from error


def deployment(place: Field, name: str, *, labels: dict[str, Json], image: str) -> dict[str, Json]:
    body = rights.restricted_pod(place.run, image)
    selected: dict[str, Json] = {"app": name}
    template: dict[str, Json] = {"metadata": {"labels": selected | labels}, "spec": {**dict_of(body["spec"])}}
    template["spec"] = {key: value for key, value in dict_of(template["spec"]).items() if key != "restartPolicy"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": place.run},
        "spec": {"replicas": 1, "selector": {"matchLabels": selected}, "template": template},
    }


def dict_of(value: Json) -> dict[str, Json]:
    assert isinstance(value, dict)
    return value


async def test_a_deployment_makes_no_pod_that_the_agent_could_not_make_itself(place: Field) -> None:
    async with place.agent() as agent:
        forged = deployment(place, "forged", labels={names.ROLE: names.POD}, image=place.image)
        foreign = deployment(place, "foreign", labels={}, image="foreign.invalid/x:1")
        for body in (forged, foreign):
            await agent.apply(body, manager="agent")

        async def are_refused() -> bool:
            found = [await agent.get(kinds.DEPLOYMENT, name, namespace=place.run) for name in ("forged", "foreign")]
            return all("ReplicaFailure" in json.dumps(child(one, "status")) for one in found)

        await until(are_refused)
        assert await agent.list(kinds.POD, namespace=place.run, selector="app in (forged, foreign)") == []


async def test_an_agent_cannot_leave_the_runtime_class_that_its_profile_demands(place: Field) -> None:
    note = f"{names.RUNTIME_CLASS}=sandboxed"
    place.installed.kubectl("annotate", "namespace", place.run, note)
    try:
        async with place.agent() as agent:

            async def is_refused() -> bool:
                pod = rights.restricted_pod(place.run, place.image)
                reply = await agent.attempt("POST", POD(place.run), query={"dryRun": "All"}, body=pod)
                return reply.status == 422 and b"demands a runtime class" in reply.body

            await until(is_refused)
    finally:
        place.installed.kubectl("annotate", "namespace", place.run, f"{names.RUNTIME_CLASS}-")


async def test_an_agent_cannot_make_workloads_without_end(place: Field) -> None:
    async with place.agent() as agent:
        replies = []
        for number in range(11):
            body = deployment(place, f"many-{number}", labels={}, image=place.image)
            body["spec"] = dict_of(body["spec"]) | {"replicas": 0}
            replies.append(await send(agent, "POST", kinds.DEPLOYMENT.path(place.run), body))
        assert b"exceeded quota" in replies[-1].body
        assert 201 in {reply.status for reply in replies}


async def test_an_agents_workloads_run_beside_the_sandbox(place: Field) -> None:
    command: Json = [{"name": "main", "image": place.image, "command": ["sleep", "60"]}]
    async with place.agent() as agent:
        body = rights.restricted_pod(place.run, place.image)
        body["metadata"] = {"name": "check", "labels": {"app": "check"}, "namespace": place.run}
        spec = dict_of(body["spec"])
        locked: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        spec["containers"] = [dict_of(command[0]) | {"securityContext": locked}] if isinstance(command, list) else []
        await agent.apply(body, manager="agent")

        async def runs() -> bool:
            found = await agent.get(kinds.POD, "check", namespace=place.run)
            return child(found, "status", "phase") == "Running"

        await until(runs)
        for path in (POD(place.run, "check"), f"{POD(place.run)}?labelSelector=app=check"):
            # once asked for, a long grace holds the namespace: its own removal does not shorten it
            slow = await send(agent, "DELETE", path, {"gracePeriodSeconds": 86400})
            assert_refused(slow)
            assert b"within 30 seconds" in slow.body
        assert await agent.delete(kinds.POD, "check", namespace=place.run, grace_s=0)


def test_what_an_agent_may_do_elsewhere_is_nothing(place: Field) -> None:
    """`kubectl auth can-i --list` as the agent: the self-reviews and the discovery that every account has."""
    who = f"system:serviceaccount:{place.run}:{names.SERVICE_ACCOUNT}"
    said = place.installed.kubectl("auth", "can-i", "--list", f"--as={who}", "--namespace", place.bystander)
    resources = {line.split()[0] for line in said.splitlines()[1:] if not line.startswith(" ")}
    assert "selfsubjectrulesreviews.authorization.k8s.io" in resources
    assert all(one.startswith(("selfsubject", "clustertrustbundles")) for one in resources), resources

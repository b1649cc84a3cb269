"""Spec → objects: word for word against golden YAML, and what must hold for any spec."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ringfence_sandbox.contract import ClusterRule, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes import names, objects
from ringfence_sandbox.kubernetes.credentials import ServerFiles
from ringfence_sandbox.kubernetes.json_value import Json, child, labels_of, mapping, text
from ringfence_sandbox.kubernetes.objects import shape_digest
from ringfence_sandbox.kubernetes.pod import has_trust
from ringfence_sandbox.kubernetes.settings import ClusterSettings, Peer, Requests

GOLDEN = Path(__file__).parent / "golden"
FILES = ServerFiles(b"certificate", b"key", b"authority")

SETTINGS = ClusterSettings(
    image="images.example.org/team/python:3.12",
    inside_image="images.example.org/ringfence/inside:1",
    egress_address="192.0.2.9",
)
PLAIN = SandboxSpec(
    id=SandboxId("run-7"),
    labels={"run": "run-7", "task": "T-12", "team": "payments", "profile": "python", "person": "ana@example.org"},
    limits=Limits(memory_bytes=1 << 30, disk_bytes=4 << 30, cpus=2),
)
WIDE = replace(
    PLAIN,
    has_egress=True,
    ends_tls=True,
    runtime_class="gvisor",
    image="images.example.org/team/node:24",
    cluster_rules=(ClusterRule(("", "apps"), ("pods", "deployments"), ("get", "list", "create")),),
)
CASES = {
    "plain": (PLAIN, SETTINGS, "running"),
    "wide": (
        WIDE,
        replace(
            SETTINGS,
            storage_class="fast",
            control_cidrs=("192.0.2.7/32",),
            run_manager_role="ringfence-run-manager",
            orchestrator=Peer("ringfence-system", {"name": "orchestrator"}),
        ),
        "running",
    ),
    "pooled": (PLAIN, replace(SETTINGS, reach="port-forward"), "pooled"),
}


def built(spec: SandboxSpec, settings: ClusterSettings, state: str = "running") -> objects.SandboxObjects:
    return objects.build(spec, settings, namespace="rf-r-run-7", state=state, credential=FILES)


def everything(made: objects.SandboxObjects) -> list[objects.Thing]:
    return [made.namespace, *made.orchestrator, *made.fence, made.pod]


def test_only_what_goes_out_and_has_something_to_trust_gets_a_place_for_it() -> None:
    opened = replace(PLAIN, has_egress=True, ends_tls=True)
    own = replace(SETTINGS, company_roots=(b"PEM",))
    for spec, settings in ((replace(opened, has_egress=False), own), (opened, replace(SETTINGS, egress_address=""))):
        assert not has_trust(spec, settings)
    assert not has_trust(replace(opened, ends_tls=False), SETTINGS)
    assert has_trust(opened, SETTINGS)
    assert has_trust(replace(opened, ends_tls=False), own)
    # a warm pod without the place serves nobody who needs it
    assert shape_digest(opened, SETTINGS) != shape_digest(replace(opened, ends_tls=False), SETTINGS)


def one(made: objects.SandboxObjects, kind: str, name: str) -> objects.Thing:
    return next(
        thing for thing in everything(made) if thing["kind"] == kind and text(thing, "metadata", "name") == name
    )


@pytest.mark.parametrize("case", sorted(CASES))
def test_objects_are_word_for_word_what_was_reviewed(case: str) -> None:
    spec, settings, state = CASES[case]
    rendered = yaml.safe_dump_all(everything(built(spec, settings, state)), sort_keys=False, width=120)
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("RINGFENCE_WRITE_GOLDEN"):
        golden.write_text(rendered, encoding="utf-8")
    assert rendered == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_container_may_gain_anything(case: str) -> None:
    spec, settings, state = CASES[case]
    body = mapping(built(spec, settings, state).pod, "spec")
    assert body["automountServiceAccountToken"] is False
    assert body["hostUsers"] is False
    assert not body.get("nodeName")
    assert "initContainers" not in body
    for group in ("containers",):
        containers = body[group]
        assert isinstance(containers, list)
        for container in containers:
            fence = mapping(container, "securityContext")
            assert fence["readOnlyRootFilesystem"] is True
            assert fence["allowPrivilegeEscalation"] is False
            assert child(fence, "capabilities", "drop") == ["ALL"]
            assert child(fence, "seccompProfile", "type") == "RuntimeDefault"
            assert child(container, "resources", "limits", "memory")
    volumes = body["volumes"]
    assert isinstance(volumes, list)
    kinds = {key for volume in volumes for key in volume if key != "name"}
    assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}


def test_network_is_closed_for_every_pod_and_opened_for_the_sandbox_alone() -> None:
    made = built(WIDE, SETTINGS)
    assert one(made, "NetworkPolicy", "closed")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = mapping(one(made, "NetworkPolicy", "openings"), "spec")
    assert child(opened, "podSelector", "matchLabels") == {names.ROLE: names.POD}
    ports = [rule["ports"] for side in ("ingress", "egress") for rule in _list(opened[side])]
    assert ports == [[{"protocol": "TCP", "port": 7443}], [{"protocol": "TCP", "port": 3128}]]


def test_no_egress_opening_without_egress_and_no_ingress_opening_for_port_forward() -> None:
    opened = mapping(one(built(PLAIN, replace(SETTINGS, reach="port-forward")), "NetworkPolicy", "openings"), "spec")
    assert opened["ingress"] == []
    assert opened["egress"] == []


def test_a_run_without_rules_may_do_nothing() -> None:
    assert one(built(PLAIN, SETTINGS), "Role", names.SERVICE_ACCOUNT)["rules"] == []


def test_namespace_is_restricted_at_the_latest_version_in_every_mode() -> None:
    labels = labels_of(built(PLAIN, SETTINGS).namespace)
    for mode in ("enforce", "warn", "audit"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert labels[f"pod-security.kubernetes.io/{mode}-version"] == "latest"


def test_pool_member_carries_nothing_of_any_run() -> None:
    made = built(PLAIN, SETTINGS, "pooled")
    assert "run-7" not in yaml.safe_dump(made.namespace["metadata"]).replace("rf-r-run-7", "")
    assert "ana@example.org" not in yaml.safe_dump_all(everything(made))


def test_labels_that_clean_to_the_same_text_stay_apart() -> None:
    assert names.label_value("ana@a") != names.label_value("ana.a")
    assert names.label_value("ana.a") == "ana.a"
    for hostile in ("a" * 100, "@@@", "ü/\n", "-", "../../x"):
        value = names.label_value(hostile)
        assert 0 < len(value) <= 63
        assert value == names.label_value(value)


@pytest.mark.parametrize("name", ["", "A", "1a", "a/b", "a_b", "a" * 41, "a-", "a\n", "../a"])
def test_text_that_is_no_sandbox_id_is_refused(name: str) -> None:
    assert not names.is_sandbox_id(name)


def test_sandbox_id_fits_a_namespace() -> None:
    assert names.is_sandbox_id("a" * 40)
    assert len(names.cold_namespace(SandboxId("a" * 40))) <= 63


def test_pods_of_another_shape_are_never_taken_for_ours() -> None:
    digest = shape_digest(PLAIN, SETTINGS)
    late = replace(PLAIN, id=SandboxId("other"), labels={}, environment={"A": "b"})
    assert digest == shape_digest(late, SETTINGS)
    for other in (
        replace(PLAIN, image="images.example.org/x"),
        replace(PLAIN, limits=Limits(processes=9)),
        replace(PLAIN, has_egress=True),
        replace(PLAIN, is_reduced_allowed=True),
        replace(PLAIN, runtime_class="kata"),
    ):
        assert digest != shape_digest(other, SETTINGS)


FENCES = {
    "has_user_namespaces": replace(SETTINGS, has_user_namespaces=False),
    "has_storage_limits": replace(SETTINGS, has_storage_limits=False),
    "control_cidrs": replace(SETTINGS, control_cidrs=("192.0.2.7/32",)),
    "control_peer": replace(SETTINGS, control_peer=Peer("elsewhere", {"a": "b"})),
    "egress_peer": replace(SETTINGS, egress_peer=Peer("elsewhere", {"a": "b"})),
    "egress_cidr": replace(SETTINGS, egress_cidr="192.0.2.9/32"),
    "egress_port": replace(SETTINGS, egress_port=3129),
    "no egress": replace(SETTINGS, egress_address=""),
    "reach": replace(SETTINGS, reach="port-forward"),
    "requests": replace(SETTINGS, requests=Requests(cpu_milli=1)),
    "uid": replace(SETTINGS, uid=64001),
    "extra_pods": replace(SETTINGS, extra_pods=9),
    "closed_within_s": replace(SETTINGS, closed_within_s=1.0),
    "inside_image": replace(SETTINGS, inside_image="images.example.org/ringfence/inside:2"),
    "storage_class": replace(SETTINGS, storage_class="fast"),
    "server_port": replace(SETTINGS, server_port=7444),
    "instance": replace(SETTINGS, instance="another"),
    "orchestrator": replace(SETTINGS, run_manager_role="m", orchestrator=Peer("ringfence-system", {"name": "o"})),
}


@pytest.mark.parametrize("changed", FENCES)
def test_a_pod_behind_an_older_fence_is_never_claimed_after_an_upgrade(changed: str) -> None:
    assert shape_digest(WIDE, FENCES[changed]) != shape_digest(WIDE, SETTINGS)


def _list(value: Json) -> list[dict[str, Json]]:
    assert isinstance(value, list)
    return value

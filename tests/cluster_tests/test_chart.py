"""The chart: what it refuses, restricted Pod Security for ourselves, and manifests that are its rendering."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ringfence.cluster import ClusterForm
from ringfence_sandbox.kubernetes.json_value import Json, Object, child
from tests.cluster_tests.chart import CHART, GIVEN, rendered, renders
from tests.cluster_tests.node import ROOT, Cluster

pytestmark = pytest.mark.cluster

MANIFESTS = ROOT / "deploy" / "manifests"
IMAGES = ROOT / "deploy" / "images"


def documents(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def pod_specs(found: list[Object]) -> dict[str, Json]:
    specs: dict[str, Json] = {}
    for one in found:
        name = f"{child(one, 'kind')}/{child(one, 'metadata', 'name')}"
        if child(one, "kind") == "Pod":
            specs[name] = child(one, "spec")
        elif child(one, "spec", "template", "spec") is not None:
            specs[name] = child(one, "spec", "template", "spec")
    return specs


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("image.repository=", "image/repository"),
        ("database.secret=", "database/secret"),
        ("sandbox.allowedImages=null", "allowedImages"),
        ("sandbox.allowedImages={registry.example.org}", "allowedImages"),
        ("sandbox.allowedImages={*}", "allowedImages"),
        ("sandbox.instance=it's'||true", "instance"),
        ("sandbox.controlCidrs={any}", "controlCidrs"),
        ("console.url=http://ringfence.example.org", "console/url"),
        ("worker.replicas=-1", "worker/replicas"),
        ("image.digest=latest", "image/digest"),
        ("nonsense=1", "nonsense"),
        ("state.enabled=false", "there can be one pod only"),
        # what is rendered without a cluster would come with other keys each time, and end the log
        ("keys.secret=", "name a Secret in keys.secret"),
        ("metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.tokenSecret"),
    ],
)
def test_values_that_would_not_hold_are_refused_by_name(cluster: Cluster, value: str, said: str) -> None:
    done = renders(cluster, "r", values=(*GIVEN, value))
    assert done.returncode != 0
    assert said in done.stderr


def test_the_chart_has_nothing_that_helm_complains_about(cluster: Cluster) -> None:
    command = [cluster.program("helm"), "lint", "--strict", str(CHART)]
    for value in GIVEN:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "values", [(), ("worker.replicas=0", "state.enabled=false"), ("worker.autoscaling.enabled=true",)]
)
def test_every_pod_of_ours_keeps_to_restricted_pod_security(cluster: Cluster, values: tuple[str, ...]) -> None:
    specs = pod_specs(documents(rendered(cluster, "r", values=values)))
    assert len(specs) >= 3
    for name, spec in specs.items():
        outer = child(spec, "securityContext")
        assert child(outer, "runAsNonRoot") is True, name
        assert child(outer, "seccompProfile") == {"type": "RuntimeDefault"}, name
        assert "hostPath" not in json.dumps(spec), name
        containers = [*child_list(spec, "initContainers"), *child_list(spec, "containers")]
        for container in containers:
            inner = child(container, "securityContext")
            assert child(inner, "allowPrivilegeEscalation") is False, name
            assert child(inner, "readOnlyRootFilesystem") is True, name
            assert child(inner, "capabilities") == {"drop": ["ALL"]}, name
            assert child(container, "resources", "limits", "memory"), name


def child_list(value: Json, name: str) -> list[Json]:
    found = child(value, name)
    return list(found) if isinstance(found, list) else []


def test_only_what_drives_runs_holds_the_orchestrators_token(cluster: Cluster) -> None:
    specs = pod_specs(documents(rendered(cluster, "r")))
    with_token = {name for name, spec in specs.items() if child(spec, "automountServiceAccountToken") is not False}
    assert with_token == {"Deployment/r-worker", "Pod/r-attacks"}
    assert child(specs["Deployment/r"], "serviceAccountName") == "r-console"


LOG = {"audit.key", "originals.key"}
PEOPLE, SANDBOXES, PROXY = {"people.key"}, {"sandbox.key"}, {"egress-proxy.secret"}
ONE_POD = ("worker.replicas=0", "state.enabled=false")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (
            (),
            {
                "Deployment/r-egress": LOG | PROXY,
                "Deployment/r": LOG | PEOPLE,
                "Deployment/r-worker": LOG | SANDBOXES | PROXY,
            },
        ),
        (ONE_POD, {"Deployment/r-egress": LOG | PROXY, "Deployment/r": LOG | PEOPLE | SANDBOXES | PROXY}),
        (
            ("egress.enabled=false",),
            {"Deployment/r": LOG | PEOPLE, "Deployment/r-worker": LOG | SANDBOXES},
        ),
    ],
)
def test_no_pod_gets_a_key_that_it_does_not_open(
    cluster: Cluster, values: tuple[str, ...], wanted: dict[str, set[str]]
) -> None:
    specs = pod_specs(documents(rendered(cluster, "r", values=values)))
    found: dict[str, set[str]] = {}
    for name, spec in specs.items():
        for volume in child_list(spec, "volumes"):
            if child(volume, "secret") is None:
                continue
            assert child(volume, "secret", "secretName") == "r-keys", name
            items = child_list(child(volume, "secret"), "items")
            # a volume without items is the whole Secret
            assert items, name
            found[name] = {str(child(item, "key")) for item in items}
        (taking,) = [one for one in child_list(spec, "initContainers") if child(one, "name") == "keys"] or [None]
        if taking is not None:
            (script,) = child_list(taking, "command")[2:]
            assert set(re.findall(r"[\w-]+\.(?:key|secret)", str(script))) == found[name], name
    assert found == wanted


@pytest.mark.parametrize("values", [(), ONE_POD])
def test_only_what_drives_runs_has_the_models_key_and_none_keeps_keys_where_others_read(
    cluster: Cluster, values: tuple[str, ...]
) -> None:
    drives = "Deployment/r" if values else "Deployment/r-worker"
    specs = pod_specs(documents(rendered(cluster, "r", values=(*values, "model.secret=model"))))
    holders: set[str] = set()
    for name, spec in specs.items():
        for container in [*child_list(spec, "initContainers"), *child_list(spec, "containers")]:
            named = {str(child(one, "name")): one for one in child_list(container, "env")}
            holders |= {name} if "OPENAI_API_KEY" in named else set()
            if child(container, "name") == "attack":
                assert set(named) == {"RINGFENCE_HOME", "RINGFENCE_KUBERNETES", "HOME"}
            if "RINGFENCE_KEYS" in named:
                assert child(named["RINGFENCE_KEYS"], "value") == "/run/ringfence/keys"
                (own,) = [one for one in child_list(spec, "volumes") if child(one, "name") == "own-keys"]
                assert child(own, "emptyDir", "medium") == "Memory", name
    assert holders == {drives}


def test_nothing_that_drives_runs_starts_before_the_attacks_failed(cluster: Cluster) -> None:
    for values, name in (((), "Deployment/r-worker"), (("worker.replicas=0", "state.enabled=false"), "Deployment/r")):
        spec = pod_specs(documents(rendered(cluster, "r", values=values)))[name]
        commands = [child(one, "command") for one in child_list(spec, "initContainers")]
        assert commands[-1] == ["ringfence", "doctor", "--cluster"]


def test_the_cluster_setting_is_what_the_program_reads(cluster: Cluster) -> None:
    spec = pod_specs(documents(rendered(cluster, "r")))["Deployment/r-worker"]
    (container,) = child_list(spec, "containers")
    (setting,) = [one for one in child_list(container, "env") if child(one, "name") == "RINGFENCE_KUBERNETES"]
    form = ClusterForm.model_validate_json(str(child(setting, "value")))
    assert (form.instance, form.namespace) == ("r", "r-system")
    assert (form.run_manager_role, form.service_account) == ("r-run-manager", "r-orchestrator")


def test_two_installations_share_no_name_of_a_cluster_wide_object(cluster: Cluster) -> None:
    def names(release: str) -> set[tuple[str, str]]:
        found = documents(rendered(cluster, release))
        wide = [one for one in found if child(one, "metadata", "namespace") is None]
        return {(str(child(one, "kind")), str(child(one, "metadata", "name"))) for one in wide}

    assert names("payments")
    assert not names("payments") & names("search")


def test_the_manifests_for_kubectl_are_the_charts_rendering(cluster: Cluster, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(cluster.program('helm')).parent}:{os.environ['PATH']}"}
    subprocess.run([str(MANIFESTS / "render.sh"), str(tmp_path)], env=environment, check=True, timeout=60)
    written = sorted(path.name for path in tmp_path.glob("*.yaml"))
    assert written == sorted(path.name for path in MANIFESTS.glob("*.yaml") if path.name != "0-namespace.yaml")
    for name in written:
        assert (tmp_path / name).read_text() == (MANIFESTS / name).read_text(), (
            f"run deploy/manifests/render.sh: {name}"
        )


@pytest.mark.parametrize("name", ["ringfence", "inside", "team"])
def test_an_image_is_built_from_what_is_there_and_runs_as_nobody_special(name: str) -> None:
    lines = (IMAGES / f"{name}.Containerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    for line in words:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            for source in line[1:-1]:
                assert (ROOT / source).exists(), f"{name}: {source}"
        assert line[0] != "ADD"
    users = [line[1] for line in words if line[0] == "USER"]
    assert users
    assert int(users[-1].partition(":")[0]) >= 10_000

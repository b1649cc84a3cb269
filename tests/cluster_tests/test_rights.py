"""The orchestrator's rights: the check that guards its start finds what is broken, and a run works with these alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ringfence.cluster_pool import SqlPoolBook
from ringfence_sandbox.contract import CallId, ClusterRule, Exec, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes import kinds, names, rights_check
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.pool_book import Bounds
from ringfence_sandbox.kubernetes.rights_check import Accident
from ringfence_sandbox.kubernetes.sandbox import KubernetesSandbox
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.chart import Installed, installed_rights, until, until_enforced
from tests.cluster_tests.node import Cluster
from tests.integration.agents.house import House

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Installed]:
    with installed_rights(cluster, "rights") as found:
        yield found


async def until_refused(installed: Installed, about: str) -> None:
    """Until the check says `about`: the API server's own view of its policies changes one by one."""

    async def is_refused() -> bool:
        try:
            await rights_check.must_hold(api, installed.who, now=datetime.now(UTC))
        except IsolationUnavailable as error:
            return about in str(error)
        return False

    async with installed.orchestrator() as api:
        await until(is_refused)


async def test_a_policy_with_a_wrong_name_in_it_keeps_the_orchestrator_from_starting(installed: Installed) -> None:
    account = f"{installed.namespace}:{installed.who.account}"
    wrong = installed.manifest.replace(f"'system:serviceaccount:{account}'", f"'system:serviceaccount:{account}s'")
    assert wrong != installed.manifest
    try:
        installed.kubectl("apply", "--filename", "-", stdin=wrong)
        await until_refused(installed, "it can relabel kube-system")
    finally:
        installed.kubectl("apply", "--filename", "-", stdin=installed.manifest)
        await until_enforced(installed)


async def test_a_policy_on_pods_that_is_not_bound_keeps_the_orchestrator_from_starting(installed: Installed) -> None:
    kind = "validatingadmissionpolicybinding"
    try:
        installed.kubectl("delete", kind, f"{installed.name}-run-pods")
        await until_refused(installed, "it can start a pod from a foreign image")
    finally:
        installed.kubectl("apply", "--filename", "-", stdin=installed.manifest)
        await until_enforced(installed)


async def test_a_read_right_that_somebody_gave_by_accident_is_found(installed: Installed) -> None:
    binding = f"{installed.name}-accident"
    account = f"--serviceaccount={installed.namespace}:{installed.who.account}"
    installed.kubectl("create", "rolebinding", binding, "--clusterrole=view", account, "--namespace=default")

    async def is_seen() -> bool:
        return Accident("default", "get /configmaps") in await rights_check.accidents(api, installed.who)

    try:
        async with installed.orchestrator() as api:
            await until(is_seen)
            assert {one.namespace for one in await rights_check.accidents(api, installed.who)} == {"default"}
    finally:
        installed.kubectl("delete", "rolebinding", binding, "--namespace=default")


async def test_a_right_to_read_every_secret_keeps_the_orchestrator_from_starting(installed: Installed) -> None:
    binding = f"{installed.name}-accident"
    account = f"--serviceaccount={installed.namespace}:{installed.who.account}"
    installed.kubectl("create", "clusterrole", binding, "--verb=list", "--resource=secrets")
    installed.kubectl("create", "clusterrolebinding", binding, f"--clusterrole={binding}", account)
    try:
        await until_refused(installed, "it can read the secrets of kube-system (and 2 more)")
    finally:
        installed.kubectl("delete", "clusterrolebinding,clusterrole", binding)


async def test_the_charts_rights_are_enough_and_no_more(installed: Installed) -> None:
    async def is_clean() -> bool:
        return not await rights_check.accidents(api, installed.who)

    async with installed.orchestrator() as api:
        await until(is_clean)
        tried = await rights_check.must_hold(api, installed.who, now=datetime.now(UTC))
        assert len(tried) > 50
        left = await api.list(kinds.NAMESPACE, selector=f"{names.INSTANCE}={installed.name}")
        assert all("deletionTimestamp" in str(one) for one in left), "the check left a namespace"


async def test_a_sandbox_lives_and_ends_under_the_orchestrators_own_rights(
    installed: Installed, settings: ClusterSettings
) -> None:
    spec = SandboxSpec(
        SandboxId(f"own-{os.urandom(4).hex()}"),
        limits=Limits(processes=64, memory_bytes=256 << 20, disk_bytes=64 << 20),
        cluster_rules=(ClusterRule(("",), ("pods", "pods/log"), ("get", "list", "watch")),),
        has_egress=True,
    )
    async with installed.orchestrator() as api:
        backend = KubernetesBackend(api, installed.settings(settings), ControlKey(b"o" * 32))
        try:
            assert "orchestrator-rights" in {layer.name for layer in await backend.check()}
            sandbox = await backend.create(spec)
            outcome = await sandbox.perform(Exec(CallId("r/1/1/n"), 1, ("/bin/sh", "-c", "echo inside"), timeout_s=20))
            assert (outcome.exit_code, outcome.head) == (0, b"inside\n")
        finally:
            await backend.destroy(spec.id)
        assert await backend.sweep(frozenset()) == []


async def test_a_prepared_namespace_is_claimed_under_the_orchestrators_own_rights(
    installed: Installed, settings: ClusterSettings, tmp_path: Path
) -> None:
    labels = {"run": "r7", "team": "payments", "profile": "default@1", "person": "person:ana"}
    limits = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=64 << 20)
    spec = SandboxSpec(SandboxId(f"own-{os.urandom(4).hex()}"), labels=labels, limits=limits)
    house = House.build(tmp_path)
    with house.store:
        async with installed.orchestrator() as api:
            backend = KubernetesBackend(api, installed.settings(settings), ControlKey(b"o" * 32))
            book = SqlPoolBook(house.store, installed.name)
            pool = backend.use_pool(book, Bounds(least=1, most=1))
            pool.want(spec)
            await pool.fill()

            async def is_ready() -> bool:
                return bool(await book.known()) and not pool._making

            await until(is_ready)
            sandbox = await backend.create(spec)
            assert isinstance(sandbox, KubernetesSandbox)
            assert sandbox.namespace.startswith("rf-p-")
            # that it goes, which takes six seconds, is shown above; whatever is left goes with the installation
            await backend.remove(sandbox.namespace)


def doctor(installed: Installed, kubeconfig: Path, home: Path, *options: str) -> tuple[int, list[dict[str, object]]]:
    setting = {
        "image": installed.cluster.image,
        "inside_image": installed.cluster.inside_image,
        "image_pull_policy": installed.cluster.pull_policy,
        "has_storage_limits": not installed.cluster.is_ours,
        "instance": installed.name,
        "namespace": installed.namespace,
        "run_manager_role": installed.who.run_manager,
        "service_account": installed.who.account,
        "cpu_request_milli": 10,
        "memory_request_mib": 32,
        "kubeconfig": str(kubeconfig),
    }
    environment = os.environ | {"RINGFENCE_HOME": str(home), "RINGFENCE_KUBERNETES": json.dumps(setting)}
    command = [sys.executable, "-m", "ringfence", "doctor", "--cluster", "--json", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_doctor_names_what_an_administrators_token_can_do(installed: Installed, tmp_path: Path) -> None:
    code, said = doctor(installed, installed.cluster.kubeconfig, tmp_path)
    broken = {str(one["name"]) for one in said if one.get("is_held") is False and one["type"] != "doctor"}
    assert code == 7
    assert {"it can relabel kube-system as a run's namespace", "it can read every secret"} <= broken
    assert "it may * */* in kube-system" in broken


def test_doctor_finds_a_cluster_that_holds_under_the_charts_own_rights(installed: Installed, tmp_path: Path) -> None:
    code, said = doctor(installed, installed.kubeconfig(tmp_path / "config"), tmp_path / "home", "--prove")
    assert code == 0, [one for one in said if not one.get("is_held")]
    assert {"orchestrator-rights", "no-other-rights", "network"} <= {str(one.get("name")) for one in said}
    assert sum(one["type"] == "probe" for one in said) > 3

"""docs/kubernetes.md, typed word for word: from nothing to a finished run, and away again.

What stands for something of the reader's is replaced: images by those packed here, the database's address, and
`podman`, which no test machine has, by a program that looks whether the Containerfile is there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringfence_tools.profile import parse_profile
from tests.cluster_tests.chart import kubectl
from tests.cluster_tests.control_image import loaded_image
from tests.cluster_tests.node import ROOT, Cluster
from tests.cluster_tests.relay import relay
from tests.fixtures_postgres import PostgresServer

pytestmark = [pytest.mark.cluster, pytest.mark.postgres, pytest.mark.slow]

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
PODMAN = """#!/bin/sh
set -eu
case "$1" in
    build) [ "$2" = -f ] && [ -f "$3" ] ;;
    push) true ;;
    *) exit 1 ;;
esac
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """Someone who types what the page says, in a folder that holds `deploy`."""

    folder: Path
    cluster: Cluster
    replaced: dict[str, str]

    def types(self, block: str, *, timeout_s: float = 300) -> str:
        """Everything that the block printed. What it left in the background is ended."""
        for said, meant in self.replaced.items():
            block = block.replace(said, meant)
        heard = self.folder / "heard.txt"
        environment = os.environ | {
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "PATH": f"{self.folder / 'bin'}:{self.cluster.binaries}:{os.environ['PATH']}",
        }
        with heard.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout_s)
            finally:
                # the group is this block's own: what it left in the background
                os.killpg(process.pid, signal.SIGKILL) if _is_left(process.pid) else None
        said = heard.read_text()
        assert code == 0, f"{block}\n---\n{said}\n---\n{self.why()}"
        return said

    def why(self) -> str:
        """The pods of the installation, and what each of their containers said last."""
        of_ours = ("--namespace", "ringfence-system", "--selector=app.kubernetes.io/name=ringfence")
        pods = kubectl(self.cluster, "get", "pods", *of_ours)
        logs = kubectl(self.cluster, "logs", *of_ours, "--all-containers", "--prefix", "--ignore-errors", "--tail=20")
        return pods + logs


def _is_left(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def reader(cluster: Cluster, own_postgres: PostgresServer, tmp_path: Path) -> Iterator[Reader]:
    if not cluster.is_ours:
        pytest.skip("the images are packed for the cluster of this machine only")
    image = loaded_image(cluster)
    repository, _, tag = image.rpartition(":")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "podman").write_text(PODMAN)
    (tmp_path / "bin" / "podman").chmod(0o755)
    socket = Path(str(own_postgres.url.query["host"])) / ".s.PGSQL.5432"
    host = cluster.control_cidrs[0].partition("/")[0]
    with relay(host, socket) as port:
        yield Reader(
            tmp_path,
            cluster,
            {
                "postgresql://ringfence:change-me@db.example.org:5432/ringfence": (
                    f"postgresql://ringfence@{host}:{port}/postgres"
                ),
                'repository: registry.example.org/ringfence, tag: "0.1.0"': (
                    f'repository: {repository}, tag: "{tag}", pullPolicy: Never'
                ),
                "  image: registry.example.org/team/python:3.12\n": f"  image: {cluster.image}\n",
                "insideImage: registry.example.org/ringfence-inside:0.1.0": f"insideImage: {cluster.inside_image}",
                "  allowedImages: [registry.example.org/]\n": (
                    "  allowedImages: [ringfence.test/]\n  pullPolicy: Never\n  storageLimits: false\n"
                    "  cpuRequestMilli: 10\n  memoryRequestMib: 32\n"
                ),
                "state: {enabled: false}\n": (
                    f"state: {{enabled: false}}\nnetworkPolicy: {{databasePort: {port}}}\n"
                    "console: {resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 1Gi}}}\n"
                    "egress: {replicas: 1, resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 512Mi}}}\n"
                ),
            },
        )
    uninstall = ("uninstall", "ringfence", "--ignore-not-found", "--namespace", "ringfence-system")
    subprocess.run(
        [cluster.program("helm"), *uninstall], env=os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}, check=True
    )
    left = ("delete", "namespace", "--ignore-not-found", "--wait=false")
    kubectl(cluster, *left, "--selector=ringfence/instance=ringfence")
    kubectl(cluster, *left, "ringfence-system")


def test_the_page_takes_a_newcomer_from_nothing_to_a_finished_run_and_back(reader: Reader) -> None:
    heard: dict[str, str] = {}
    for block in blocks("sh"):
        heard[block] = reader.types(block)

    def said(words: str) -> str:
        (found,) = [text for block, text in heard.items() if words in block]
        return found

    assert "Succeeded" in said("helm test ringfence")
    assert "This cluster can run AI developers." in said("doctor --cluster --prove")
    assert "All tests pass. Done." in said("replay:/opt/ringfence")
    assert "intact" in said("ringfence audit verify")
    assert "/welcome/" in said("admin init")
    assert '"ok":true' in said("healthz").replace(" ", "")
    assert 'release "ringfence" uninstalled' in said("helm uninstall")
    assert "No resources found" in kubectl_all(reader)


def kubectl_all(reader: Reader) -> str:
    """What of ours is left cluster-wide: nothing may."""
    kinds = "namespaces,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    command = [reader.cluster.program("kubectl"), "--kubeconfig", str(reader.cluster.kubeconfig), "get", kinds]
    done = subprocess.run(
        [*command, "--selector=app.kubernetes.io/instance=ringfence"], capture_output=True, text=True, timeout=30
    )
    return done.stdout + done.stderr


def test_the_profile_on_the_page_can_be_used() -> None:
    (document,) = blocks("yaml")
    profile = parse_profile(document.encode(), "on-cluster")
    assert profile.tools.kubernetes

"""The network of a sandbox: shown closed before anything of the agent's runs, and closed indeed."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from ringfence_sandbox.contract import CallId, Exec, Limits, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.kubernetes import kinds, names, objects
from ringfence_sandbox.kubernetes.json_value import objects as listed
from ringfence_sandbox.kubernetes.json_value import text
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.conftest import administered
from tests.cluster_tests.node import Cluster

pytestmark = pytest.mark.cluster

TRY = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def attempt(target):
    kind, host, port = target
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        s.settimeout(1.0)
        s.connect((host, port))
        if kind == "udp":
            s.send(bytes.fromhex("1234010000010000000000000a6b756265726e6574657303737663036c6f630000010001"))
            s.recv(512)
        return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(attempt, targets))))
"""


def spec(*, is_reduced_allowed: bool = False) -> SandboxSpec:
    limits = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20)
    return SandboxSpec(SandboxId(f"net-{os.urandom(4).hex()}"), limits=limits, is_reduced_allowed=is_reduced_allowed)


@pytest.fixture
def unenforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster whose network plugin ignores NetworkPolicy: everything may leave."""
    closed = objects.closed

    def everything(namespace: str) -> objects.Thing:
        return closed(namespace) | {"spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}}

    monkeypatch.setattr(objects, "closed", everything)


async def reached(sandbox: Sandbox, targets: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    outcome = await sandbox.perform(
        Exec(CallId(f"net/1/1/{os.urandom(4).hex()}"), 1, ("python3", "-c", TRY, json.dumps(targets)))
    )
    answers = json.loads(outcome.head)
    return [target for target, is_open in zip(targets, answers, strict=True) if is_open]


@pytest.mark.usefixtures("unenforced")
async def test_a_cluster_that_does_not_enforce_is_refused(cluster: Cluster, settings: ClusterSettings) -> None:
    async with administered(cluster, replace(settings, closed_within_s=0.5)) as backend:
        wanted = spec()
        with pytest.raises(IsolationUnavailable, match=r"network .* is not closed") as refused:
            await backend.create(wanted)
        assert "reached" in str(refused.value)
        assert wanted.id not in await backend.sandboxes()


@pytest.mark.usefixtures("unenforced")
async def test_only_a_reduced_profile_gets_it_and_it_is_said(cluster: Cluster, settings: ClusterSettings) -> None:
    async with administered(cluster, replace(settings, closed_within_s=0.5)) as backend:
        sandbox = await backend.create(spec(is_reduced_allowed=True))
        (network,) = [layer for layer in sandbox.layers if layer.name == "network"]
        assert (network.is_held, network.detail.startswith("open: reached")) == (False, True)
        again = await backend.attach(SandboxSpec(sandbox.id, is_reduced_allowed=True))
        assert [layer.is_held for layer in again.layers if layer.name == "network"] == [False]


async def test_nothing_is_reached_from_inside(cluster: Cluster, settings: ClusterSettings) -> None:
    async with administered(cluster, settings) as backend:
        mine, other = await backend.create(spec()), await backend.create(spec())
        pod = await backend.api.get(kinds.POD, names.POD, namespace=names.cold_namespace(other.id))
        (node,) = [one for one in await backend.api.list(kinds.NODE) if text(one, "metadata", "name")][:1]
        addresses = [text(one, "address") for one in listed(node, "status", "addresses")]
        hosts = [address for address in addresses if address[:1].isdigit()]
        api = await backend.api.get(kinds.SERVICE, "kubernetes", namespace="default")
        dns = [
            text(service, "spec", "clusterIP")
            for service in await backend.api.list(kinds.SERVICE, namespace="kube-system")
        ]
        targets = [("tcp", text(pod, "status", "podIP"), settings.server_port)]
        targets += [("tcp", text(api, "spec", "clusterIP"), 443), ("tcp", "169.254.169.254", 80)]
        targets += [("tcp", host, port) for host in hosts for port in (10250, 6443, 22)]
        targets += [(kind, address, 53) for address in dns for kind in ("udp", "tcp")]
        assert len(targets) >= 6
        own = ("tcp", "127.0.0.1", settings.server_port)
        assert await reached(mine, [*targets, own]) == [own]
        (network,) = [layer for layer in mine.layers if layer.name == "network"]
        assert network.is_held and network.detail.startswith("closed: no answer from")

"""The way out of a namespace: the proxy alone, with a credential that is good from the sandbox's own pod only."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ringfence.cluster_addresses import SqlAddresses, StandingIdentities
from ringfence_sandbox.contract import CallId, Exec, Limits, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.egress import EgressProxy, EgressService, RunAuthority
from ringfence_sandbox.egress.hosts import IpAddress
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.egress_identity import EgressKey, WayOut
from ringfence_sandbox.kubernetes.json_value import text
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.node import Cluster
from tests.cluster_tests.outside import HOST, Git, web
from tests.cluster_tests.test_backend_main_job import ClusterPerson, answer, until
from tests.contracts.sandbox.repositories import git
from tests.fakes.egress import FakeGatekeeper, opened
from tests.integration.agents.house import House

pytestmark = pytest.mark.cluster

KEY = EgressKey(b"e" * 32)


@pytest.fixture
def ours(cluster: Cluster) -> Cluster:
    if not cluster.is_ours:
        pytest.skip("the pods of a foreign cluster do not reach this machine")
    return cluster


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


async def address_of(backend: KubernetesBackend, sandbox: Sandbox) -> IpAddress:
    namespace = names.cold_namespace(sandbox.id)
    pod = await backend.api.get(kinds.POD, names.POD, namespace=namespace)
    return ip_address(text(pod, "status", "podIP"))


async def says(sandbox: Sandbox, command: str) -> str:
    outcome = await sandbox.perform(Exec(CallId(f"run/1/1/{os.urandom(4).hex()}"), 1, ("bash", "-c", command)))
    return (outcome.head + outcome.tail).decode()


async def test_a_credential_opens_nothing_from_another_runs_pod(
    ours: Cluster, settings: ClusterSettings, house: House
) -> None:
    limits = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20)
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    how = replace(settings, egress_cidr=f"{HOST}/32", egress_address=HOST, egress_port=port)
    key = ControlKey(b"t" * 32)
    way_out = WayOut(KEY, SqlAddresses(house.store, how.instance))
    identities = StandingIdentities(house.store, KEY)
    backend = await KubernetesBackend.open(how, key=key, way_out=way_out, kubeconfig=ours.kubeconfig)
    specs = [
        SandboxSpec(SandboxId(f"out-{os.urandom(4).hex()}"), limits=limits, has_egress=has_egress)
        for has_egress in (True, True, False)
    ]
    with web() as page:
        gatekeeper = FakeGatekeeper({HOST: opened(is_private_allowed=True)})
        serving = asyncio.create_task(EgressService(EgressProxy(gatekeeper), identities).serve(listener))
        try:
            mine, other, closed = await asyncio.gather(*(backend.create(spec) for spec in specs))
            fetch = f"curl -sS -m 2 -w ' %{{http_code}}' http://{HOST}:{page.server_port}/"
            stolen = (await says(mine, "echo $http_proxy")).strip()
            assert "407" in await says(other, f"http_proxy={stolen} {fetch}")
            from_closed, around = await asyncio.gather(
                says(closed, f"http_proxy={stolen} {fetch}"), says(mine, f"http_proxy= {fetch}")
            )
            assert "Connection timed out" in from_closed
            assert "timed out" in around
            assert gatekeeper.asked == []
            assert await says(mine, fetch) == "the page 200"
            assert [request.sandbox for request in gatekeeper.asked] == [mine.id]
            address, token = await address_of(backend, mine), urlsplit(stolen).password or ""
            assert await identities.is_theirs(mine.id, token, address)
            await mine.suspend()
            # another run's pod may have this address from now on
            assert not await identities.is_theirs(mine.id, token, address)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()
            # nobody waits for the namespaces to be gone, which takes six seconds
            await asyncio.gather(*(backend.remove(names.cold_namespace(spec.id)) for spec in specs))
            await backend.close()


PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {{name: test, owner: owner, version: 1}}
extends: default@1
network:
  private: ["{HOST}"]
  plain: ["{HOST}:{listed}", "{HOST}:{unlisted}"]
  credentials: [{{host: "{HOST}:{api}", template: "Bearer {{}}", from: "env:API_TOKEN"}}]
rules:
  - {{id: page, allow: [network], hosts: ["{HOST}:{listed}"]}}
  - {{id: read, allow: [network], hosts: ["{HOST}:{api}"], methods: [GET], paths: ["/data/**"]}}
  - {{id: net-unlisted, ask: [network], hosts: ["*.example"], who: {{any: [owner]}}, expires: 1s}}
"""
TOKEN = "the-value-of-the-credential"


class Online(ClusterPerson):
    """A person of an installation whose proxy runs as a process of its own, over the same database."""

    port = 0

    @property
    def environment(self) -> dict[str, str]:
        plain = super().environment
        setting = json.loads(plain["RINGFENCE_KUBERNETES"])
        key = self.home.parent / "egress.secret"
        setting["egress"] = {"address": HOST, "port": self.port, "cidr": f"{HOST}/32", "key": str(key)}
        return plain | {
            "RINGFENCE_KUBERNETES": json.dumps(setting),
            "RINGFENCE_EGRESS_KEY": str(key),
            "RINGFENCE_EGRESS": json.dumps({"ca_files": [str(self.home.parent / "company.pem")]}),
        }

    @contextmanager
    def proxy(self) -> Iterator[None]:
        """The proxy, which alone has the credential's value."""
        assert self.types("db", "upgrade").returncode == 0
        command = [sys.executable, "-m", "ringfence_sandbox.egress", "--listen", f"{HOST}:{self.port}"]
        own = self.environment | {"API_TOKEN": TOKEN}
        running = subprocess.Popen([*command, "--parts", "ringfence.egress_parts:parts"], env=own)
        try:
            until(lambda: answers(self.port))
            yield
        finally:
            running.terminate()
            running.wait()


@pytest.fixture
def online(ours: Cluster, tmp_path: Path) -> Online:
    person = Online(tmp_path, ours, f"out-{os.getpid()}")
    with socket.create_server((HOST, 0)) as free:
        person.port = free.getsockname()[1]
    (tmp_path / "egress.secret").write_bytes(os.urandom(32))
    return person


def test_a_run_is_cloned_and_reaches_what_its_profile_opens_through_the_proxy_alone(
    online: Online, tmp_path: Path
) -> None:
    company = RunAuthority.create("company")
    (tmp_path / "company.pem").write_bytes(company.certificate_pem)
    tls = company.server_context(HOST)
    with web() as listed, web() as unlisted, web(tls=tls) as api, web(Git, tls=tls, root=tmp_path) as forge:
        ports = {name: each.server_port for name, each in (("listed", listed), ("unlisted", unlisted), ("api", api))}
        online.profile.write_text(PROFILE.format(HOST=HOST, **ports))
        fetches = (
            f"http://{HOST}:{ports['listed']}/",
            f"http://{HOST}:{ports['unlisted']}/",
            f"https://{HOST}:{ports['api']}/data/1",
            f"https://{HOST}:{ports['api']}/other",
            f"-d x https://{HOST}:{ports['api']}/data/2",
        )
        (online.repository / "fetch.sh").write_text("".join(f"curl -sS -m 5 {fetch}\n" for fetch in fetches))
        git(online.repository, "add", "-A")
        git(online.repository, "commit", "-q", "-m", "fetch")
        lines = ({"kind": "transcript", "version": 1, "model": "fetcher"}, answer("sh fetch.sh; env"))
        online.transcript.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
        words = list(online.run_words())
        words[words.index("--repo") + 1] = f"https://{HOST}:{forge.server_port}/{online.repository.name}/.git"
        with online.proxy():
            done = online.types(*words, "--sandbox", "kubernetes")
    entries = online.entries()
    assert {path for _, path, _ in forge.asked} >= {f"/{online.repository.name}/.git/git-upload-pack"}, done.stderr
    assert unlisted.asked == []
    assert api.asked == [("GET", "/data/1", f"Bearer {TOKEN}")]
    assert len(listed.asked) == 1
    opened_ports = {data_of(entry)["port"] for entry in entries if entry["kind"] == "egress.opened"}
    assert opened_ports == {forge.server_port, ports["listed"], ports["api"]}
    refused = [data_of(entry) for entry in entries if entry["kind"] == "egress.refused"]
    assert {(one["port"], one["method"]) for one in refused} >= {
        (ports["unlisted"], "GET"),
        (ports["api"], "GET"),
        (ports["api"], "POST"),
    }
    clones = [entry for entry in entries if entry["kind"] == "egress.opened" and data_of(entry)["rules"] == ["clone"]]
    assert clones and all(str(entry["actor"]).startswith("person:") for entry in clones)
    assert TOKEN not in json.dumps(entries)
    assert online.namespaces() == []
    assert online.types("audit", "verify").returncode == 0


def data_of(entry: Mapping[str, object]) -> Mapping[str, object]:
    data = entry["data"]
    assert isinstance(data, dict)
    return data


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True

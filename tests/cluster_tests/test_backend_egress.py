"""The way out of a namespace: the proxy alone, with a credential that is good from the sandbox's own pod only."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ringfence.cluster_addresses import SqlAddresses, StandingIdentities
from ringfence_sandbox.contract import CallId, Exec, Limits, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.egress import EgressProxy, EgressService
from ringfence_sandbox.egress.hosts import IpAddress
from ringfence_sandbox.kubernetes import kinds, names
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.egress_identity import EgressKey, WayOut
from ringfence_sandbox.kubernetes.json_value import text
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.node import Cluster
from tests.cluster_tests.test_backend_main_job import ClusterPerson, answer, until
from tests.contracts.sandbox.repositories import git
from tests.fakes.egress import FakeGatekeeper, opened
from tests.integration.agents.house import House

pytestmark = pytest.mark.cluster

HOST = "10.201.0.1"
"""Our own cluster's way to this machine, where the proxy of these tests stands."""
KEY = EgressKey(b"e" * 32)


@pytest.fixture
def ours(cluster: Cluster) -> Cluster:
    if not cluster.is_ours:
        pytest.skip("the pods of a foreign cluster do not reach this machine")
    return cluster


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the page")

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def page() -> Iterator[int]:
    """A web page on this machine; yields its port."""
    with ThreadingHTTPServer((HOST, 0), Page) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield web.server_port
        finally:
            web.shutdown()
            thread.join()


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
    with page() as web:
        gatekeeper = FakeGatekeeper({HOST: opened(is_private_allowed=True)})
        serving = asyncio.create_task(EgressService(EgressProxy(gatekeeper), identities).serve(listener))
        try:
            mine, other, closed = await asyncio.gather(*(backend.create(spec) for spec in specs))
            fetch = f"curl -sS -m 2 -w ' %{{http_code}}' http://{HOST}:{web}/"
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
  private: ["{listed}"]
  plain: ["{listed}"]
rules:
  - {{id: page, allow: [network], hosts: ["{listed}"]}}
  - {{id: net-unlisted, ask: [network], hosts: ["*.example"], who: {{any: [owner]}}, expires: 1s}}
"""


class Online(ClusterPerson):
    """A person of an installation whose proxy runs as a process of its own, over the same database."""

    port = 0

    @property
    def environment(self) -> dict[str, str]:
        plain = super().environment
        setting = json.loads(plain["RINGFENCE_KUBERNETES"])
        key = self.home.parent / "egress.secret"
        setting["egress"] = {"address": HOST, "port": self.port, "cidr": f"{HOST}/32", "key": str(key)}
        return plain | {"RINGFENCE_KUBERNETES": json.dumps(setting), "RINGFENCE_EGRESS_KEY": str(key)}


def test_every_request_of_a_run_is_an_entry_and_the_profile_decides(ours: Cluster, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    person = Online(tmp_path, ours, f"out-{os.getpid()}")
    person.port = port
    (tmp_path / "egress.secret").write_bytes(os.urandom(32))
    with page() as listed, page() as unlisted:
        person.profile.write_text(PROFILE.format(listed=f"{HOST}:{listed}"))
        lines = (
            {"kind": "transcript", "version": 1, "model": "fetcher"},
            answer("sh fetch.sh"),
        )
        script = "".join(f"curl -sS -m 5 http://{HOST}:{web}/\n" for web in (listed, unlisted))
        (person.repository / "fetch.sh").write_text(script)
        git(person.repository, "add", "-A")
        git(person.repository, "commit", "-q", "-m", "fetch")
        person.transcript.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
        assert person.types("db", "upgrade").returncode == 0
        command = [sys.executable, "-m", "ringfence_sandbox.egress", "--listen", f"{HOST}:{port}"]
        proxy = subprocess.Popen([*command, "--parts", "ringfence.egress_parts:parts"], env=person.environment)
        try:
            until(lambda: answers(port))
            person.types(*person.run_words(), "--sandbox", "kubernetes")
        finally:
            proxy.terminate()
            proxy.wait()
    entries = {str(entry["kind"]): entry for entry in person.entries()}
    assert entries["egress.opened"]["data"]["port"] == listed  # type: ignore[index] # entries are JSON
    assert entries["egress.closed"]["data"]["received_bytes"] > 0  # type: ignore[index] # as above
    assert entries["egress.refused"]["data"]["port"] == unlisted  # type: ignore[index] # as above
    assert person.types("audit", "verify").returncode == 0


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True

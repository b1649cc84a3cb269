"""Credentials and opened hosts on a cluster: added at the proxy, for one run alone, and nowhere in its namespace."""

from __future__ import annotations

import asyncio
import ensurepip
import os
import shlex
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pytest

from ringfence.cluster_addresses import SqlAddresses, StandingIdentities
from ringfence.egress_parts import Authorities
from ringfence_sandbox.contract import (
    CallId,
    EgressRequest,
    EgressVerdict,
    Limits,
    Sandbox,
    SandboxId,
    SandboxSpec,
    Write,
)
from ringfence_sandbox.egress import EgressProxy, EgressService, RunAuthority
from ringfence_sandbox.errors import PathRefused
from ringfence_sandbox.kubernetes import names
from ringfence_sandbox.kubernetes.backend import KubernetesBackend
from ringfence_sandbox.kubernetes.credentials import ControlKey
from ringfence_sandbox.kubernetes.egress_identity import WayOut
from ringfence_sandbox.kubernetes.sandbox import KubernetesSandbox
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from tests.cluster_tests.node import Cluster
from tests.cluster_tests.outside import HOST
from tests.cluster_tests.test_backend_egress import KEY, house, ours, says
from tests.fakes.egress import Everywhere, FakeGatekeeper, opened, server, site, trusting
from tests.integration.agents.house import House

pytestmark = pytest.mark.cluster

__all__ = ["house", "ours"]

NAME = "packages.example"
TOKEN = "s3cret-token"
LIMITS = Limits(processes=64, memory_bytes=256 << 20, disk_bytes=256 << 20, tmp_bytes=64 << 20)
FETCHES = {
    "curl": "curl -sS -m 5 {url}/",
    "python": "python3 -c \"import urllib.request as u; print(u.urlopen('{url}/').read().decode())\"",
    "git": "git ls-remote {url}/r.git",
    "pip": "python3 /tmp/pip.whl/pip download --no-deps -d /tmp/got --index-url {url}/simple/ tiny; ls /tmp/got",
}
PAGES = {
    "/": b"the page",
    "/simple/tiny/": b'<a href="/f/tiny-1.0.tar.gz">tiny-1.0.tar.gz</a>',
    "/f/tiny-1.0.tar.gz": b"not a package",
    "/r.git/info/refs": b"1" * 40 + b"\trefs/heads/main\n",
}
SHOWN = {"git": "refs/heads/main", "pip": "tiny-1.0.tar.gz"}


class Keeper(FakeGatekeeper):
    """One run has a credential for the host; another may reach it as anybody may."""

    def __init__(self, owner: SandboxId) -> None:
        super().__init__()
        self.owner = owner

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        self.asked.append(request)
        if request.sandbox != self.owner:
            return opened()
        if request.method == "CONNECT":
            return opened(ends_tls=True)
        return opened(headers={"Authorization": f"Bearer {TOKEN}"})


@dataclass
class Pair:
    """Two runs whose hosts are opened, of which `mine` alone has a credential."""

    backend: KubernetesBackend
    mine: Sandbox
    other: Sandbox
    outside: RunAuthority


@pytest.fixture
async def pair(ours: Cluster, settings: ClusterSettings, house: House) -> AsyncIterator[Pair]:
    listener = socket.create_server((HOST, 0))
    outside = RunAuthority.create("outside")
    how = replace(
        settings,
        egress_cidr=f"{HOST}/32",
        egress_address=HOST,
        egress_port=listener.getsockname()[1],
        company_roots=(outside.certificate_pem,),
    )
    way_out = WayOut(KEY, SqlAddresses(house.store, how.instance))
    backend = await KubernetesBackend.open(how, key=ControlKey(b"t" * 32), way_out=way_out, kubeconfig=ours.kubeconfig)
    mine, other = (
        SandboxSpec(SandboxId(f"tls-{os.urandom(4).hex()}"), limits=LIMITS, has_egress=True, ends_tls=True)
        for _ in range(2)
    )
    proxy = EgressProxy(Keeper(mine.id), resolver=Everywhere(), ca=Authorities(KEY), tls=trusting(outside))
    serving = asyncio.create_task(EgressService(proxy, StandingIdentities(house.store, KEY)).serve(listener))
    try:
        yield Pair(backend, await backend.create(mine), await backend.create(other), outside)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()
        await asyncio.gather(*(backend.remove(names.cold_namespace(spec.id)) for spec in (mine, other)))
        await backend.close()


def everything_in(cluster: Cluster, namespace: str) -> str:
    """Every object of a namespace that anybody can list, and the namespace itself, as JSON."""
    command = [cluster.program("kubectl"), "--kubeconfig", str(cluster.kubeconfig), "-n", namespace]
    listed = ["api-resources", "--namespaced", "--verbs=list", "--cached", "-o", "name"]
    found = subprocess.run([*command, *listed], capture_output=True, text=True, check=True, timeout=60)
    resources = ",".join(found.stdout.split())
    shown = subprocess.run([*command, "get", resources, "-o", "json"], capture_output=True, text=True, timeout=60)
    assert '"kind": "Secret"' in shown.stdout
    own = subprocess.run([*command, "get", "ns", namespace, "-o", "json"], capture_output=True, text=True, timeout=60)
    return shown.stdout + own.stdout


async def its_trust_is_fixed(sandbox: Sandbox) -> None:
    """What it trusts cannot be changed from inside, and is where the tools that the image lacks would look too."""
    for command in ("echo x >> $SSL_CERT_FILE", "rm -f /ringfence-trust/apt.conf", "touch /ringfence-trust/x"):
        assert "denied" in await says(sandbox, f"{command} 2>&1")
    assert isinstance(sandbox, KubernetesSandbox)
    for name in ("../ca.pem", "..", "a/b"):
        with pytest.raises(PathRefused):
            await sandbox.connection.request({"op": "trust", "name": name}, b"x")
    assert (await sandbox.prove()).is_held
    # Go and Python read the first
    variables = ("SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "npm_config_cafile")
    told = await says(sandbox, f"for name in {' '.join(variables)}; do printenv $name; done | sort -u")
    assert told.strip() == "/ringfence-trust/ca.pem"
    assert "/ringfence-trust/java-trust.p12" in await says(sandbox, "printenv JAVA_TOOL_OPTIONS")


async def pip_into(sandbox: Sandbox) -> None:
    """Python's own pip, which the image leaves out, run from its wheel."""
    (wheel,) = Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")
    await sandbox.perform(Write(CallId("run/1/0/pip"), 1, PurePosixPath("/tmp/pip.whl"), wheel.read_bytes()))


async def test_a_credential_is_one_runs_alone_and_nowhere_in_its_namespace(pair: Pair, ours: Cluster) -> None:
    await its_trust_is_fixed(pair.mine)
    await pip_into(pair.mine)
    seen: list[bytes] = []
    async with server(site(PAGES, seen=seen), tls=pair.outside.server_context(NAME)) as port:
        url = f"https://{NAME}:{port}"
        # another run reaches the host unopened and without the credential, whatever of the first it carries along
        assert await says(pair.other, FETCHES["curl"].format(url=url)) == "the page"
        assert len(seen) == 1 and TOKEN.encode() not in seen[0]
        stolen = shlex.quote((await says(pair.mine, "echo $https_proxy")).strip())
        assert "407" in await says(pair.other, f"https_proxy={stolen} curl -sS -m 5 {url}/ 2>&1")
        assert len(seen) == 1
        for program, fetch in FETCHES.items():
            seen.clear()
            said = await says(pair.mine, f"{fetch.format(url=url)} 2>&1")
            assert SHOWN.get(program, "the page") in said, program
            assert seen, program
            assert all(f"bearer {TOKEN}".encode() in head.lower() for head in seen), program
            assert TOKEN not in said
        # a suspended run is entered anew: its authority is the same, and what it trusts is put down again
        await pair.mine.suspend()
        spec = SandboxSpec(pair.mine.id, limits=LIMITS, has_egress=True, ends_tls=True)
        again = await pair.backend.attach(spec)
        assert await says(again, FETCHES["curl"].format(url=url)) == "the page"
    searched = "/proc/[0-9]*/environ /ringfence-trust /home /tmp /workspace /etc"
    assert await says(again, f"grep -rasl -e {TOKEN} -e 'PRIVATE KEY' {searched}") == ""
    assert "BEGIN CERTIFICATE" in await says(again, "tail -n 14 $SSL_CERT_FILE")
    objects = everything_in(ours, names.cold_namespace(again.id))
    assert TOKEN not in objects
    # the run's own authority is nobody else's to trust
    assert await says(pair.other, "tail -n 14 $SSL_CERT_FILE") != await says(again, "tail -n 14 $SSL_CERT_FILE")

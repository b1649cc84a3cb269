"""The way out of a real sandbox: tools find proxy and trust by themselves, and a secret is added where none is seen."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Backend, EgressRequest, EgressVerdict, Limits, SandboxId, SandboxSpec
from ringfence_sandbox.egress import EgressSettings, RunAuthority
from ringfence_sandbox.egress.errors import Refused
from ringfence_sandbox.local.backend import LocalBackend
from tests.contracts.sandbox.conftest import Box
from tests.fakes.egress import Everywhere, FakeGatekeeper, echoing, opened, server, site

pytestmark = pytest.mark.sandbox

HOST, OTHER = "packages.example", "plain.example"
TOKEN = "s3cret-token"
SPEC = SandboxSpec(SandboxId("out-1"), limits=Limits(processes=256), has_egress=True, ends_tls=True)
FETCHES = {
    "curl": "curl -sS {url}",
    "wget": "wget -qO- {url}",
    "python": "python3 -c \"import urllib.request as u; print(u.urlopen('{url}').read().decode())\"",
    "npm": "npm view tiny name --registry {url}/npm/ --no-audit",
    "pip": "python3 -m pip download --no-deps -d /tmp/got --index-url {url}/simple/ tiny 2>&1; ls /tmp/got",
    "git": "git ls-remote {url}/r.git 2>&1",
    "apt": "apt-config dump 2>/dev/null | grep -i 'acquire::https'",
}


class Keeper(FakeGatekeeper):
    """Opens TLS to one host and adds a secret there; also keeps what the proxy refused by itself."""

    def __init__(self) -> None:
        secret = {"Authorization": f"Bearer {TOKEN}"}
        super().__init__({HOST: opened(ends_tls=True, headers=secret), OTHER: opened(is_plain_allowed=True)})
        self.refusals: list[Refused] = []
        self.is_told = asyncio.Event()

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        verdict = await super().admit(request)
        # As RunEgress does: the handshake itself carries no header.
        return replace(verdict, headers={}) if request.method == "CONNECT" else verdict

    async def refused(self, refused: Refused) -> None:
        self.refusals.append(refused)
        self.is_told.set()

    async def closed(self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int) -> None:
        await super().closed(request, sent_bytes=sent_bytes, received_bytes=received_bytes, duration_ms=duration_ms)
        self.is_told.set()


@pytest.fixture
def outside(tmp_path: Path) -> RunAuthority:
    authority = RunAuthority.create("outside")
    (tmp_path / "company.pem").write_bytes(authority.certificate_pem)
    return authority


@pytest.fixture
async def backend(tmp_path: Path, outside: RunAuthority) -> AsyncIterator[Backend]:
    settings = EgressSettings(ca_files=(tmp_path / "company.pem",))
    local = LocalBackend(tmp_path / "state", egress=settings, resolver=Everywhere())
    yield local
    await local.close()


@pytest.fixture
async def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
async def box(backend: Backend, keeper: Keeper) -> AsyncIterator[Box]:
    sandbox = await backend.create(SPEC, egress=keeper)
    yield Box(backend, SPEC, sandbox)
    await backend.destroy(SPEC.id)


async def test_an_unlisted_host_gets_an_answer_that_says_how_to_ask(box: Box, keeper: Keeper) -> None:
    said = await box.says("curl -sS https://elsewhere.example/ 2>&1; curl -s http://elsewhere.example/")
    assert "403" in said
    assert '"host": "elsewhere.example"' in said
    assert "request_access" in said
    assert {refused.code.value for refused in keeper.refusals} == {"host-refused"}


async def test_what_the_proxy_refuses_by_itself_is_told_to_the_gatekeeper(box: Box, keeper: Keeper) -> None:
    await box.says(f"printf 'GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\n\\r\\n' > /dev/tcp/127.0.0.1/3128; sleep 0.2")
    await asyncio.wait_for(keeper.is_told.wait(), 5)
    assert keeper.refusals[0].code.value == "malformed"
    assert keeper.asked == []


@pytest.mark.parametrize("program", [name for name in FETCHES if name != "apt"])
async def test_a_tool_reaches_an_opened_host_and_the_secret_is_never_inside(
    program: str, box: Box, keeper: Keeper, outside: RunAuthority
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    seen: list[bytes] = []
    pages = {
        "": b"",
        "/": b"the page",
        "/simple/tiny/": b'<a href="/f/tiny-1.0.tar.gz">tiny-1.0.tar.gz</a>',
        "/f/tiny-1.0.tar.gz": b"not a package",
        "/npm/tiny": b'{"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": "tiny"}}}',
        "/r.git/info/refs": b"1" * 40 + b"\trefs/heads/main\n",
    }
    async with server(site(pages, seen=seen), tls=outside.server_context(HOST)) as port:
        url = f"https://{HOST}:{port}"
        said = await box.says(FETCHES[program].format(url=url if program in ("npm", "pip", "git") else url + "/"))
    expected = {"npm": "tiny", "pip": "tiny-1.0.tar.gz", "git": "refs/heads/main"}.get(program, "the page")
    assert expected in said
    assert seen
    assert all(f"bearer {TOKEN}".encode() in head.lower() for head in seen)
    assert TOKEN not in said
    assert TOKEN not in await box.says(
        "env; cat /proc/[0-9]*/environ /run/ringfence/trust/* 2>/dev/null | tr '\\0' ' '"
    )


async def test_apt_is_told_of_proxy_and_trust(box: Box) -> None:
    if shutil.which("apt-config") is None:
        pytest.skip("apt is not installed")
    said = await box.says(FETCHES["apt"])
    assert "http://127.0.0.1:3128" in said
    assert "/run/ringfence/trust/ca.pem" in said


async def test_the_authority_of_a_run_is_new_after_a_suspension_and_trusted(
    box: Box, backend: Backend, keeper: Keeper, outside: RunAuthority
) -> None:
    first = await box.says("sha256sum < /run/ringfence/trust/ca.pem")
    await box.sandbox.suspend()
    box.sandbox = await backend.attach(SPEC, egress=keeper)
    assert await box.says("sha256sum < /run/ringfence/trust/ca.pem") != first
    async with server(site({"/": b"the page"}), tls=outside.server_context(HOST)) as port:
        assert await box.says(f"curl -sS https://{HOST}:{port}/") == "the page"


async def test_the_trust_of_a_sandbox_cannot_be_changed_from_inside(box: Box) -> None:
    for command in ("echo x >> /run/ringfence/trust/ca.pem", "rm -f /run/ringfence/trust/apt.conf"):
        assert (await box.sh(command)).exit_code != 0


async def test_bytes_and_time_of_a_tunnel_are_reported_when_it_ends(box: Box, keeper: Keeper) -> None:
    async with server(echoing) as port:
        code = (
            "import socket; s = socket.create_connection(('127.0.0.1', 3128)); "
            f"s.sendall(b'CONNECT {OTHER}:{port} HTTP/1.1\\r\\nHost: {OTHER}:{port}\\r\\n\\r\\n'); s.recv(100); "
            "s.sendall(b'x' * 1000); got = 0\n"
            "while got < 1000: got += len(s.recv(1000))"
        )
        assert (await box.sh(f'python3 -c "{code}"')).exit_code == 0
        await asyncio.wait_for(keeper.is_told.wait(), 5)
    ((request, sent, received),) = keeper.reported
    assert (request.host, sent, received) == (OTHER, 1000, 1000)

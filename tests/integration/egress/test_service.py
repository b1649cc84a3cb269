"""The proxy as a service: a sandbox's credential and its address, both."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import os
import signal
import sys

import pytest

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.egress import EgressLimits, EgressProxy, EgressService
from ringfence_sandbox.egress.__main__ import listener_at, load_parts
from ringfence_sandbox.egress.errors import EgressMisconfigured
from ringfence_sandbox.egress.hosts import IpAddress
from ringfence_sandbox.egress.service import KnownSandbox, ServiceParts, StaticIdentities
from tests.fakes.egress import (
    Everywhere,
    FakeGatekeeper,
    command,
    echoing,
    listening,
    loopback_listener,
    opened,
    server,
    speak,
)

HERE = [ipaddress.ip_network("127.0.0.0/8")]
ELSEWHERE = [ipaddress.ip_network("192.0.2.0/24")]


def known(token: str, sources: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> KnownSandbox:
    return KnownSandbox(hashlib.sha256(token.encode()).hexdigest(), sources)


IDENTITIES = StaticIdentities({SandboxId("one"): known("t1", HERE), SandboxId("two"): known("t2", ELSEWHERE)})


def connect(port: int, *, credential: str | None) -> bytes:
    line = ""
    if credential is not None:
        line = f"Proxy-Authorization: Basic {base64.b64encode(credential.encode()).decode()}\r\n"
    return f"CONNECT a.example:{port} HTTP/1.1\r\nHost: a.example:{port}\r\n{line}\r\n".encode()


@pytest.mark.parametrize(
    "credential",
    [None, "", "one", "one:", "one:t2", "three:t1", "two:t2", "ONE:t1", ":t1", "one:t1:", "o" * 50 + ":t1"],
)
async def test_a_wrong_missing_or_misplaced_credential_gets_one_and_the_same_answer(credential: str | None) -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened(is_plain_allowed=True)})
    service = EgressService(EgressProxy(gatekeeper, resolver=Everywhere()), IDENTITIES)
    async with listening(service.serve) as port:
        answer = await speak(port, connect(443, credential=credential))
    assert answer.startswith(b"HTTP/1.1 407")
    assert b'proxy-authenticate: basic realm="ringfence"' in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "not-identified"
    assert gatekeeper.asked == []


async def test_identities_that_fail_or_stall_refuse() -> None:
    class Failing:
        async def is_theirs(self, sandbox: SandboxId, token: str, address: IpAddress) -> bool:
            if sandbox == "one":
                raise RuntimeError("the API server is away")
            return await asyncio.Future()

    gatekeeper = FakeGatekeeper({"a.example": opened()})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(admit_s=0.1))
    async with listening(EgressService(proxy, Failing()).serve) as port:
        for name in ("one", "two"):
            assert (await speak(port, connect(443, credential=f"{name}:t"))).startswith(b"HTTP/1.1 407")
    assert gatekeeper.asked == []


async def test_a_sandbox_is_served_as_itself_and_counted_alone() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened(is_plain_allowed=True)})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(connections=1))
    identities = StaticIdentities({SandboxId("one"): known("t1", HERE), SandboxId("two"): known("t2", HERE)})
    async with server(echoing) as target, listening(EgressService(proxy, identities).serve) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(connect(target, credential="one:t1"))
        await reader.readuntil(b"\r\n\r\n")
        busy = await speak(port, connect(target, credential="one:t1"))
        other = await speak(port, connect(target, credential="two:t2") + b"ping")
        writer.close()
    assert busy.startswith(b"HTTP/1.1 503")
    assert other.endswith(b"ping")
    assert [request.sandbox for request in gatekeeper.asked] == ["one", "two"]
    assert len(gatekeeper.reported) == 2


async def test_curl_sends_its_credential_by_the_proxys_url() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    service = EgressService(EgressProxy(gatekeeper, resolver=Everywhere()), IDENTITIES)
    async with server(echoing) as target, listening(service.serve) as port:
        code, output = await command(
            "curl", "-sS", "-x", f"http://one:wrong@127.0.0.1:{port}", f"https://a.example:{target}"
        )
        await command("curl", "-sSk", "-x", f"http://one:t1@127.0.0.1:{port}", f"https://a.example:{target}")
    assert code != 0
    assert "407" in output
    assert [request.sandbox for request in gatekeeper.asked] == ["one"]


def parts() -> ServiceParts:
    """What the module's own entry is started with below."""
    return ServiceParts(FakeGatekeeper(), IDENTITIES)


def test_an_entry_with_unusable_parts_or_address_says_so() -> None:
    for name in ("nothing", "no.such.module:parts", "json:dumps_", f"{__name__}:nothing"):
        with pytest.raises(EgressMisconfigured, match="--parts"):
            load_parts(name)
    for address in ("127.0.0.1", "127.0.0.1:99999", "192.0.2.1:3128"):
        with pytest.raises(EgressMisconfigured, match="--listen"):
            listener_at(address)


def free_port() -> int:
    with loopback_listener() as listener:
        port: int = listener.getsockname()[1]
    return port


async def test_the_entry_serves_until_it_is_told_to_end() -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ringfence_sandbox.egress", "--listen", f"127.0.0.1:{port}",
        "--parts", "tests.integration.egress.test_service:parts",
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert b"serving" in await asyncio.wait_for(process.stderr.readline(), 20)
        answer = await speak(port, connect(443, credential="one:t1"))
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert answer.startswith(b"HTTP/1.1 403"), errors
    assert process.returncode == 0, errors

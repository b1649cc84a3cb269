"""Behind a company's own proxy, with and without TLS inspection: the company's proxy is played by this one."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.egress import EgressProxy, EgressService, EgressSettings, RunAuthority
from ringfence_sandbox.egress.errors import EgressMisconfigured
from ringfence_sandbox.egress.service import KnownSandbox, StaticIdentities
from tests.fakes.egress import (
    Everywhere,
    FakeGatekeeper,
    answering,
    command,
    listening,
    opened,
    server,
    serving,
    site,
    speak,
    trusting,
)
from tests.integration.egress.conftest import Tools

HOST = "api.example"


@asynccontextmanager
async def company(proxy: EgressProxy) -> AsyncIterator[int]:
    """A company's proxy that asks for a credential."""
    known = KnownSandbox(hashlib.sha256(b"p:w d").hexdigest(), [ipaddress.ip_network("127.0.0.0/8")])
    service = EgressService(proxy, StaticIdentities({SandboxId("corp"): known}))
    async with listening(service.serve) as port:
        yield port


def settings(port: int, credential: str = "corp:p%3Aw%20d", ca_files: tuple[Path, ...] = ()) -> EgressSettings:
    return EgressSettings(upstream=SecretStr(f"http://{credential}@127.0.0.1:{port}"), ca_files=ca_files)


async def test_a_wrong_credential_for_the_companys_proxy_is_named_and_not_shown() -> None:
    gatekeeper = FakeGatekeeper({HOST: opened()})
    async with company(EgressProxy(FakeGatekeeper())) as corporate:
        proxy = EgressProxy(gatekeeper, upstream=settings(corporate, "corp:wr0ng").proxy())
        async with serving(proxy) as port:
            answer = await speak(port, f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"status 407" in answer
    assert b"wr0ng" not in answer
    assert len(gatekeeper.reported) == 1


async def test_a_private_literal_is_refused_before_the_companys_proxy_is_asked() -> None:
    asked = FakeGatekeeper()
    async with company(EgressProxy(asked)) as corporate:
        proxy = EgressProxy(FakeGatekeeper({"169.254.169.254": opened()}), upstream=settings(corporate).proxy())
        async with serving(proxy) as port:
            answer = await speak(port, b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "address-refused"
    assert asked.asked == []


async def test_tls_inspection_without_the_companys_ca_names_the_issuer(outside: RunAuthority) -> None:
    inspection = RunAuthority.create("Acme Inspection")
    corporate_proxy = EgressProxy(
        FakeGatekeeper({HOST: opened(ends_tls=True)}), resolver=Everywhere(), ca=inspection, tls=trusting(outside)
    )
    run = RunAuthority.create("r1")
    gatekeeper = FakeGatekeeper({HOST: opened(ends_tls=True)})
    async with company(corporate_proxy) as corporate:
        proxy = EgressProxy(gatekeeper, ca=run, upstream=settings(corporate).proxy(), tls=trusting(outside))
        async with serving(proxy) as port:
            code, output = await command("curl", "-sk", "-x", f"http://127.0.0.1:{port}", f"https://{HOST}/")
    assert code == 0
    answer = json.loads(output)
    assert answer["code"] == "tls-unverified"
    assert "Acme Inspection" in answer["reason"]
    assert "CA" in answer["instead"]


@pytest.mark.parametrize("is_opened", [False, True])
async def test_the_companys_ca_as_a_setting_makes_it_work(
    is_opened: bool, outside: RunAuthority, tools: Tools, tmp_path: Path
) -> None:
    inspection = RunAuthority.create("Acme Inspection")
    ca_file = tmp_path / "acme.pem"
    ca_file.write_bytes(inspection.certificate_pem)
    corporate_proxy = EgressProxy(
        FakeGatekeeper({HOST: opened(ends_tls=True)}), resolver=Everywhere(), ca=inspection, tls=trusting(outside)
    )
    run = RunAuthority.create("r1")
    gatekeeper = FakeGatekeeper({HOST: opened(ends_tls=is_opened)})
    tls = outside.server_context(HOST)
    async with server(answering(b"inspected"), tls=tls) as target, company(corporate_proxy) as corporate:
        chosen = settings(corporate, ca_files=(ca_file,))
        proxy = EgressProxy(gatekeeper, ca=run, upstream=chosen.proxy(), tls=chosen.client_context())
        async with serving(proxy) as port:
            variables = tools.environment(port, run, inspection)
            result = await command("curl", "-sS", f"https://{HOST}:{target}/", environment=variables)
    assert result == (0, "inspected")


async def test_plain_http_goes_to_the_companys_proxy_with_the_whole_url() -> None:
    asked = FakeGatekeeper({HOST: opened()})
    async with (
        server(site({"/x": b"plain"})) as target,
        company(EgressProxy(asked, resolver=Everywhere())) as corporate,
    ):
        proxy = EgressProxy(FakeGatekeeper({HOST: opened()}), upstream=settings(corporate).proxy())
        async with serving(proxy) as port:
            result = await command("curl", "-sS", "-x", f"http://127.0.0.1:{port}", f"http://{HOST}:{target}/x")
    assert result == (0, "plain")
    assert [(request.method, request.path) for request in asked.asked] == [("GET", "/x")]


@pytest.mark.parametrize(
    "url",
    [
        "corp.example:3128",
        "socks5://corp.example:1",
        "http://",
        "http://corp.example",
        "http://a b:1",
        "http://h:99999",
    ],
)
def test_an_upstream_that_is_no_proxy_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        EgressSettings(upstream=SecretStr(url))


def test_a_ca_file_that_holds_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("hello")
    with pytest.raises(EgressMisconfigured, match=r"bad\.pem"):
        EgressSettings(ca_files=(tmp_path / "bad.pem",)).client_context()
    with pytest.raises(EgressMisconfigured, match=r"missing\.pem"):
        EgressSettings(ca_files=(tmp_path / "missing.pem",)).client_context()


def test_hosts_that_are_reached_directly_are_not_sent_upstream() -> None:
    url = SecretStr("https://ana:hunter2@corp.example:443")
    upstream = EgressSettings(upstream=url, direct=(".acme.internal", "a.example")).proxy()
    assert upstream is not None
    assert not upstream.covers("git.acme.internal")
    assert not upstream.covers("a.example")
    assert upstream.covers("evil-acme.internal")
    assert upstream.is_tls
    assert upstream.credential == "ana:hunter2"
    assert "hunter2" not in repr(upstream)

"""CONNECT with real sockets, real TLS and real curl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ringfence_sandbox.egress import EgressProxy, RunAuthority
from tests.fakes.egress import (
    SANDBOX,
    Everywhere,
    FakeGatekeeper,
    FakeResolver,
    Observed,
    answering,
    command,
    opened,
    server,
    serving,
    speak,
    trusting,
)


@pytest.fixture
def outside_pem(outside: RunAuthority, tmp_path: Path) -> str:
    path = tmp_path / "outside.pem"
    path.write_bytes(outside.certificate_pem)
    return str(path)


def body_of(answer: bytes) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return loaded


async def test_connect_to_an_unlisted_host_is_refused_with_host_rule_and_how_to_ask() -> None:
    gatekeeper = FakeGatekeeper()
    proxy = EgressProxy(gatekeeper, resolver=FakeResolver({}, gatekeeper.journal))
    async with serving(proxy) as port:
        answer = await speak(port, b"CONNECT Evil.Example.:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Ringfence: evil.example:443 is not open")
    body = body_of(answer)
    assert (body["host"], body["port"], body["rule"]) == ("evil.example", 443, "network.default")
    assert "request_access" in str(body["instead"])
    assert gatekeeper.journal == ["admit evil.example"], "a refused host is neither resolved nor closed"


async def test_a_gatekeeper_that_fails_lets_nothing_out() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    gatekeeper.failure = RuntimeError("log full")
    proxy = EgressProxy(gatekeeper, resolver=FakeResolver({"a.example": ["127.0.0.1"]}, gatekeeper.journal))
    async with serving(proxy) as port:
        answer = await speak(port, b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
    assert body_of(answer)["code"] == "not-admitted"
    assert b"log full" not in answer
    assert gatekeeper.journal == ["admit a.example"]


async def test_a_server_name_other_than_the_host_never_reaches_the_server(outside: RunAuthority) -> None:
    seen: list[bytes] = []
    observed = Observed()
    proxy = EgressProxy(FakeGatekeeper({"a.example": opened()}), resolver=Everywhere(), observer=observed)
    tls = outside.server_context("b.example")
    async with server(answering(b"hello", seen=seen), tls=tls) as target, serving(proxy) as port:
        # curl resolves b.example to the CONNECT host by --connect-to, and so names b.example in its ClientHello.
        code, output = await command(
            "curl", "-sS", "-k", "-x", f"http://127.0.0.1:{port}",
            "--connect-to", f"b.example:443:a.example:{target}", "https://b.example/",
        )  # fmt: skip
    assert code == 35, output
    assert "unrecognized name" in output
    assert seen == []
    assert observed.codes == ["content-refused"]


async def test_curl_reaches_an_allowed_host_through_an_unopened_tunnel(outside: RunAuthority, outside_pem: str) -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    proxy = EgressProxy(gatekeeper, resolver=FakeResolver({"a.example": ["127.0.0.1"]}, gatekeeper.journal))
    tls = outside.server_context("a.example")
    async with server(answering(b"hello"), tls=tls) as target, serving(proxy) as port:
        code, output = await command(
            "curl", "-sS", "--cacert", outside_pem, "-x", f"http://127.0.0.1:{port}", f"https://a.example:{target}/"
        )
    assert (code, output) == (0, "hello")
    assert gatekeeper.journal == ["admit a.example", "resolve a.example", "closed a.example"]
    request, sent_bytes, received_bytes = gatekeeper.reported[0]
    assert (request.sandbox, request.method, request.port) == (SANDBOX, "CONNECT", target)
    assert sent_bytes > 200
    assert received_bytes > 200


async def test_a_credential_is_added_outside_and_the_sandboxs_own_is_dropped(
    outside: RunAuthority, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    run = RunAuthority.create("r1")
    (tmp_path / "run.pem").write_bytes(run.certificate_pem)
    gatekeeper = FakeGatekeeper({"api.example": opened(ends_tls=True, headers={"Authorization": "Bearer s3cret"})})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), ca=run, tls=trusting(outside))
    tls = outside.server_context("api.example")
    handler = answering(b"ok", headers="Authorization: Bearer s3cret\r\n", seen=seen)
    async with server(handler, tls=tls) as target, serving(proxy) as port:
        code, output = await command(
            "curl", "-sS", "-i", "--cacert", str(tmp_path / "run.pem"), "-x", f"http://127.0.0.1:{port}",
            "-H", "Authorization: Bearer forged", f"https://api.example:{target}/v1/items?x=1",
        )  # fmt: skip
    assert code == 0, output
    assert output.endswith("ok")
    assert "s3cret" not in output
    assert b"bearer s3cret" in seen[0].lower()
    assert b"forged" not in seen[0]
    assert [(r.method, r.path, r.query) for r in gatekeeper.asked] == [("CONNECT", "", ""), ("GET", "/v1/items", "x=1")]
    assert len(gatekeeper.reported) == 2

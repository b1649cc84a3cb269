"""A sandbox that wants out: what it sends is read once, in one way, within bounds."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable, Sequence

import pytest

from ringfence_sandbox.contract import EgressVerdict, SandboxId
from ringfence_sandbox.egress import EgressLimits, EgressProxy, RunAuthority
from ringfence_sandbox.egress.errors import ListenerRefused
from ringfence_sandbox.egress.hosts import IpAddress
from tests.fakes.egress import (
    SANDBOX,
    Everywhere,
    FakeGatekeeper,
    FakeResolver,
    Observed,
    answering,
    client_hello,
    echoing,
    loopback_listener,
    opened,
    server,
    server_names,
    serving,
    site,
    speak,
)

POST = b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"


def code_of(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["code"])


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", 400, "malformed"),
        (b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", 400, "malformed"),
        (b"GET http://a.example/ HTTP/1.1\r\n\r\n", 400, "malformed"),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed"),
        (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "malformed"),
        (POST + b"Transfer-Encoding : chunked\r\n\r\n", 400, "malformed"),
        (POST + b"X: " + b"y" * 70_000, 431, "too-large"),
        (POST + b"X: a\r\n b\x00\r\n\r\n", 400, "malformed"),
        (b"GET http://a.example/" + b"y" * 70_000, 431, "too-large"),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", 400, "malformed"),
        (b"CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "malformed"),
        (b"CONNECT 0x7f.1:443 HTTP/1.1\r\nHost: 0x7f.1:443\r\n\r\n", 400, "malformed"),
        (b"GET http://a.example/x/../../y HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "malformed"),
    ],
)  # fmt: skip
async def test_a_malformed_request_is_refused_before_the_policy_is_asked(head: bytes, status: int, code: str) -> None:
    gatekeeper, resolver, observed = FakeGatekeeper({"a.example": opened()}), Everywhere(), Observed()
    async with serving(EgressProxy(gatekeeper, resolver=resolver, observer=observed)) as port:
        answer = await speak(port, head, wait_eof=False)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert code_of(answer) == code
    assert gatekeeper.asked == []
    assert resolver.asked == []


async def test_a_request_hidden_in_a_body_is_never_sent_as_one() -> None:
    seen: list[bytes] = []
    hidden = b"GET /admin HTTP/1.1\r\nHost: a.example\r\n\r\n"
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    async with (
        server(site({"/": b"ok"}, seen=seen)) as target,
        serving(EgressProxy(gatekeeper, resolver=Everywhere())) as port,
    ):
        head = get("a.example", target).replace(b"Connection: close", b"Content-Length: %d" % len(hidden))
        answer = await speak(port, head + hidden)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(gatekeeper.asked) == 1
    assert f"content-length: {len(hidden)}".encode() in seen[0].lower()


async def test_a_client_that_dribbles_its_head_is_cut_off() -> None:
    gatekeeper = FakeGatekeeper()
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(head_s=0.2))
    async with serving(proxy) as port:
        assert await speak(port, b"CONNECT a.exam", wait_eof=False) == b""
    assert gatekeeper.asked == []


async def test_a_tunnel_in_which_nothing_moves_is_closed() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened(is_plain_allowed=True)})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(idle_s=0.2))
    async with server(echoing) as target, serving(proxy) as port:
        answer = await speak(port, connect("a.example", target), wait_eof=False)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(gatekeeper.reported) == 1


@pytest.mark.parametrize(
    ("addresses", "is_private_allowed"),
    [
        (["10.0.0.1"], False),
        (["127.0.0.1"], False),
        (["::1", "fd00::1"], False),
        (["::ffff:10.0.0.1"], False),
        (["64:ff9b::a00:1"], False),
        (["169.254.169.254"], True),
        (["::ffff:169.254.169.254"], True),
        (["0.0.0.0"], True),
        (["224.0.0.1"], True),
    ],
)
async def test_a_name_that_leads_inside_is_refused_after_resolution(
    addresses: list[str], is_private_allowed: bool
) -> None:
    gatekeeper = FakeGatekeeper({"a.example": EgressVerdict(True, "r", is_private_allowed=is_private_allowed)})
    observed = Observed()
    proxy = EgressProxy(
        gatekeeper, resolver=FakeResolver({"a.example": addresses}, gatekeeper.journal), observer=observed
    )
    async with serving(proxy) as port:
        answer = await speak(port, connect("a.example", 443))
    assert answer.startswith(b"HTTP/1.1 403")
    assert code_of(answer) == "address-refused"
    assert gatekeeper.journal == ["admit a.example", "resolve a.example", "closed a.example"]
    assert observed.codes == ["address-refused"]


async def test_a_name_is_resolved_once_so_that_rebinding_gains_nothing() -> None:
    class Rebinding(Everywhere):
        async def resolve(self, host: str) -> Sequence[IpAddress]:
            first = await super().resolve(host)
            return first if len(self.asked) == 1 else (ipaddress.ip_address("169.254.169.254"),)

    gatekeeper = FakeGatekeeper({"a.example": opened(is_plain_allowed=True)})
    resolver = Rebinding()
    async with server(echoing) as target, serving(EgressProxy(gatekeeper, resolver=resolver)) as port:
        assert (await speak(port, connect("a.example", target) + b"hello")).endswith(b"hello")
    assert resolver.asked == ["a.example"]


async def test_a_literal_metadata_address_is_refused_whatever_the_verdict() -> None:
    gatekeeper = FakeGatekeeper({"169.254.169.254": opened()})
    async with serving(EgressProxy(gatekeeper, resolver=Everywhere())) as port:
        answer = await speak(port, b"GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
    assert code_of(answer) == "address-refused"


async def test_bytes_that_are_not_tls_pass_only_where_the_verdict_says_so() -> None:
    gatekeeper = FakeGatekeeper({"no.example": opened(), "forge.example": opened(is_plain_allowed=True)})
    observed = Observed()
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), observer=observed)
    async with server(echoing) as target, serving(proxy) as port:
        refused = await speak(port, connect("no.example", target) + b"SSH-2.0-client\r\n")
        passed = await speak(port, connect("forge.example", target) + b"SSH-2.0-client\r\n")
    assert b"SSH-2.0" not in refused
    assert passed.endswith(b"SSH-2.0-client\r\n")
    assert observed.codes == ["malformed"]


async def test_http_inside_connect_is_read_and_each_request_asked_for() -> None:
    seen: list[bytes] = []
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    async with (
        server(site({"/x": b"one"}, seen=seen)) as target,
        serving(EgressProxy(gatekeeper, resolver=Everywhere())) as port,
    ):
        inner = f"GET /x HTTP/1.1\r\nHost: a.example:{target}\r\n\r\n".encode()
        answer = await speak(port, connect("a.example", target) + inner + inner.replace(b"/x", b"/y"))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"one" in answer
    assert b"404" in answer
    assert [(r.method, r.path) for r in gatekeeper.asked] == [("CONNECT", ""), ("GET", "/x"), ("GET", "/y")]
    assert len(gatekeeper.reported) == 3


async def test_more_connections_than_allowed_are_turned_away() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened(is_plain_allowed=True)})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(connections=1))
    async with server(echoing) as target, serving(proxy) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(connect("a.example", target))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        answer = await speak(port, connect("a.example", target))
        writer.close()
    assert code_of(answer) == "busy"
    assert len(gatekeeper.asked) == 1


async def test_a_body_larger_than_allowed_is_refused() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(sent_bytes=10_000))

    async def swallowing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(swallowing) as target, serving(proxy) as port:
        head = f"POST http://a.example:{target}/ HTTP/1.1\r\nHost: a.example:{target}\r\nContent-Length: 100000\r\n\r\n"
        answer = await speak(port, head.encode() + bytes(100_000))
    assert answer.startswith(b"HTTP/1.1 413")
    assert gatekeeper.reported[0][1] <= 10_000


@pytest.mark.parametrize(
    ("listener", "why"),
    [
        (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "not TCP over IPv4"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "not TCP over IPv4"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "does not listen"),
        (lambda: socket.create_server(("0.0.0.0", 0)), "loopback"),
        (lambda: socket.create_server(("::1", 0), family=socket.AF_INET6), "not TCP over IPv4"),
    ],
)
async def test_a_descriptor_that_is_no_loopback_listener_is_refused(
    listener: Callable[[], socket.socket], why: str
) -> None:
    with listener() as sock, pytest.raises(ListenerRefused, match=why):
        await EgressProxy(FakeGatekeeper()).serve(sock, SANDBOX)


async def test_a_policy_that_does_not_answer_refuses() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    gatekeeper.gate = asyncio.Event()
    proxy = EgressProxy(gatekeeper, resolver=Everywhere(), limits=EgressLimits(admit_s=0.1))
    async with serving(proxy) as port:
        assert code_of(await speak(port, connect("a.example", 443))) == "not-admitted"
    assert gatekeeper.reported == []


async def test_an_ended_grant_closes_its_tunnels_and_no_others() -> None:
    gatekeeper = FakeGatekeeper({host: opened(is_plain_allowed=True) for host in ("a.example", "b.example")})
    proxy = EgressProxy(gatekeeper, resolver=Everywhere())
    async with server(echoing) as target, serving(proxy) as port:
        ends = []
        for host in ("a.example", "b.example"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(connect(host, target))
            await reader.readuntil(b"\r\n\r\n")
            ends.append((reader, writer))
        assert await proxy.end(SandboxId("other"), "a.example") == 0
        assert await proxy.end(SANDBOX, "a.example") == 1
        assert await ends[0][0].read() == b""
        assert [request.host for request, _, _ in gatekeeper.reported] == ["a.example"]
        ends[1][1].write(b"still")
        assert await ends[1][0].readexactly(5) == b"still"
        assert [request.host for request in proxy.live(SANDBOX)] == ["b.example"]
        for _, writer in ends:
            writer.close()
    assert sorted(request.host for request, _, _ in gatekeeper.reported) == ["a.example", "b.example"]


async def test_a_grant_that_ends_while_the_answer_is_on_its_way_opens_nothing() -> None:
    gatekeeper, resolver = FakeGatekeeper({"a.example": opened()}), Everywhere()
    gatekeeper.gate = asyncio.Event()
    proxy = EgressProxy(gatekeeper, resolver=resolver)
    async with serving(proxy) as port:
        waiting = asyncio.create_task(speak(port, connect("a.example", 443), wait_eof=False))
        await gatekeeper.is_asked.wait()
        assert await proxy.end(SANDBOX, "*.example") == 1
        gatekeeper.gate.set()
        assert await waiting == b""
    assert resolver.asked == []


async def test_cancelling_the_proxy_reports_each_tunnel_closed_once() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened(is_plain_allowed=True)})
    async with server(echoing) as target:
        with loopback_listener() as listener:
            task = asyncio.create_task(EgressProxy(gatekeeper, resolver=Everywhere()).serve(listener, SANDBOX))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(connect("a.example", target) + b"12345")
            await reader.readuntil(b"12345")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            writer.close()
    assert [(sent, received) for _, sent, received in gatekeeper.reported] == [(5, 5)]


async def test_a_server_that_is_silent_broken_or_absent_is_told_apart() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"nonsense\r\n\r\n")

    proxy = EgressProxy(FakeGatekeeper({"a.example": opened()}), resolver=Everywhere(), limits=EgressLimits(idle_s=0.3))
    with loopback_listener() as unused:
        absent: int = unused.getsockname()[1]
    async with server(silent) as mute, server(broken) as bad, serving(proxy) as port:
        answers = [await speak(port, get("a.example", target), wait_eof=False) for target in (mute, bad, absent)]
    assert [code_of(answer) for answer in answers] == ["timeout", "upstream-broken", "connect-failed"]


async def test_a_client_hello_that_hides_a_name_is_refused(outside: RunAuthority) -> None:
    seen: list[bytes] = []
    observed = Observed()
    proxy = EgressProxy(FakeGatekeeper({"a.example": opened()}), resolver=Everywhere(), observer=observed)
    async with server(answering(b"", seen=seen)) as target, serving(proxy) as port:
        answer = await speak(
            port, connect("a.example", target) + client_hello((0, server_names(b"a.example")), (0xFE0D, bytes(9)))
        )
    assert answer.endswith(b"\x15\x03\x03\x00\x02\x02\x70")
    assert seen == []
    assert observed.codes == ["content-refused"]


def connect(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def get(host: str, port: int) -> bytes:
    return f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()

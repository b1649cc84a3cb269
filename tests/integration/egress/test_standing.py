"""What is open stays open only while the policy says so; websockets and plain HTTP on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ringfence_sandbox.contract import EgressRequest
from ringfence_sandbox.egress import EgressLimits, EgressProxy
from tests.fakes.egress import Everywhere, FakeGatekeeper, echoing, opened, server, serving, site, speak

QUICK = EgressLimits(recheck_s=0.02, stands_s=0.1)


class Standing(FakeGatekeeper):
    """Keeps open what is in `hosts`; fails where `hosts` is None."""

    def __init__(self) -> None:
        super().__init__({host: opened(is_plain_allowed=True) for host in ("a.example", "b.example")})
        self.hosts: frozenset[str] | None = frozenset({"a.example", "b.example"})
        self.questions = 0

    async def stands(self, requests: Sequence[EgressRequest]) -> frozenset[str]:
        self.questions += 1
        if self.hosts is None:
            raise RuntimeError("the database is away")
        return frozenset(request.id for request in requests if request.host in self.hosts)


async def tunnel(port: int, host: str, target: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT {host}:{target} HTTP/1.1\r\nHost: {host}:{target}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    return reader, writer


async def test_a_grant_revoked_elsewhere_closes_its_tunnels_and_no_others() -> None:
    gatekeeper = Standing()
    async with server(echoing) as target, serving(EgressProxy(gatekeeper, resolver=Everywhere(), limits=QUICK)) as port:
        ended, stays = await tunnel(port, "a.example", target), await tunnel(port, "b.example", target)
        gatekeeper.hosts = frozenset({"b.example"})
        async with asyncio.timeout(2):
            assert await ended[0].read() == b""
        stays[1].write(b"still")
        assert await stays[0].readexactly(5) == b"still"
        for _, writer in (ended, stays):
            writer.close()
    assert [request.host for request, _, _ in gatekeeper.reported].count("a.example") == 1


async def test_a_policy_that_stays_silent_closes_everything() -> None:
    gatekeeper = Standing()
    async with server(echoing) as target, serving(EgressProxy(gatekeeper, resolver=Everywhere(), limits=QUICK)) as port:
        reader, writer = await tunnel(port, "a.example", target)
        gatekeeper.hosts = None
        async with asyncio.timeout(2):
            assert await reader.read() == b""
        writer.close()
    assert gatekeeper.questions >= 2


async def test_a_refused_request_leaves_its_connection_usable() -> None:
    gatekeeper = FakeGatekeeper({"a.example": opened()})
    async with server(site({"/": b"page"})) as target, serving(EgressProxy(gatekeeper, resolver=Everywhere())) as port:
        refused = b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n"
        allowed = f"GET http://a.example:{target}/ HTTP/1.1\r\nHost: a.example:{target}\r\n\r\n".encode()
        answer = await speak(port, refused + allowed)
    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.endswith(b"page")


async def test_a_websocket_over_plain_http_is_carried_both_ways() -> None:
    async def switching(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head.lower()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        await echoing(reader, writer)

    gatekeeper = FakeGatekeeper({"a.example": opened()})
    async with server(switching) as target, serving(EgressProxy(gatekeeper, resolver=Everywhere())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET http://a.example:{target}/ws HTTP/1.1\r\nHost: a.example:{target}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n".encode()
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await reader.readexactly(5) == b"first"
        writer.write(b"frame")
        assert await reader.readexactly(5) == b"frame"
        writer.close()
    assert [(request.method, request.path) for request in gatekeeper.asked] == [("GET", "/ws")]

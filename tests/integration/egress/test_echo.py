"""A server that repeats what it was sent: the credential stays outside, whatever it is wrapped in."""

from __future__ import annotations

import asyncio
import gzip

from ringfence_sandbox.egress import EgressProxy
from tests.fakes.egress import Everywhere, FakeGatekeeper, Observed, opened, server, serving, speak

TOKEN = "ghp_s3cret/token"
VERDICT = opened(headers={"Authorization": f"Bearer {TOKEN}"})


async def repeating(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the request's head, in chunks of seven bytes, and with parts of it in headers."""
    head = await reader.readuntil(b"\r\n\r\n")
    line = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization"))
    told = line.partition(b": ")[2]
    writer.write(b"HTTP/1.1 200 " + told + b"\r\nX-Seen: " + told + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    for at in range(0, len(head), 7):
        piece = head[at : at + 7]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\nX-Trailer: " + told + b"\r\n\r\n")


async def packing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = gzip.compress(await reader.readuntil(b"\r\n\r\n"))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def switching(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + head)


def get(target: int, more: str = "") -> bytes:
    return f"GET http://a.example:{target}/ HTTP/1.1\r\nHost: a.example:{target}\r\n{more}\r\n".encode()


async def test_a_credential_that_a_server_repeats_does_not_come_back() -> None:
    async with (
        server(repeating) as target,
        serving(EgressProxy(FakeGatekeeper({"a.example": VERDICT}), resolver=Everywhere())) as port,
    ):
        answer = await speak(port, get(target, "Range: bytes=1-2\r\nAccept-Encoding: gzip\r\n"))
    assert b"s3cret" not in answer
    assert b"*" * len(TOKEN) in answer.replace(b"\r\n", b"")
    assert b"range: bytes" not in answer.lower(), "a credential asked for bit by bit is not known again"


async def test_a_credential_that_a_websocket_repeats_does_not_come_back() -> None:
    async with (
        server(switching) as target,
        serving(EgressProxy(FakeGatekeeper({"a.example": VERDICT}), resolver=Everywhere())) as port,
    ):
        answer = await speak(port, get(target, "Connection: upgrade\r\nUpgrade: websocket\r\n"), wait_eof=False)
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"uthorization: Bearer ****" in answer
    assert b"s3cret" not in answer


async def test_an_answer_that_hides_what_it_repeats_is_refused() -> None:
    observed = Observed()
    gatekeeper = FakeGatekeeper({"a.example": VERDICT, "b.example": opened()})
    async with (
        server(packing) as target,
        serving(EgressProxy(gatekeeper, resolver=Everywhere(), observer=observed)) as port,
    ):
        refused = await speak(port, get(target))
        passed = await speak(port, get(target).replace(b"a.example", b"b.example"))
    assert refused.startswith(b"HTTP/1.1 502")
    assert observed.codes == ["content-refused"]
    assert b"HTTP/1.1 200" in passed

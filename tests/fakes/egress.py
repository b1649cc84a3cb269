"""Fakes for the way out: a gatekeeper that answers from a table, a resolver, a TLS and HTTP world on loopback."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ringfence_sandbox.contract import EgressRequest, EgressVerdict, SandboxId
from ringfence_sandbox.egress import EgressProxy, RunAuthority
from ringfence_sandbox.egress.errors import Refused
from ringfence_sandbox.egress.hosts import IpAddress

SANDBOX = SandboxId("box")
LOOPBACK = ipaddress.ip_address("127.0.0.1")


def opened(**more: object) -> EgressVerdict:
    """A verdict that allows, private addresses too, since the tests' servers are on loopback."""
    values: dict[str, object] = {"is_allowed": True, "rule": "test", "is_private_allowed": True, **more}
    return EgressVerdict(**values)  # type: ignore[arg-type]  # the keys are the fields, as in dataclasses.replace


class FakeGatekeeper:
    """Answers by host; what is not in the table is refused. Keeps everything it was asked and told, in order."""

    def __init__(self, verdicts: Mapping[str, EgressVerdict] | None = None) -> None:
        self.verdicts = dict(verdicts or {})
        self.asked: list[EgressRequest] = []
        self.reported: list[tuple[EgressRequest, int, int]] = []
        self.journal: list[str] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.is_asked = asyncio.Event()

    async def admit(self, request: EgressRequest) -> EgressVerdict:
        self.asked.append(request)
        self.is_asked.set()
        self.journal.append(f"admit {request.host}")
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.verdicts.get(request.host, EgressVerdict(is_allowed=False, rule="network.default"))

    async def closed(self, request: EgressRequest, *, sent_bytes: int, received_bytes: int, duration_ms: int) -> None:
        self.reported.append((request, sent_bytes, received_bytes))
        self.journal.append(f"closed {request.host}")


class FakeResolver:
    """Answers from a table, and writes each query into the gatekeeper's journal."""

    def __init__(self, names: Mapping[str, Sequence[str]], journal: list[str] | None = None) -> None:
        self._names = {host: tuple(map(ipaddress.ip_address, texts)) for host, texts in names.items()}
        self.journal = journal if journal is not None else []

    async def resolve(self, host: str) -> Sequence[IpAddress]:
        self.journal.append(f"resolve {host}")
        return self._names.get(host, ())


class Everywhere:
    """Resolves every name to loopback."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[IpAddress]:
        self.asked.append(host)
        return (LOOPBACK,)


@dataclass(slots=True)
class Observed:
    """Collects the refusals that a proxy reports."""

    refusals: list[Refused] = field(default_factory=list)

    async def __call__(self, refused: Refused) -> None:
        self.refusals.append(refused)

    @property
    def codes(self) -> list[str]:
        return [str(refused.code) for refused in self.refusals]


def loopback_listener() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@asynccontextmanager
async def serving(proxy: EgressProxy, sandbox: SandboxId = SANDBOX) -> AsyncIterator[int]:
    """The proxy on a loopback port."""
    async with listening(lambda listener: proxy.serve(listener, sandbox)) as port:
        yield port


@asynccontextmanager
async def listening(serve: Callable[[socket.socket], Coroutine[None, None, None]]) -> AsyncIterator[int]:
    """Whatever serves a listener, on a loopback port, cancelled at the end."""
    with loopback_listener() as listener:
        port: int = listener.getsockname()[1]
        task = asyncio.create_task(serve(listener))
        try:
            yield port
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP or TLS server on a loopback port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    running = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()


def answering(body: bytes, *, headers: str = "", seen: list[bytes] | None = None) -> Handler:
    """Reads one request head, keeps it in `seen`, answers 200 with the body and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)
        await writer.drain()

    return handler


async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes until the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def trusting(authority: RunAuthority) -> ssl.SSLContext:
    """A client context that trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.certificate_pem.decode())
    return context


async def speak(port: int, data: bytes, *, wait_eof: bool = True) -> bytes:
    """Send bytes to the proxy and return all that comes back until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if wait_eof:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def command(*argv: str, environment: Mapping[str, str] | None = None, timeout_s: float = 60) -> tuple[int, str]:
    """Run a real program; exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=None if environment is None else {"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def site(pages: Mapping[str, bytes], *, seen: list[bytes] | None = None) -> Handler:
    """A static site with keep-alive; a path that is not in `pages` is 404."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head_or_end(reader):
            if seen is not None:
                seen.append(head)
            path = head.split(b" ", 2)[1].decode().partition("?")[0]
            body, status = pages.get(path), "200 OK"
            if body is None:
                body, status = b"not here", "404 Not Found"
            kind = "text/html" if path.endswith("/") else "application/octet-stream"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(b"" if head.startswith(b"HEAD ") else body)
            await writer.drain()

    return handler


async def _head_or_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def client_hello(*extensions: tuple[int, bytes], tail: bytes = b"") -> bytes:
    """A TLS ClientHello made by hand, in one record: extension number and data each, then `tail` inside the message."""
    listed = b"".join(kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions)
    start = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body = start + len(listed).to_bytes(2, "big") + listed + tail
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def server_names(*names: bytes, kind: int = 0) -> bytes:
    """The data of a server_name extension."""
    listed = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for name in names)
    return len(listed).to_bytes(2, "big") + listed

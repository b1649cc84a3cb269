"""Byte streams under the proxy: a plain socket, and TLS in memory over any stream.

TLS is driven through memory buffers so that a ClientHello which was already read can be handed to it, and so that it
runs over a tunnel through a company's proxy as well as over a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Protocol

CHUNK_BYTES = 64 << 10


class Stream(Protocol):
    """A connected byte stream. One task may receive while another sends. `OSError` where the connection broke."""

    async def receive(self) -> bytes:
        """At most `CHUNK_BYTES`; empty at the end of the stream."""

    async def send(self, data: bytes) -> None:
        """Return once the kernel has taken it all."""

    async def send_eof(self) -> None:
        """No more bytes follow; receiving goes on."""

    def close(self) -> None:
        """Let go at once. Idempotent."""


class SocketStream:
    """A connected TCP socket, owned by the stream."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self._sock, CHUNK_BYTES)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def send_eof(self) -> None:
        with contextlib.suppress(OSError):  # the peer is gone already: its end of stream says so to the reader
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


class TlsStream:
    """TLS over another stream, which it owns. Make it with `handshake`."""

    def __init__(self, raw: Stream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._raw = raw
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = asyncio.Lock()

    @classmethod
    async def handshake(
        cls, raw: Stream, context: ssl.SSLContext, *, server_hostname: str | None = None, preface: bytes | None = None
    ) -> TlsStream:
        """Shake hands: as client with `server_hostname`, as server with `preface`, the bytes read so far.

        Raises `ssl.SSLError` (also for a certificate that does not verify) or `OSError`. The caller keeps `raw` on
        failure.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(preface or b"")
        tls = context.wrap_bio(incoming, outgoing, server_side=preface is not None, server_hostname=server_hostname)
        stream = cls(raw, tls, incoming, outgoing)
        await stream._shake()
        return stream

    async def _shake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._pull()
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the alert is a courtesy; the handshake's own error is the news
                    await self._flush()
                raise
            else:
                await self._flush()
                return

    async def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(CHUNK_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._pull()
            except ssl.SSLZeroReturnError:
                return b""

    async def send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
        await self._flush()

    async def send_eof(self) -> None:
        """TLS has no half-close that servers honour in practice; the close alert goes out, receiving may go on."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            await self._flush()

    def close(self) -> None:
        self._raw.close()

    def peer_certificate(self) -> bytes:
        """The peer's certificate in DER, verified or not. Raises `ssl.SSLError` where it showed none."""
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is None:
            raise ssl.SSLError("the peer showed no certificate")
        return certificate

    async def _pull(self) -> None:
        data = await self._raw.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        async with self._sending:
            data = self._outgoing.read()
            if data:
                await self._raw.send(data)


class PrefacedStream:
    """A stream whose first bytes were already read."""

    def __init__(self, preface: bytes, stream: Stream) -> None:
        self._preface = preface
        self._stream = stream

    async def receive(self) -> bytes:
        if self._preface:
            data, self._preface = self._preface, b""
            return data
        return await self._stream.receive()

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    def close(self) -> None:
        self._stream.close()

"""The same protocol over TCP with mutual TLS, for a sandbox that is reached over a network.

Whoever holds a certificate that `--client-ca` signed is served, nobody else: agents' processes can reach the port too.
Calls, outcomes and the highest fence belong to the server, so a connection that breaks loses nothing.
"""

from __future__ import annotations

import os
import socket
import ssl

from . import wire
from .channel import Channel, ChannelClosed, Transport
from .loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .server import Server

CONNECTIONS = 16
HANDSHAKE_WITHIN_S = 10.0


class TlsTransport(Transport):
    """A TLS socket after its handshake."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__(connection.fileno())
        self._connection = connection

    def receive(self) -> bytes | None:
        try:
            return self._connection.recv(wire.CHUNK)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            return b""

    def send(self, data: memoryview) -> int:
        try:
            return self._connection.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def close(self) -> None:
        self._connection.close()


class Listener:
    """Accepts, shakes hands, and gives each proven client a channel."""

    def __init__(self, server: Server, context: ssl.SSLContext, listening: socket.socket) -> None:
        self._server = server
        self._context = context
        self._listening = listening
        self._shaking: dict[int, ssl.SSLSocket] = {}
        self._channels: set[Channel] = set()
        listening.setblocking(False)
        server.loop.watch(listening.fileno(), READ, self._accept)

    def _accept(self, _: int) -> None:
        try:
            raw, _address = self._listening.accept()
        except OSError:
            return
        if len(self._shaking) + len(self._channels) >= CONNECTIONS:
            raw.close()
            return
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        except OSError:
            raw.close()
            return
        fd = connection.fileno()
        self._shaking[fd] = connection
        self._server.loop.watch(fd, READ, lambda _: self._shake(fd))
        self._server.loop.after(HANDSHAKE_WITHIN_S, lambda: self._give_up(fd, connection))

    def _shake(self, fd: int) -> None:
        connection = self._shaking[fd]
        loop = self._server.loop
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            loop.watch(fd, READ, lambda _: self._shake(fd))
            return
        except ssl.SSLWantWriteError:
            loop.watch(fd, WRITE, lambda _: self._shake(fd))
            return
        except OSError:
            self._give_up(fd, connection)
            return
        del self._shaking[fd]
        loop.unwatch(fd)
        self._open(connection)

    def _give_up(self, fd: int, connection: ssl.SSLSocket) -> None:
        if self._shaking.get(fd) is connection:
            del self._shaking[fd]
            self._server.loop.unwatch(fd)
            connection.close()

    def _open(self, connection: ssl.SSLSocket) -> None:
        from .server import greeting

        server = self._server

        def end(channel: Channel) -> None:
            self._channels.discard(channel)
            server.drop(channel)

        channel = Channel(TlsTransport(connection), server.loop, server.handle, end, server.caught_up)
        self._channels.add(channel)
        channel.send(greeting(server))


def listen(server: Server, options: dict[str, str]) -> None:
    """Serve at `HOST:PORT`. Raises OSError where the address or a certificate cannot be used."""
    host, _, port = options["listen"].rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(options["cert"], options["key"])
    context.load_verify_locations(options["client-ca"])
    # A session ticket would let a client back in after its certificate has run out.
    context.num_tickets = 0
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host.strip("[]"), int(port)))
    listening.listen(CONNECTIONS)
    Listener(server, context, listening)
    os.write(2, b"ringfence server: listening\n")

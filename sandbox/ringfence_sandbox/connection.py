"""One connection to an in-sandbox server, over any asyncio transport: requests out, validated replies in.

The server is untrusted. Every reply is bounded before it is kept, must belong to a request that waits, and must have
the form that was asked for; the first that does not ends the connection with `ProtocolViolation` for all who wait.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from ringfence_sandbox.contract import Layer
from ringfence_sandbox.errors import (
    PathRefused,
    ProtocolViolation,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    StaleFence,
    WorkspaceRefused,
)
from ringfence_sandbox.inside import wire

JsonObject: TypeAlias = "Mapping[str, wire.Json]"
PartSink = Callable[[bytes], None]

ERRORS: Mapping[str, type[SandboxError]] = {
    "stale-fence": StaleFence,
    "path": PathRefused,
    "worker": PathRefused,
    "workspace": WorkspaceRefused,
    "busy": SandboxBusy,
    "system": SandboxBusy,
}
MESSAGE_LIMIT = 4000
GREETING_LAYERS = 64


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server says first. `fence` is the highest it has seen."""

    layers: tuple[Layer, ...]
    fence: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A request's final header, and the bodies of all its frames joined."""

    header: JsonObject
    body: bytes


class _Waiting:
    __slots__ = ("body", "done", "limit_bytes", "on_part")

    def __init__(self, limit_bytes: int, on_part: PartSink | None) -> None:
        self.done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.body = bytearray()
        self.limit_bytes = limit_bytes
        self.on_part = on_part


class ServerConnection(asyncio.Protocol):
    """Use it as the protocol of a transport, then `await ready()`. Ends itself on the first violation."""

    def __init__(self) -> None:
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        self._closed = asyncio.Event()
        self._failure: SandboxError | None = None
        self._number = 0
        self._can_write = asyncio.Event()
        self._can_write.set()

    @classmethod
    async def over(cls, sock: socket.socket) -> ServerConnection:
        """Over a connected Unix stream socket."""
        connection = cls()
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=sock)
        return connection

    async def ready(self, *, timeout_s: float) -> Greeting:
        """The server's greeting. Raises SandboxGone where it does not come."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._greeting), timeout_s)
        except TimeoutError as error:
            self.fail(SandboxGone(f"the sandbox's server did not answer within {timeout_s:g} s"))
            raise SandboxGone(f"the sandbox's server did not answer within {timeout_s:g} s") from error

    @property
    def is_open(self) -> bool:
        return self._failure is None

    async def request(
        self,
        header: JsonObject,
        body: bytes = b"",
        *,
        limit_bytes: int = 0,
        timeout_s: float = 60.0,
        on_part: PartSink | None = None,
    ) -> Reply:
        """Send one request and wait for its final reply.

        `limit_bytes` bounds the bodies of all its replies together (those given to `on_part` do not count). Raises the
        error that the server names, SandboxGone, or ProtocolViolation.
        """
        if self._failure is not None:
            raise self._failure
        self._number += 1
        number = self._number
        waiting = self._waiting[number] = _Waiting(limit_bytes, on_part)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(number, header, body)
                return await waiting.done
        except TimeoutError as error:
            gone = SandboxGone(f"the sandbox's server did not answer {header.get('op')} within {timeout_s:g} s")
            self.fail(gone)
            raise gone from error
        finally:
            self._forget(number, waiting)

    def _forget(self, number: int, waiting: _Waiting) -> None:
        if waiting.done.done() and not waiting.done.cancelled():
            self._waiting.pop(number, None)
        else:
            # Cancelled: the reply still comes, and must find its place to be dropped.
            waiting.on_part = lambda _: None

    def notify(self, header: JsonObject) -> None:
        """Send a request whose answer nobody waits for."""
        if self._failure is None and self._transport is not None:
            self._number += 1
            waiting = self._waiting[self._number] = _Waiting(0, None)
            waiting.done.add_done_callback(_unheard)
            self._transport.write(wire.encode({"id": self._number, **header}))

    async def _send(self, number: int, header: JsonObject, body: bytes) -> None:
        transport = self._transport
        if transport is None:
            raise SandboxGone("not connected")
        if len(body) <= wire.CHUNK:
            transport.write(wire.encode({**header, "id": number}, body))
            return
        pieces = [body[at : at + wire.CHUNK] for at in range(0, len(body), wire.CHUNK)]
        for index, piece in enumerate(pieces):
            await self._can_write.wait()
            if self._failure is not None:
                raise self._failure
            has_more = index < len(pieces) - 1
            head: dict[str, wire.Json] = {"id": number, "more": has_more}
            transport.write(wire.encode({**header, **head} if index == 0 else head, piece))

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # asyncio's own signature is wider than what it passes

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        try:
            for header, body in self._decoder.feed(data):
                self._take(header, body)
        except (wire.WireError, ProtocolViolation) as error:
            self.fail(ProtocolViolation(f"the sandbox's server broke the protocol: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(SandboxGone("the sandbox's server ended"))
        self._closed.set()

    def fail(self, error: SandboxError) -> None:
        """End the connection; everyone who waits gets `error`, and so does everyone who comes."""
        if self._failure is not None:
            return
        self._failure = error
        self._can_write.set()
        for waiting in self._waiting.values():
            if not waiting.done.done():
                waiting.done.set_exception(error)
                waiting.done.exception()
        self._waiting.clear()
        if not self._greeting.done():
            self._greeting.set_exception(error)
            self._greeting.exception()
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Let go. Locally this ends the sandbox's processes."""
        self.fail(SandboxGone("the connection was closed"))
        if self._transport is not None:
            await self._closed.wait()

    # -- replies -------------------------------------------------------------------------------------------------

    def _take(self, header: wire.Header, body: bytes) -> None:
        number = header.get("id")
        if number == 0 and not self._greeting.done():
            self._greeting.set_result(_greeting(header))
            return
        waiting = self._waiting.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
        if waiting is None:
            raise ProtocolViolation("a reply that nobody asked for")
        if header.get("part") is True:
            self._take_part(waiting, body)
        elif isinstance(header.get("ok"), bool):
            self._take_final(waiting, header, body)
            self._waiting.pop(cast(int, number), None)  # narrowed by the lookup above
        else:
            raise ProtocolViolation("a reply that is neither part nor final")

    def _take_part(self, waiting: _Waiting, body: bytes) -> None:
        if waiting.on_part is not None:
            waiting.on_part(body)
            return
        if len(waiting.body) + len(body) > waiting.limit_bytes:
            raise ProtocolViolation("a reply larger than was asked for")
        waiting.body += body

    def _take_final(self, waiting: _Waiting, header: wire.Header, body: bytes) -> None:
        if waiting.done.done():
            return
        if header["ok"] is True:
            if len(waiting.body) + len(body) > waiting.limit_bytes:
                raise ProtocolViolation("a reply larger than was asked for")
            waiting.done.set_result(Reply(header, bytes(waiting.body) + body))
            return
        kind, message = header.get("error"), header.get("message")
        if not isinstance(kind, str) or not isinstance(message, str) or not is_sound(message):
            raise ProtocolViolation("an error without a kind")
        waiting.done.set_exception(ERRORS.get(kind, ProtocolViolation)(message[:MESSAGE_LIMIT]))


def _unheard(done: asyncio.Future[Reply]) -> None:
    """Take note of a failure that nobody waits for, so that it is not reported as forgotten."""
    if not done.cancelled():
        done.exception()


def is_sound(text: str) -> bool:
    """Whether a text can be written down: JSON can carry halves of characters, which no log and no database takes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _greeting(header: wire.Header) -> Greeting:
    layers, fence = header.get("layers"), header.get("fence")
    if header.get("ready") is not True or header.get("version") != wire.VERSION:
        raise ProtocolViolation("a greeting of another version")
    if not isinstance(layers, list) or len(layers) > GREETING_LAYERS or not isinstance(fence, int):
        raise ProtocolViolation("a greeting without layers")
    return Greeting(tuple(_layer(layer) for layer in layers), fence)


def _layer(value: wire.Json) -> Layer:
    if not isinstance(value, dict):
        raise ProtocolViolation("a layer that is no object")
    name, is_held, detail = value.get("name"), value.get("is_held"), value.get("detail", "")
    if not isinstance(name, str) or not isinstance(is_held, bool) or not isinstance(detail, str):
        raise ProtocolViolation("a layer without a name")
    if not is_sound(name) or not is_sound(detail):
        raise ProtocolViolation("a layer that cannot be written down")
    return Layer(name[:80], is_held, detail[:500])

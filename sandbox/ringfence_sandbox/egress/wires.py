"""HTTP/1.1 over a stream: h11's state machine with a bound on every wait, and its errors in this room's words."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import h11

from ringfence_sandbox.egress.errors import Code, EgressRefusal, SandboxHungUp
from ringfence_sandbox.egress.streams import Stream

Sendable: TypeAlias = h11.Request | h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
Received: TypeAlias = Sendable | h11.ConnectionClosed | type[h11.PAUSED]

_LINGER_S = 2.0
_LINGER_BYTES = 1 << 20


class InsideWire:
    """The sandbox's side, where we are the server. Raises `SandboxHungUp`, or `EgressRefusal` for bad HTTP."""

    def __init__(self, stream: Stream, *, head_bytes: int, head_s: float, idle_s: float) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=head_bytes)
        self._head_s = head_s
        self._idle_s = idle_s

    async def next_request(self) -> h11.Request | None:
        """The next request's head, whole within `head_s`; None where the client has ended."""
        try:
            async with asyncio.timeout(self._head_s):
                event = await self._next()
        except TimeoutError as error:
            raise SandboxHungUp("no request came in time") from error
        return event if isinstance(event, h11.Request) else None

    async def next_event(self) -> Received:
        """The next piece of the body, or its end."""
        if self.http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._next()
        except TimeoutError as error:
            raise SandboxHungUp("the body stopped") from error

    async def send(self, event: Sendable) -> None:
        data = self.http.send(event)
        try:
            async with asyncio.timeout(self._idle_s):
                await self.stream.send(data or b"")
        except OSError as error:
            raise SandboxHungUp("the client does not take its answer") from error

    def next_cycle(self) -> bool:
        """Get ready for another request on this connection; False where it must end."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        return True

    def is_request_read(self) -> bool:
        """Whether the request has no body left to read. Waits for nothing."""
        if self.http.their_state is not h11.SEND_BODY:
            return self.http.their_state is not h11.ERROR
        try:
            return isinstance(self.http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return False

    async def linger(self) -> None:
        """Read a little of what still comes, so that closing does not destroy the answer that was just sent."""
        try:
            async with asyncio.timeout(_LINGER_S):
                await self.stream.send_eof()
                left = _LINGER_BYTES
                while left > 0 and (data := await self.stream.receive()):
                    left -= len(data)
        except OSError:
            return

    async def _next(self) -> Received:
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(await self.stream.receive())
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            code = Code.TOO_LARGE if status == 431 else Code.MALFORMED
            raise EgressRefusal(code, f"The request is refused: {error}"[:200], status=status) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise SandboxHungUp("the client's connection broke") from error
        assert event is not h11.NEED_DATA  # noqa: S101 the loop above ends only with another event
        return event  # type: ignore[return-value]  # the loop's exit narrows what mypy cannot


class OutsideWire:
    """The server's side, where we are the client. Raises `EgressRefusal` for whatever goes wrong out there."""

    def __init__(self, stream: Stream, *, idle_s: float) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=256 << 10)
        self._idle_s = idle_s

    async def next_event(self) -> Received:
        try:
            async with asyncio.timeout(self._idle_s):
                while (event := self.http.next_event()) is h11.NEED_DATA:
                    self.http.receive_data(await self.stream.receive())
        except TimeoutError as error:
            raise EgressRefusal(Code.TIMEOUT, "The server went silent") from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise EgressRefusal(Code.UPSTREAM_BROKEN, "The server broke off or answered nonsense") from error
        return event  # type: ignore[return-value]  # the loop's exit narrows what mypy cannot

    async def send(self, event: Sendable) -> None:
        data = self.http.send(event)
        try:
            async with asyncio.timeout(self._idle_s):
                await self.stream.send(data or b"")
        except TimeoutError as error:
            raise EgressRefusal(Code.TIMEOUT, "The server stopped reading") from error
        except OSError as error:
            raise EgressRefusal(Code.UPSTREAM_BROKEN, "The server closed while it was being written to") from error

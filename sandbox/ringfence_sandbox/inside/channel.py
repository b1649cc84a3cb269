"""One connection to a control plane: frames in, frames out, both bounded, neither ever blocking the server."""

from __future__ import annotations

import os

from . import wire
from .loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop
    from .wire import Header

BEHIND_OVER = 4 << 20
REQUEST_CEILING = 64 << 20
"""The most that the continued body of one request may hold in memory; `load` spools to a file instead."""


class ChannelClosed(Exception):
    """The other side is gone."""


class Transport:
    """Bytes in and out without blocking: `receive` gives None for nothing yet and b"" for the end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def receive(self) -> bytes | None:
        try:
            return os.read(self.fd, wire.CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send(self, data: memoryview) -> int:
        """How many bytes were taken, 0 for none now. Raises ChannelClosed."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def close(self) -> None:
        os.close(self.fd)


class Channel:
    """Joins continued requests, queues replies. `is_behind` asks producers to pause until `on_caught_up`."""

    def __init__(
        self,
        transport: Transport,
        loop: Loop,
        handle: Callable[[Channel, Header, bytes], None],
        on_end: Callable[[Channel], None],
        on_caught_up: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._handle = handle
        self._on_end = on_end
        self._on_caught_up = on_caught_up
        self._decoder = wire.Decoder()
        self._continued: dict[int, tuple[Header, bytearray]] = {}
        self._queue: list[memoryview] = []
        self._queued = 0
        self._is_closed = False
        loop.watch(transport.fd, READ, self._ready)

    @classmethod
    def of_descriptor(
        cls,
        fd: int,
        loop: Loop,
        handle: Callable[[Channel, Header, bytes], None],
        on_end: Callable[[Channel], None],
        on_caught_up: Callable[[], None],
    ) -> Channel:
        return cls(Transport(fd), loop, handle, on_end, on_caught_up)

    @property
    def is_behind(self) -> bool:
        return self._queued > BEHIND_OVER

    def send(self, header: Header, body: bytes = b"") -> None:
        """Queue one frame. To a channel that is gone: nothing."""
        if self._is_closed:
            return
        frame = memoryview(wire.encode(header, body))
        if not self._queue:
            try:
                frame = frame[self._transport.send(frame) :]
            except ChannelClosed:
                self.close()
                return
        if frame:
            self._queue.append(frame)
            self._queued += len(frame)
            self._loop.watch(self._transport.fd, READ | WRITE, self._ready)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.unwatch(self._transport.fd)
            self._transport.close()
            self._on_end(self)

    def _ready(self, events: int) -> None:
        if events & WRITE and self._queue:
            self._flush()
        if events & ~WRITE and not self._is_closed:
            self._receive()

    def _flush(self) -> None:
        was_behind = self.is_behind
        try:
            while self._queue:
                sent = self._transport.send(self._queue[0])
                if not sent:
                    break
                self._queued -= sent
                rest = self._queue[0][sent:]
                if rest:
                    self._queue[0] = rest
                else:
                    self._queue.pop(0)
        except ChannelClosed:
            self.close()
            return
        if not self._queue:
            self._loop.watch(self._transport.fd, READ, self._ready)
        if was_behind and not self.is_behind:
            self._on_caught_up()

    def _receive(self) -> None:
        while not self._is_closed:
            data = self._transport.receive()
            if data is None:
                return
            if not data:
                self.close()
                return
            try:
                for header, body in self._decoder.feed(data):
                    self._join(header, body)
            except wire.WireError as error:
                os.write(2, (f"ringfence server: {error}\n").encode())
                self.close()

    def _join(self, header: Header, body: bytes) -> None:
        number = header.get("id")
        if not isinstance(number, int):
            raise wire.WireError("a frame needs an id")
        started = self._continued.pop(number, None)
        if started is None:
            if header.get("more"):
                self._continued[number] = (header, bytearray(body))
            else:
                self._handle(self, header, body)
            return
        first, joined = started
        joined += body
        if len(joined) > REQUEST_CEILING:
            raise wire.WireError("a request is larger than %d bytes" % REQUEST_CEILING)
        if header.get("more"):
            self._continued[number] = started
        else:
            self._handle(self, first, bytes(joined))

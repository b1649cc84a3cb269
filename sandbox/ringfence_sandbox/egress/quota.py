"""Counts and slows what crosses: bytes of a request, bytes a second and requests a second of a sandbox."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.streams import Stream

_TURNED_AWAY_AT_ONCE = 16


@dataclass(slots=True)
class Meter:
    """Bytes that crossed to (`sent`) and from (`received`) the outside on behalf of one admitted request."""

    sent_bytes: int = 0
    received_bytes: int = 0


class Bucket:
    """A token bucket: `rate_per_s` on average, `burst` at once. Who takes more than there is waits."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s: float | None = None

    async def take(self, amount: int) -> None:
        """Return once the tokens are there; an amount above the burst goes into debt, so it too is served."""
        delay_s = self.reserve(amount, asyncio.get_running_loop().time())
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    def reserve(self, amount: int, now_s: float) -> float:
        """Take tokens now and say how many seconds to wait before using them."""
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        self._tokens = min(self._burst, self._tokens + elapsed_s * self._rate_per_s)
        self._at_s = now_s
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate_per_s)


class Seats:
    """A number of places, taken and given back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self) -> bool:
        """Take a place; False where none is left."""
        if self.taken >= self._limit:
            return False
        self.taken += 1
        return True

    def give(self) -> None:
        self.taken -= 1


class Quota:
    """What one sandbox has left. Shared by all its connections."""

    def __init__(self, limits: EgressLimits) -> None:
        self.limits = limits
        self.sending = Bucket(limits.bytes_per_s, limits.bytes_per_s)
        self.receiving = Bucket(limits.bytes_per_s, limits.bytes_per_s)
        self.requests = Bucket(limits.requests_per_s, limits.request_burst)
        self.connections = Seats(limits.connections)
        self.turned_away = Seats(_TURNED_AWAY_AT_ONCE)


class MeteredStream:
    """The outside's stream, counted on a meter and held to a quota. Raises `EgressRefusal` (too-large) beyond it."""

    def __init__(self, stream: Stream, meter: Meter, quota: Quota) -> None:
        self._stream = stream
        self._meter = meter
        self._quota = quota

    async def receive(self) -> bytes:
        data = await self._stream.receive()
        self._meter.received_bytes += len(data)
        if self._meter.received_bytes > self._quota.limits.received_bytes:
            raise EgressRefusal(Code.TOO_LARGE, "More was received than one connection may", status=502)
        await self._quota.receiving.take(len(data))
        return data

    async def send(self, data: bytes) -> None:
        if self._meter.sent_bytes + len(data) > self._quota.limits.sent_bytes:
            raise EgressRefusal(Code.TOO_LARGE, "More was sent than one connection may")
        self._meter.sent_bytes += len(data)
        await self._quota.sending.take(len(data))
        await self._stream.send(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    def close(self) -> None:
        self._stream.close()

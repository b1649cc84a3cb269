"""Refused log-ins as entries, without letting strangers fill the log.

So many of an interval are entries of their own; what comes beyond is counted, and the count becomes one entry when the
interval is over. Counted in this process: what is not told yet is lost with it, at most one interval's count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Store, Transaction

MOST = 60
WITHIN_S = 600
ACTOR = "system:auth"
Describe = Callable[[Transaction], Mapping[str, JsonValue]]


@dataclass(frozen=True, slots=True)
class _Over:
    """An interval that is over, with what was left out of the log in it."""

    began: datetime
    count: int

    def event(self) -> Event:
        data: dict[str, JsonValue] = {
            "what": "login.refused_more",
            "count": self.count,
            "since": self.began.isoformat(timespec="seconds"),
            "within_s": WITHIN_S,
        }
        return Event(Kind.LOGIN, ACTOR, data)


def _now() -> datetime:
    return datetime.now(UTC)


class Refusals:
    """Used on one event loop."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock
        self._began = clock()
        self._told = 0
        self._left_out = 0

    async def record(self, store: Store, describe: Describe) -> None:
        """One refused log-in. `describe` says what is recorded of it, in the transaction that records it."""
        over = self._over()
        is_entry = self._told < MOST
        if is_entry:
            self._told += 1
        else:
            self._left_out += 1
        if is_entry or over is not None:
            await self._write(store, over, describe if is_entry else None)

    async def tell(self, store: Store, *, is_end: bool = False) -> None:
        """Record what was counted in an interval that is over, or in this one at the end of the process."""
        over = self._over(is_end=is_end)
        if over is not None:
            await self._write(store, over, None)

    async def keep(self, store: Store) -> None:
        """Tell each interval's count although nobody comes any more, until cancelled."""
        while True:
            await asyncio.sleep(WITHIN_S / 10)
            try:
                await self.tell(store)
            except LogUnavailable:
                continue  # the count is kept, and told with the next one

    async def _write(self, store: Store, over: _Over | None, describe: Describe | None) -> None:
        def work(tx: Transaction) -> None:
            if over is not None:
                tx.record(over.event())
            if describe is not None:
                tx.record(Event(Kind.LOGIN, ACTOR, describe(tx)))

        try:
            await store.write(work)
        except LogUnavailable:
            self._left_out += (0 if over is None else over.count) + (0 if describe is None else 1)
            raise

    def _over(self, *, is_end: bool = False) -> _Over | None:
        """Begin the next interval where this one is over; what was counted in it, if anything."""
        now = self._clock()
        if not is_end and timedelta() <= now - self._began < timedelta(seconds=WITHIN_S):
            return None
        over = _Over(self._began, self._left_out) if self._left_out else None
        self._began, self._told, self._left_out = now, 0, 0
        return over

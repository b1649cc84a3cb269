"""A store through which one producer writes: its events are numbered, and the count is signed with its own key.

Give the gate and the proxy one each, with different keys (`counters` says what that is good for). A transaction that
is rolled back gives its numbers back; numbers that are lost because the log could not be written are reported by the
next transaction as a gap, counted, so that a hole is never unexplained.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from ringfence_audit.counters import STAMP, START, advance, fingerprint, signed_message
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.port import Store, Transaction

T = TypeVar("T")

SIGN_EVERY = 64
SIGN_AFTER_S = 1.0
_GAPS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Point:
    """How far a producer has come."""

    count: int = 0
    head: bytes = START


@dataclass(slots=True)
class _Taken:
    """What one transaction took: where it began, and the marks of its events."""

    start: _Point | None = None
    marks: list[bytes] = field(default_factory=list)
    gaps: dict[int, bytes] = field(default_factory=dict)


class CountedStore:
    """See `port.Store`. Transactions of several tasks may run at once, as far as the store beneath lets them."""

    def __init__(self, store: Store, signer: Signer, *, role: str, ticks: Callable[[], float] = time.monotonic) -> None:
        """`signer` is the producer's own key, never the log's. Each open store counts from 0 under an id of its own."""
        self._store = store
        self._signer = signer
        self._role = role
        self._ticks = ticks
        self.id = f"{role}:{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._at = _Point()
        self._signed = -1
        self._signed_at = ticks()
        self._gaps: dict[int, bytes] = {}

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """See `port.Store.write`."""
        taken = _Taken()

        def counted(tx: Transaction) -> T:
            self._give_back(taken)  # what an earlier attempt of the same transaction took
            is_done = False
            try:
                self._report_gaps(tx, taken)
                result = work(_CountingTransaction(tx, self, taken))
                self._sign_if_due(tx, taken)
                is_done = True
                return result
            finally:
                if not is_done:
                    self._give_back(taken)

        writing = asyncio.ensure_future(self._store.write(counted))
        writing.add_done_callback(lambda done: self._ended(done, taken))
        return await asyncio.shield(writing)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `port.Store.read`."""
        return await self._store.read(work)

    async def sign(self) -> None:
        """Sign the count where events came after the last signature, such as when the process ends.

        Raises `LogUnavailable`; then the last events stay uncounted, which the log itself still holds."""
        if self._at.count > max(self._signed, 0):
            await self._store.write(self._sign)

    def stamp(self, event: Event, taken: _Taken) -> Event:
        """The event with the producer's id and its number."""
        mark = fingerprint(event, self.id)
        with self._lock:
            if taken.start is None:
                taken.start = self._at
            number = self._at.count
            self._at = _Point(number + 1, advance(self._at.head, mark))
            taken.marks.append(mark)
        return replace(event, data={**event.data, STAMP: {"id": self.id, "n": number}})

    def _give_back(self, taken: _Taken) -> None:
        """Numbers that no entry got: given out again where they were the last ones, a gap otherwise."""
        with self._lock:
            if taken.start is not None:
                first = taken.start.count
                if self._at.count == first + len(taken.marks):
                    self._at = taken.start
                else:
                    self._gaps.update(enumerate(taken.marks, first))
            self._gaps.update(taken.gaps)
        taken.start, taken.marks, taken.gaps = None, [], {}

    def _ended(self, done: asyncio.Future[T], taken: _Taken) -> None:
        """A transaction that could not be made durable leaves a gap, also where its caller is gone."""
        if not done.cancelled() and isinstance(done.exception(), LogUnavailable):
            with self._lock:
                if taken.start is not None:
                    self._gaps.update(enumerate(taken.marks, taken.start.count))
                self._gaps.update(taken.gaps)
                self._signed = -1

    def _report_gaps(self, tx: Transaction, taken: _Taken) -> None:
        with self._lock:
            taken.gaps = dict(list(self._gaps.items())[:_GAPS_AT_ONCE])
            for number in taken.gaps:
                del self._gaps[number]
        if taken.gaps:
            data: dict[str, JsonValue] = {
                "producer": {"id": self.id},
                "numbers": list(taken.gaps),
                "marks": [mark.hex() for mark in taken.gaps.values()],
                "count": len(taken.gaps),
                "reason": "the log could not be written",
            }
            tx.record(Event(Kind.GAP, f"system:{self._role}", data))

    def _sign_if_due(self, tx: Transaction, taken: _Taken) -> None:
        if not taken.marks:
            return
        is_due = self._signed < 0 or self._at.count - self._signed >= SIGN_EVERY
        if is_due or self._ticks() - self._signed_at >= SIGN_AFTER_S:
            self._sign(tx)

    def _sign(self, tx: Transaction) -> None:
        at = self._at
        signature = self._signer.sign(signed_message(self.id, at.count, at.head))
        data: dict[str, JsonValue] = {
            "producer": {"id": self.id},
            "key": str(VerifierKey.of_log(self._signer.origin, self._signer.public_key)),
            "count": at.count,
            "head": at.head.hex(),
            "signature": base64.b64encode(signature).decode(),
        }
        tx.record(Event(Kind.COUNT, f"system:{self._role}", data))
        self._signed, self._signed_at = at.count, self._ticks()


class _CountingTransaction:
    """See `port.Transaction`."""

    def __init__(self, tx: Transaction, store: CountedStore, taken: _Taken) -> None:
        self._tx = tx
        self._store = store
        self._taken = taken

    @property
    def connection(self) -> Connection:
        return self._tx.connection

    @property
    def now(self) -> datetime:
        return self._tx.now

    def record(self, event: Event) -> None:
        self._tx.record(self._store.stamp(event, self._taken))

    def announce(self) -> None:
        self._tx.announce()

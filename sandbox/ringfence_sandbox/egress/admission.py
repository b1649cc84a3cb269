"""Asks before anything leaves, and says when it is over: the egress proxy's side of the log.

Order: the gatekeeper's entry is durable before a name is resolved or a connection made; `closed` follows an allowed
admission exactly once, also when the connection's task is cancelled. An admission that was refused, failed or timed out
is not followed by `closed`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ringfence_sandbox.contract import EgressGatekeeper, EgressRequest, EgressVerdict, SandboxId
from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.limits import EgressLimits
from ringfence_sandbox.egress.quota import Meter

_SILENCES = 2


@dataclass(frozen=True, slots=True)
class Admission:
    """What is allowed to leave, and the meter on which its bytes are counted."""

    request: EgressRequest
    verdict: EgressVerdict
    meter: Meter


@dataclass(slots=True)
class _Live:
    request: EgressRequest
    task: asyncio.Task[object]
    is_admitted: bool = False

    def is_open(self, sandbox: SandboxId | None) -> bool:
        return self.is_admitted and sandbox in (None, self.request.sandbox)


@runtime_checkable
class StandingGatekeeper(EgressGatekeeper, Protocol):
    """A gatekeeper that can also say which open requests still stand, so that a grant revoked elsewhere ends here.

    `stands` is asked about twice a second while something is open, and returns the ids that may stay; the rest is
    closed. Where it gives no answer twice in a row everything is closed: no log, no egress.
    """

    async def stands(self, requests: Sequence[EgressRequest]) -> frozenset[str]: ...


class Admissions:
    """Every request that is asked for or on its way, over all sandboxes of one proxy."""

    def __init__(self, gatekeeper: EgressGatekeeper, limits: EgressLimits) -> None:
        self._gatekeeper = gatekeeper
        self._limits = limits
        self._live: dict[str, _Live] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._log = logging.getLogger("ringfence.egress")

    @asynccontextmanager
    async def admitted(self, request: EgressRequest) -> AsyncIterator[Admission]:
        """Hold a request open. Raises `EgressRefusal` where it may not leave."""
        task = asyncio.current_task()
        assert task is not None, "an admission belongs to a task"  # noqa: S101 always true inside a coroutine
        # Live before it is asked: a grant that ends while the answer is on its way ends this one too.
        live = self._live[request.id] = _Live(request, task)
        try:
            verdict = await self._ask(request)
            live.is_admitted = True
            admission = Admission(request, verdict, Meter())
            started_s = asyncio.get_running_loop().time()
            try:
                yield admission
            finally:
                await self._close(admission, started_s)
        finally:
            del self._live[request.id]

    def live(self, sandbox: SandboxId | None = None) -> tuple[EgressRequest, ...]:
        """What is asked for or on its way now."""
        return tuple(live.request for live in self._live.values() if sandbox in (None, live.request.sandbox))

    async def end(self, is_over: Callable[[EgressRequest], bool], *, timeout_s: float) -> int:
        """Cancel the connections of every matching request; wait for their end. Returns how many there were."""
        tasks = {live.task for live in self._live.values() if is_over(live.request)}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        return len(tasks)

    async def end_requests(self, ids: frozenset[str], *, timeout_s: float) -> int:
        """`end` for these requests."""
        return await self.end(lambda request: request.id in ids, timeout_s=timeout_s)

    async def watch(self, sandbox: SandboxId | None) -> None:
        """End what no longer stands, until cancelled. Returns at once where the gatekeeper cannot say."""
        if not isinstance(self._gatekeeper, StandingGatekeeper):
            return
        silent = 0
        while True:
            await asyncio.sleep(self._limits.recheck_s)
            requests = tuple(live.request for live in self._live.values() if live.is_open(sandbox))
            if not requests:
                continue
            standing = await self._standing(self._gatekeeper, requests)
            silent = 0 if standing is not None else silent + 1
            if standing is None and silent < _SILENCES:
                continue
            over = frozenset(request.id for request in requests) - (standing or frozenset())
            await self.end_requests(over, timeout_s=self._limits.closed_s)

    async def _standing(
        self, gatekeeper: StandingGatekeeper, requests: Sequence[EgressRequest]
    ) -> frozenset[str] | None:
        try:
            async with asyncio.timeout(self._limits.stands_s):
                return await gatekeeper.stands(requests)
        except Exception as error:  # noqa: BLE001 whatever went wrong in there, it is no yes
            self._log.warning("whether open egress still stands could not be learned: %r", error)
            return None

    async def drain(self) -> None:
        """Wait until every `closed` under way has been given its time."""
        while self._closing:
            await asyncio.wait(self._closing)

    async def _ask(self, request: EgressRequest) -> EgressVerdict:
        try:
            async with asyncio.timeout(self._limits.admit_s):
                verdict = await self._gatekeeper.admit(request)
        except Exception as error:
            self._log.warning("egress of %s refused, the policy gave no answer: %r", request.sandbox, error)
            raise EgressRefusal(
                Code.NOT_ADMITTED, "No answer from the policy, so nothing leaves", instead="try again later"
            ) from error
        if not verdict.is_allowed:
            raise EgressRefusal(
                Code.HOST_REFUSED,
                f"{request.host}:{request.port} is not open to this sandbox",
                rule=verdict.rule,
                instead=verdict.instead,
            )
        return verdict

    async def _close(self, admission: Admission, started_s: float) -> None:
        duration_ms = int((asyncio.get_running_loop().time() - started_s) * 1000)
        task = asyncio.create_task(self._report(admission, duration_ms))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)

    async def _report(self, admission: Admission, duration_ms: int) -> None:
        try:
            async with asyncio.timeout(self._limits.closed_s):
                await self._gatekeeper.closed(
                    admission.request,
                    sent_bytes=admission.meter.sent_bytes,
                    received_bytes=admission.meter.received_bytes,
                    duration_ms=duration_ms,
                )
        except Exception:  # noqa: BLE001 the connection is over; the missing close entry is itself what must be seen
            self._log.exception("the close of egress %s could not be recorded", admission.request.id)

"""The keeper: one task a process that renews the leases of all its runs and brings them what people ask.

Two statements a tick however many runs there are, so that hundreds of live runs on two cores miss no heartbeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, select

from ringfence_agents.drive import Drive
from ringfence_agents.leases import Lease, renew
from ringfence_agents.ports import Limits
from ringfence_agents.preserving import begin_seal
from ringfence_agents.runs import Request
from ringfence_agents.schema import runs
from ringfence_agents.switch import Stop, StopKind
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Store
from ringfence_tools.calls import RunId


@dataclass(frozen=True, slots=True)
class _Asked:
    fence: int
    request: Request
    by: str
    reason: str


class Keeper:
    """Keeps the leases of one worker. `keeping` registers a drive; the task runs while there is any."""

    def __init__(self, store: Store, worker: str, limits: Limits) -> None:
        self._store = store
        self._worker = worker
        self._limits = limits
        self._drives: dict[Lease, Drive] = {}
        self._task: asyncio.Task[None] | None = None
        self._ticks_to_renewal = 0

    @asynccontextmanager
    async def keeping(self, drive: Drive) -> AsyncIterator[None]:
        self._drives[drive.lease] = drive
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())
        try:
            yield
        finally:
            del self._drives[drive.lease]
            if not self._drives and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        ticks = max(1, int(self._limits.lease_s / 3 / self._limits.watch_s))
        while True:
            await asyncio.sleep(self._limits.watch_s)
            self._ticks_to_renewal -= 1
            try:
                await self.look()
                if self._ticks_to_renewal <= 0:
                    await self.renew()
                    self._ticks_to_renewal = ticks
            except LogUnavailable:
                # Nobody can take our leases while the database is away; the next tick tries again.
                continue

    async def look(self) -> None:
        """Throw the switches of runs that are lost, asked to stop, or out of wall time."""
        # Those that are there now: one that is taken up while the tables are read does not stand in what was read.
        drives = tuple(self._drives.values())
        asked = await self._store.read(self._asked)
        for drive in drives:
            stop = _stop_for(drive, asked.get(drive.run))
            if stop is not None:
                tell(drive, stop)

    async def renew(self) -> None:
        """Renew every lease and write the wall time that passed."""
        drives = tuple(self._drives.values())
        elapsed = {drive.lease: drive.stopwatch.take_ms() for drive in drives}
        try:
            lost = await self._store.write(lambda tx: renew(tx, elapsed, lease_s=self._limits.lease_s))
        except LogUnavailable:
            for drive in drives:
                drive.stopwatch.give_back_ms(elapsed[drive.lease])
            raise
        for drive in drives:
            if drive.lease in lost:
                drive.switch.throw(_lost(drive), grace_s=0)
            else:
                drive.active_ms += elapsed[drive.lease]

    def _asked(self, connection: Connection) -> dict[RunId, _Asked]:
        columns = (runs.c.id, runs.c.fence, runs.c.request, runs.c.requested_by, runs.c.request_reason)
        rows = connection.execute(select(*columns).where(runs.c.worker == self._worker))
        return {
            RunId(row.id): _Asked(row.fence, Request(row.request), row.requested_by, row.request_reason) for row in rows
        }


def _stop_for(drive: Drive, asked: _Asked | None) -> Stop | None:
    if asked is None or asked.fence != drive.lease.fence:
        return _lost(drive)
    if asked.request is not Request.NOTHING:
        return asked_stop(asked.request, asked.by, asked.reason)
    cap = drive.record.wall_cap_ms
    if cap is not None and drive.active_ms + drive.stopwatch.peek_ms() >= cap:
        return Stop(StopKind.BUDGET, "system:budget", f"the wall time of {cap // 1000} s is used up")
    return None


def asked_stop(request: Request, by: str, reason: str) -> Stop:
    """The stop that a person's request comes down to."""
    kinds = {Request.PAUSE: StopKind.PARK, Request.PRESERVE: StopKind.PRESERVE}
    return Stop(kinds.get(request, StopKind.CANCEL), by, reason)


def tell(drive: Drive, stop: Stop) -> None:
    """Stop the run, as the kind of stop asks for."""
    drive.switch.throw(stop, grace_s=grace_of(stop.kind, drive.equipment.limits))
    if stop.kind is StopKind.PRESERVE:
        begin_seal(drive)


def grace_of(kind: StopKind, limits: Limits) -> float:
    """Seconds that calls in flight get to end by themselves; those of a run that is sealed are ended by the seal."""
    if kind in (StopKind.LOST, StopKind.CANCEL):
        return 0
    return limits.closing_s if kind is StopKind.PRESERVE else limits.stop_grace_s


def _lost(drive: Drive) -> Stop:
    return Stop(StopKind.LOST, "system:lease", f"run {drive.run} is held by another worker now")

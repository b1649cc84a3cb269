"""The runner: takes a run by its lease and moves it as far as it goes now.

`drive` is the one way in: a fresh run, one whose worker died, one that a vote woke, one that a person resumed. It
reads the tables, goes on from where they stand, and ends in a state that the tables hold: ended, parked (it then holds
no worker, no memory and no sandbox process), or queued again for another worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ringfence_agents.asking import end
from ringfence_agents.collecting import seen
from ringfence_agents.conversation import agent_words, rows_since
from ringfence_agents.drive import Drive, Offer, Stopwatch
from ringfence_agents.endings import close
from ringfence_agents.errors import (
    ContextTooLong,
    ModelRefused,
    ModelUnavailable,
    ReplayDiverged,
    RunHeld,
    RunStopping,
    SandboxRefused,
)
from ringfence_agents.graph import RunGraph, build_graph, enter
from ringfence_agents.keeper import Keeper, asked_stop, grace_of, tell
from ringfence_agents.leases import (
    RELEASE_LEASE_S,
    Lease,
    claim,
    claim_waiting,
    free_dead,
    guard_of,
    holders,
    let_go,
    park,
    shorten,
    start_guard_of,
)
from ringfence_agents.lifesigns import has_ended
from ringfence_agents.parking import park_for, park_for_people, try_later
from ringfence_agents.ports import Equip, Equipment, Limits, Tools
from ringfence_agents.preserving import begin_seal
from ringfence_agents.pressure import Pressure
from ringfence_agents.runs import Closing, Request, RunRecord, RunState, WaitsFor
from ringfence_agents.sandboxes import SandboxHolder
from ringfence_agents.switch import Stop, StopKind, Switch
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.errors import (
    ProtocolViolation,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    StaleFence,
)
from ringfence_tools.budget import run_scope
from ringfence_tools.calls import RunId
from ringfence_tools.errors import LeaseLost
from ringfence_tools.gate_context import RunContext, TaskFacts
from ringfence_tools.ledger import calls_of_turn
from ringfence_tools.progress import Progress, RunMoved, ignore

_ENDS_RUN = (SandboxRefused, ModelRefused, ContextTooLong, ReplayDiverged)
RELEASE_WITHIN_S = 100.0
_TRY_LATER = (ModelUnavailable, SandboxBusy)


class Runner:
    """Moves runs of one store under one worker's name. Any number of `drive` at once on one event loop."""

    def __init__(
        self,
        store: Store,
        equip: Equip,
        *,
        worker: str,
        progress: Progress = ignore,
        limits: Limits | None = None,
        has_ended: Callable[[str], bool] = has_ended,
    ) -> None:
        self._store = store
        self._equip = equip
        self._worker = worker
        self._has_ended = has_ended
        self._progress = progress
        self.limits = limits or Limits()
        self._graph: RunGraph = build_graph()
        self._keeper = Keeper(store, worker, self.limits)
        self._pressure = Pressure.of(self.limits)
        self._switches: dict[RunId, Switch] = {}
        self._offer: tuple[Tools, Offer] | None = None

    def stop(self, run: RunId, stop: Stop) -> bool:
        """Tell a run that this runner drives to stop. False where it drives no such run."""
        switch = self._switches.get(run)
        if switch is not None:
            switch.throw(stop, grace_s=grace_of(stop.kind, self.limits))
        return switch is not None

    async def look(self) -> None:
        """See now what people ask of the runs that this runner drives. Raises `LogUnavailable`."""
        if self._switches:
            await self._keeper.look()

    def stop_all(self, stop: Stop) -> None:
        """Tell every run of this runner to stop."""
        for run in tuple(self._switches):
            self.stop(run, stop)

    @property
    def driving(self) -> frozenset[RunId]:
        return frozenset(self._switches)

    async def drive(self, run: RunId, *, is_forced: bool = False) -> RunState:
        """Claim the run and move it until it ends, waits, or is told to stop; return the state it is in then.

        `is_forced` takes a run that a person paused: only the person's own resume says so. Raises `RunNotFound`,
        `RunHeld`, `RunEnded`, `LeaseLost` (another worker has it; nothing more was written), `LogUnavailable` (the
        database stayed away; the lease runs out by itself), and what `Equip` raises, after the run is parked.
        """

        def take(tx: Transaction) -> RunRecord:
            return claim(tx, run, self._worker, lease_s=self.limits.lease_s, is_forced=is_forced)

        try:
            record = await self._store.write(take)
        except RunHeld:
            if not await self.mend_leases():
                raise
            record = await self._store.write(take)
        return await self.drive_claimed(record)

    async def mend_leases(self) -> int:
        """End the leases of workers whose processes ran on this machine and are certainly gone; how many runs that is.

        Those that a clock which jumped back would make longer than any may be are shortened too: their runs are free
        once a whole lease has passed without a renewal. Raises `LogUnavailable`.
        """
        ended = [name for name in await self._store.read(holders) if self._has_ended(name)]

        def work(tx: Transaction) -> int:
            shorten(tx, lease_s=self.limits.lease_s)
            return sum(free_dead(tx, name) for name in ended)

        return await self._store.write(work)

    async def drive_claimed(self, record: RunRecord) -> RunState:
        """`drive` for a run that was claimed already, in this runner's name, by `claim`."""
        run = record.id
        lease = Lease(run, self._worker, record.fence)
        switch = self._switches[run] = Switch()
        try:
            return await self._drive(lease, record, switch)
        except StaleFence as error:
            raise LeaseLost(str(error)) from error
        finally:
            if self._switches.get(run) is switch:
                del self._switches[run]

    async def release(self, run: RunId) -> bool:
        """Keep the files of a run that waits and remove its sandbox. False where it goes on, or cannot be kept whole.

        Raises `LogUnavailable` and what `Equip` raises.
        """
        record = await self._store.write(lambda tx: claim_waiting(tx, run, self._worker, lease_s=RELEASE_LEASE_S))
        if record is None:
            return False
        lease = Lease(run, self._worker, record.fence)
        try:
            equipment = await self._equip(record)
            holder = self._holder(lease, record, equipment)
            async with asyncio.timeout(RELEASE_WITHIN_S):
                return await holder.give_up()
        except (SandboxError, SandboxRefused, TimeoutError, LeaseLost) as error:
            self._progress(RunMoved(run, record.state.value, f"keeps its sandbox: {type(error).__name__}: {error}"))
            return False
        finally:
            await self._store.write(lambda tx: let_go(tx, lease))

    @property
    def worker(self) -> str:
        """The name in which this runner claims."""
        return self._worker

    async def _drive(self, lease: Lease, record: RunRecord, switch: Switch) -> RunState:
        try:
            equipment = await self._equip(record)
        except (LeaseLost, LogUnavailable):
            raise
        except Exception as error:
            # Whatever its profile asks for and cannot be had: a person looks at it, and no worker trips over it again.
            detail = f"cannot start: {error}"[:1000]
            await self._store.write(lambda tx: park(tx, lease, WaitsFor.PAUSE, detail=detail))
            raise
        drive = self._outfit(lease, record, equipment, switch)
        async with self._keeper.keeping(drive):
            try:
                return await _Leg(drive, self._graph).go()
            except asyncio.CancelledError:
                # Whoever cancels us wants the loop back soon: let go if the database answers quickly, else the
                # lease runs out by itself.
                await asyncio.shield(_let_go(drive))
                raise
            finally:
                await drive.holder.close()

    def _offer_of(self, tools: Tools) -> Offer:
        """What the model is offered: made once for as long as runs share a toolbox."""
        if self._offer is None or self._offer[0] is not tools:
            self._offer = (tools, Offer.of(tools))
        return self._offer[1]

    def _holder(self, lease: Lease, record: RunRecord, equipment: Equipment) -> SandboxHolder:
        return SandboxHolder(
            self._store,
            lease,
            guard_of(lease),
            record=record,
            equipment=equipment,
            progress=self._progress,
            starts=self._pressure.starts,
        )

    def _outfit(self, lease: Lease, record: RunRecord, equipment: Equipment, switch: Switch) -> Drive:
        guard = guard_of(lease)
        holder = self._holder(lease, record, equipment)
        context = RunContext(
            run=lease.run,
            agent=record.agent,
            on_behalf_of=record.on_behalf_of,
            fence=lease.fence,
            guard=guard,
            may_start=start_guard_of(lease),
            sandbox=holder.get,
            progress=self._progress,
            scopes=(run_scope(lease.run), *equipment.scopes(record)),
            task=TaskFacts(record.task_text, record.repository, record.base_commit, record.profile),
            says=agent_words,
            team=record.team,
        )
        drive = Drive(
            self._store,
            lease,
            record,
            equipment,
            context,
            switch,
            Stopwatch(),
            holder,
            self._offer_of(equipment.toolbox),
            self._pressure,
            active_ms=record.active_ms,
        )
        if record.request is not Request.NOTHING:
            switch.throw(asked_stop(record.request, record.requested_by, record.request_reason), grace_s=0)
        return drive


async def _let_go(drive: Drive) -> None:
    try:
        async with asyncio.timeout(5):
            await drive.holder.suspend()
            elapsed = drive.stopwatch.take_ms()
            await drive.store.write(
                lambda tx: park(tx, drive.lease, WaitsFor.NOTHING, detail="its worker stopped", active_ms=elapsed)
            )
    except (TimeoutError, LogUnavailable, LeaseLost, SandboxError) as error:
        drive.context.progress(RunMoved(drive.run, "running", f"left to its lease: {type(error).__name__}"))


class _Leg:
    """One lease's way through a run: advance, then end, park or go on."""

    def __init__(self, drive: Drive, graph: RunGraph) -> None:
        self._drive = drive
        self._graph = graph
        self._losses = 0

    async def go(self) -> RunState:
        self._drive.context.progress(RunMoved(self._drive.run, RunState.RUNNING.value))
        while True:
            try:
                state = await self._advance()
            except RunStopping as stopping:
                # The keeper would tell us a moment later.
                tell(self._drive, asked_stop(Request(stopping.request), stopping.by, stopping.reason))
                state = None
            except (SandboxGone, ProtocolViolation) as error:
                state = await self._lose_sandbox(error)
            except _ENDS_RUN as error:
                state = await self._end_by(error)
            except _TRY_LATER as error:
                state = await try_later(self._drive, error)
            except (LeaseLost, StaleFence, LogUnavailable):
                raise
            except Exception as error:  # noqa: BLE001 - the boundary of a run: recorded, and no other run suffers
                state = await try_later(self._drive, error)
            if state is not None:
                return state

    async def _advance(self) -> RunState | None:
        """Go on until the run ends or waits; None to go round again."""
        drive = self._drive
        await self._load()
        if drive.record.closing is None:
            await enter(self._graph, drive)
        stop = drive.switch.stop
        if stop is not None and stop.kind is StopKind.LOST:
            raise LeaseLost(stop.reason)
        if stop is not None and stop.kind is StopKind.PRESERVE:
            await begin_seal(drive)
        if drive.record.closing is None and stop is not None:
            closing = _closing_of(stop)
            if closing is None:
                return await park_for(drive, stop)
            await self._end(closing)
        if drive.record.closing is not None:
            return await close(drive, drive.record.closing)
        return await park_for_people(drive)

    async def _load(self) -> None:
        drive = self._drive
        record = drive.record
        known = drive.view.next_seq
        rows, results = await drive.store.read(
            lambda connection: (
                rows_since(connection, record.id, known),
                seen(calls_of_turn(connection, record.id, record.collected_turn)),
            )
        )
        drive.view.add(rows)
        drive.last_results = results

    async def _end_by(self, error: Exception) -> RunState | None:
        """The run fails by this; one that is ending already tries its end again later, since it cannot fail twice."""
        if self._drive.record.closing is not None:
            return await try_later(self._drive, error)
        await self._end(Closing(RunState.FAILED, str(error)))
        return None

    async def _end(self, closing: Closing) -> None:
        await end(self._drive, closing)

    async def _lose_sandbox(self, error: SandboxError) -> RunState | None:
        """The sandbox died beside a call: go round again with what is left of it, or with a fresh one."""
        if isinstance(error, ProtocolViolation):
            await self._drive.holder.condemn(str(error))
        else:
            await self._drive.holder.distrust()
        self._losses += 1
        if self._losses > self._drive.equipment.limits.sandbox_losses:
            return await try_later(self._drive, error)
        return None


def _closing_of(stop: Stop) -> Closing | None:
    if stop.kind in (StopKind.CANCEL, StopKind.PRESERVE):
        return Closing(RunState.CANCELLED, f"cancelled by {stop.by}: {stop.reason}")
    return None

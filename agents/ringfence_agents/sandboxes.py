"""The sandbox of one run during one lease: started or attached when first asked for, suspended or released at the end.

The id is stored before anything is built, so that whatever a crash leaves behind is known by name. A sandbox that was
lost is replaced by a fresh one under a new id, with the base commit and nothing else in it: the agent is told, and the
gate, which compares ids, never takes the silence of the new one for the word of the old.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import insert, update

from ringfence_agents.errors import SandboxRefused
from ringfence_agents.leases import Lease
from ringfence_agents.ports import Equipment
from ringfence_agents.runs import RunRecord, SandboxState
from ringfence_agents.schema import inbox, runs
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import Sandbox, SandboxId
from ringfence_sandbox.errors import (
    IsolationUnavailable,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    SandboxRemoved,
    WorkspaceRefused,
)
from ringfence_tools.clock import micros
from ringfence_tools.gate_context import Guard
from ringfence_tools.progress import Progress, RunMoved

LOST_NOTE = (
    "The sandbox was lost and has been rebuilt from the base commit: files that you had changed are as they were at "
    "the start. Look at the workspace before you go on."
)


class SandboxHolder:
    """Holds the run's live sandbox. Safe to ask from several calls at once."""

    def __init__(
        self, store: Store, lease: Lease, guard: Guard, *, record: RunRecord, equipment: Equipment, progress: Progress
    ) -> None:
        self._store = store
        self._lease = lease
        self._guard = guard
        self._record = record
        self._equipment = equipment
        self._progress = progress
        self._lock = asyncio.Lock()
        self._live: Sandbox | None = None
        self._id = SandboxId(record.sandbox_id)
        self._generation = record.sandbox_generation
        self._state = record.sandbox_state
        self.is_ending = False
        """A run that ends gets no new sandbox: what was in flight in a lost one is unknown."""
        self._removed = ""
        """Why an operator's removal ends the run; "" where there was none."""

    @property
    def has_files(self) -> bool:
        """A sandbox of this run was built to the end and not released."""
        return self._state is SandboxState.READY

    async def get(self) -> Sandbox:
        """The live sandbox. Raises `SandboxError`, `LeaseLost`, or `SandboxRefused` where asking again cannot help."""
        async with self._lock:
            if self._live is None:
                self._refuse_removed()
                try:
                    async with asyncio.timeout(self._equipment.limits.sandbox_start_s):
                        self._live = await self._attach() or await self._create()
                except (IsolationUnavailable, WorkspaceRefused) as error:
                    raise SandboxRefused(str(error)) from error
                except TimeoutError as error:
                    raise SandboxBusy(f"run {self._lease.run}: the sandbox did not start in time") from error
            return self._live

    async def distrust(self) -> None:
        """The live sandbox may be dead: let go of it, so that the next `get` finds out what is left."""
        await self.suspend()

    async def condemn(self, reason: str) -> None:
        """Its server answered outside the protocol: nothing it says counts any more. Destroy it, start afresh."""
        async with self._lock:
            self._live = None
            await self._equipment.backend.destroy(self._id)
            await self._store_state(SandboxState.CREATING, {"action": "condemned", "detail": reason}, note=LOST_NOTE)

    async def _attach(self) -> Sandbox | None:
        if self._state is not SandboxState.READY:
            return None
        self._progress(RunMoved(self._lease.run, "running", "resuming the sandbox"))
        egress = self._equipment.egress(self._record)
        try:
            sandbox = await self._equipment.backend.attach(self._equipment.spec(self._record, self._id), egress=egress)
        except SandboxRemoved as error:
            self._removed = str(error)
            await self._store_state(SandboxState.READY, {"action": "removed", "detail": str(error)})
            self._refuse_removed()
        except SandboxGone as error:
            await self._store_state(SandboxState.CREATING, {"action": "lost", "detail": str(error)}, note=LOST_NOTE)
            return None
        await self._store_ready("attached", sandbox)
        return sandbox

    def _refuse_removed(self) -> None:
        """An operator's removal is a decision: a run that goes on ends by it, one that ends already has no sandbox."""
        if self._removed:
            raise SandboxGone(self._removed) if self.is_ending else SandboxRefused(self._removed)

    async def _store_ready(self, action: str, sandbox: Sandbox) -> None:
        """The fence as it was found goes into the log; what lacks in it is told to whoever watches, too."""
        missing = [layer for layer in sandbox.layers if not layer.is_held]
        await self._store_state(
            SandboxState.READY, {"action": action, "layers": _layers(sandbox), "is_reduced": bool(missing)}
        )
        if missing:
            lacks = "; ".join(f"{layer.name} does not hold ({layer.detail})" for layer in missing)
            self._progress(RunMoved(self._lease.run, "running", f"REDUCED isolation, as the profile allows: {lacks}"))

    async def _create(self) -> Sandbox:
        if self.is_ending:
            raise SandboxGone(f"run {self._lease.run} is ending and has no sandbox")
        backend = self._equipment.backend
        if self._generation > self._equipment.limits.sandbox_losses:
            raise SandboxRefused(f"run {self._lease.run} lost {self._generation} sandboxes; look at their entries")
        if self._state is SandboxState.CREATING and self._id:
            await backend.destroy(self._id)
        self._progress(RunMoved(self._lease.run, "running", "starting the sandbox"))
        self._generation += 1
        self._id = SandboxId(f"{self._lease.run}-{self._generation}")
        await self._store_state(SandboxState.CREATING, {"action": "starting", "backend": backend.kind})
        spec = self._equipment.spec(self._record, self._id)
        sandbox = await backend.create(spec, egress=self._equipment.egress(self._record))
        await sandbox.load(self._equipment.bundle(self._record))
        await self._store_ready("started", sandbox)
        return sandbox

    async def suspend(self) -> None:
        """Free what the live sandbox holds; its files stay. One that is gone by then is found out at the next `get`."""
        async with self._lock:
            if self._live is None:
                return
            live, self._live = self._live, None
            try:
                await live.suspend()
                data: dict[str, JsonValue] = {"action": "suspended"}
            except SandboxError as error:
                data = {"action": "suspend-failed", "detail": f"{type(error).__name__}: {error}"}
            await self._store_state(self._state, data)

    async def release(self) -> None:
        """End the sandbox and remove every trace. Raises `SandboxError` where that must be tried again."""
        async with self._lock:
            self._live = None
            if not self._id or self._state in (SandboxState.NONE, SandboxState.RELEASED):
                return
            await self._equipment.backend.destroy(self._id)
            await self._store_state(SandboxState.RELEASED, {"action": "destroyed"})

    async def _store_state(self, state: SandboxState, data: dict[str, JsonValue], *, note: str = "") -> None:
        record = self._record
        event = Event(
            Kind.SANDBOX,
            f"worker:{self._lease.worker}",
            {**data, "sandbox": self._id},
            run=record.id,
            on_behalf_of=record.person,
        )
        values = {"sandbox_id": self._id, "sandbox_generation": self._generation, "sandbox_state": state.value}

        def work(tx: Transaction) -> None:
            self._guard(tx)
            tx.connection.execute(update(runs).where(runs.c.id == record.id).values(**values))
            if note:
                tx.connection.execute(
                    insert(inbox).values(run=record.id, author="Ringfence", text=note, posted_at=micros(tx.now))
                )
            tx.record(event)

        await self._store.write(work)
        self._state = state


def _layers(sandbox: Sandbox) -> list[JsonValue]:
    return [{"name": layer.name, "is_held": layer.is_held, "detail": layer.detail} for layer in sandbox.layers]

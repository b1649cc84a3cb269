"""The sandbox of one run during one lease: started or attached when first asked for, suspended or released at the end.

The id is stored before anything is built, so that whatever a crash leaves behind is known by name. A sandbox that was
lost is replaced by a fresh one under a new id, with the base commit and nothing else in it: the agent is told, and the
gate, which compares ids, never takes the silence of the new one for the word of the old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy import insert, update

from ringfence_agents.errors import SandboxRefused
from ringfence_agents.kept import Kept, RunFiles
from ringfence_agents.leases import Lease
from ringfence_agents.ports import Equipment
from ringfence_agents.runs import RunRecord, SandboxState
from ringfence_agents.schema import inbox, runs
from ringfence_agents.steps import Step, kept_of, last_step, remember_kept, store_step
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.errors import (
    IsolationUnavailable,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    SandboxRemoved,
    WorkspaceRefused,
)
from ringfence_tools.clock import micros
from ringfence_tools.errors import LeaseLost
from ringfence_tools.gate_context import Guard
from ringfence_tools.progress import Progress, RunMoved

STEP_LIMIT_BYTES = 64 << 20
"""A larger patch is not kept after each turn."""


def lost_note(step: Step | None) -> str:
    """What the agent is told of a sandbox that was lost."""
    if step is None:
        files = "the base commit: files that you had changed are as they were at the start"
    else:
        files = (
            f"the files as they were after your turn {step.turn}: what came later, and what the repository ignores "
            "(build output, environments), is gone"
        )
    return f"The sandbox was lost and has been rebuilt from {files}. Look at the workspace before you go on."


class SandboxHolder:
    """Holds the run's live sandbox. Safe to ask from several calls at once."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        guard: Guard,
        *,
        record: RunRecord,
        equipment: Equipment,
        progress: Progress,
        starts: asyncio.Semaphore,
    ) -> None:
        self._store = store
        self._lease = lease
        self._guard = guard
        self._record = record
        self._equipment = equipment
        self._progress = progress
        self._starts = starts
        self._lock = asyncio.Lock()
        self._live: Sandbox | None = None
        self._id = SandboxId(record.sandbox_id)
        self._generation = record.sandbox_generation
        self._state = record.sandbox_state
        self.is_ending = False
        """A run that ends gets no new sandbox: what was in flight in a lost one is unknown."""
        self._files = RunFiles(equipment.artifacts)
        self._keeping: asyncio.Task[None] | None = None
        self._removed = ""
        """Why an operator's removal ends the run; "" where there was none."""

    @property
    def has_files(self) -> bool:
        """A sandbox of this run was built to the end, and its files are there."""
        return self._state in (SandboxState.READY, SandboxState.KEPT)

    async def get(self) -> Sandbox:
        """The live sandbox. Raises `SandboxError`, `LeaseLost`, or `SandboxRefused` where asking again cannot help."""
        async with self._lock:
            if self._live is None:
                self._refuse_removed()
                try:
                    async with self._starts, asyncio.timeout(self._equipment.limits.sandbox_start_s):
                        self._live = await self._attach() or await self._create()
                except (IsolationUnavailable, WorkspaceRefused, SandboxRefused) as error:
                    # A run that ends already has nothing to gain from being ended by this.
                    raise (SandboxGone if self.is_ending else SandboxRefused)(str(error)) from error
                except TimeoutError as error:
                    raise SandboxBusy(f"run {self._lease.run}: the sandbox did not start in time") from error
            return self._live

    async def distrust(self) -> None:
        """The live sandbox may be dead: let go of it, so that the next `get` finds out what is left."""
        await self.suspend()

    async def condemn(self, reason: str) -> None:
        """Its server answered outside the protocol: nothing it says counts any more. Destroy it, start another."""
        async with self._lock:
            self._live = None
            await self._equipment.backend.destroy(self._id)
            await self._store_lost({"action": "condemned", "detail": reason})

    async def _store_lost(self, data: dict[str, JsonValue]) -> None:
        step = await self._store.read(lambda connection: last_step(connection, self._record.id))
        await self._store_state(SandboxState.CREATING, data, note=lost_note(step))

    async def _attach(self) -> Sandbox | None:
        if self._state is not SandboxState.READY:
            return None
        self._progress(RunMoved(self._lease.run, "running", "resuming the sandbox"))
        egress = self._equipment.egress(self._record)
        try:
            sandbox = await self._equipment.backend.attach(self._spec(), egress=egress)
        except SandboxRemoved as error:
            self._removed = str(error)
            await self._store_state(SandboxState.READY, {"action": "removed", "detail": str(error)})
            self._refuse_removed()
        except SandboxGone as error:
            await self._store_lost({"action": "lost", "detail": str(error)})
            return None
        await self._store_ready("attached", sandbox)
        return sandbox

    def _spec(self) -> SandboxSpec:
        return replace(self._equipment.spec(self._record, self._id), fence=self._lease.fence)

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
        if self.is_ending and self._state is not SandboxState.KEPT:
            raise SandboxGone(f"run {self._lease.run} is ending and has no sandbox")
        backend = self._equipment.backend
        losses = self._generation - self._record.sandbox_releases
        if losses > self._equipment.limits.sandbox_losses:
            raise SandboxRefused(f"run {self._lease.run} lost {losses} sandboxes; look at their entries")
        is_kept = self._state is SandboxState.KEPT
        if self._id and self._state in (SandboxState.CREATING, SandboxState.KEPT):
            await backend.destroy(self._id)
        self._progress(RunMoved(self._lease.run, "running", "starting the sandbox"))
        self._generation += 1
        self._id = SandboxId(f"{self._lease.run}-{self._generation}")
        await self._store_state(
            SandboxState.KEPT if is_kept else SandboxState.CREATING, {"action": "starting", "backend": backend.kind}
        )
        sandbox = await backend.create(self._spec(), egress=self._equipment.egress(self._record))
        await sandbox.load(self._equipment.bundle(self._record))
        await self._bring_back(sandbox, is_kept=is_kept)
        await self._store_ready("started", sandbox)
        return sandbox

    async def _bring_back(self, sandbox: Sandbox, *, is_kept: bool) -> None:
        """The run's files, where it had some: all of them from the archive of a released sandbox, else a step's."""
        run, files = self._record.id, self._files
        if is_kept:
            kept = await self._store.read(lambda connection: kept_of(connection, run))
            if kept is None:
                raise SandboxRefused(f"run {run}: its kept files are not known any more")
            await asyncio.to_thread(files.check, files.archive(run), kept.sha256)
            await sandbox.unpack(files.archive(run))
            return
        step = await self._store.read(lambda connection: last_step(connection, run))
        if step is not None:
            path = files.step(run, step.files.sha256)
            await asyncio.to_thread(files.check, path, step.files.sha256)
            await sandbox.apply(path)

    def keep_step(self, turn: int) -> None:
        """Begin to keep what the workspace holds after this turn; whoever asks for the sandbox next waits for it."""
        if self._live is not None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep_step(turn))

    async def _keep_step(self, turn: int) -> None:
        async with self._lock:
            if self._live is None:
                return
            try:
                patch = await self._live.diff()
            except SandboxError as error:
                told = f"the files of turn {turn} could not be kept: {type(error).__name__}: {error}"
                self._progress(RunMoved(self._lease.run, "running", told))
                return
            if len(patch.data) > STEP_LIMIT_BYTES:
                return
            step = Step(turn, await asyncio.to_thread(self._files.keep_step, self._record.id, patch.data))
            data: dict[str, JsonValue] = {"action": "step", "turn": turn, **_named(step.files)}
            try:
                await self._store_state(self._state, data, also=partial(store_step, run=self._record.id, step=step))
            except (LeaseLost, LogUnavailable):
                return  # whoever drives the run meets the same at its next transaction

    async def seal(self) -> Kept | None:
        """Stop everything inside for good and keep all files as they are now; None where there are none.

        Raises `SandboxError`, `LeaseLost`.
        """
        if not self.has_files:
            return None
        sandbox = await self.get()
        async with self._lock:
            kept = await self._pack(sandbox, self._files.sealed(self._record.id), stays_frozen=True)
            await self._store_state(self._state, {"action": "sealed", **_named(kept)})
            return kept

    async def give_up(self) -> bool:
        """Keep the files of a run that waits and remove its sandbox; False where that would lose something."""
        sandbox = await self.get()
        try:
            async with self._lock:
                kept = await self._pack(sandbox, self._files.archive(self._record.id), stays_frozen=True)
                remember = partial(remember_kept, run=self._record.id, kept=kept)
                await self._store_state(SandboxState.KEPT, {"action": "released", **_named(kept)}, also=remember)
                self._live = None
                await self._equipment.backend.destroy(self._id)
        except IncompleteArchive:
            return False
        finally:
            await self.suspend()
        return True

    async def _pack(self, sandbox: Sandbox, path: Path, *, stays_frozen: bool) -> Kept:
        limit = self._spec().limits.disk_bytes * 2
        with self._files.receiving(path, limit_bytes=limit) as receiving:
            missing = await sandbox.pack(receiving, stays_frozen=stays_frozen)
            if missing and path == self._files.archive(self._record.id):
                raise IncompleteArchive
        return receiving.kept

    async def suspend(self) -> None:
        """Free what the live sandbox holds; its files stay. One that is gone by then is found out at the next `get`."""
        await self._until_kept()
        async with self._lock:
            if self._live is None:
                return
            live, self._live = self._live, None
            # What a successor holds by now, in this very process even, is not ours to stop.
            await self._store.write(self._guard)
            try:
                await live.suspend()
                data: dict[str, JsonValue] = {"action": "suspended"}
            except SandboxError as error:
                data = {"action": "suspend-failed", "detail": f"{type(error).__name__}: {error}"}
            await self._store_state(self._state, data)

    async def release(self) -> None:
        """End the sandbox and remove every trace. Raises `SandboxError` where that must be tried again."""
        await self._until_kept()
        async with self._lock:
            self._live = None
            if not self._id or self._state in (SandboxState.NONE, SandboxState.RELEASED):
                return
            await self._equipment.backend.destroy(self._id)
            await self._store_state(SandboxState.RELEASED, {"action": "destroyed"})
            await asyncio.to_thread(self._files.archive(self._record.id).unlink, missing_ok=True)

    async def _until_kept(self) -> None:
        if self._keeping is not None:
            await asyncio.wait({self._keeping})

    async def close(self) -> None:
        """End what still goes on beside the run."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _store_state(
        self,
        state: SandboxState,
        data: dict[str, JsonValue],
        *,
        note: str = "",
        also: Callable[[Transaction], None] | None = None,
    ) -> None:
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
            if also is not None:
                also(tx)
            tx.record(event)

        await self._store.write(work)
        self._state = state


class IncompleteArchive(Exception):
    """Some files could not be read: an archive of the rest is no ground to remove the sandbox."""


def _named(kept: Kept) -> dict[str, JsonValue]:
    return {"sha256": kept.sha256, "size_bytes": kept.size_bytes}


def _layers(sandbox: Sandbox) -> list[JsonValue]:
    return [{"name": layer.name, "is_held": layer.is_held, "detail": layer.detail} for layer in sandbox.layers]

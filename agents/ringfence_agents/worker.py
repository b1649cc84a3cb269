"""The worker: claims runs and drives them, many at once in one process, until it is told to go.

One loop looks for work; every run is a task of its own, so that one that fails harms no other. It looks at once when
any process announced news (a vote, a new run, a stop), and by itself at a bounded interval. Draining stops every run
at its next step and queues it again for another worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from ringfence_agents.errors import RunHeld
from ringfence_agents.leases import claim
from ringfence_agents.queue import QueueLimits, decided, long_waiting, next_run, wake_decided
from ringfence_agents.roster import sign_in, sign_out
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord
from ringfence_agents.switch import Stop, StopKind
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Store, Transaction, Wakeups
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros
from ringfence_tools.progress import Progress, RunMoved, ignore


@dataclass(frozen=True, slots=True)
class Pace:
    """How a worker works. Times in seconds."""

    at_once: int = 50
    look_s: float = 0.5
    sweep_s: float = 5.0
    drain_s: float = 30.0
    release_after_s: float = 1800.0
    """How long a run waits before its sandbox, suspended until then, is removed and its files are kept."""


News = Callable[[], AbstractAsyncContextManager[Wakeups]]
"""Opens what hears of announcements: `SqlStore.wakeups`."""

HEAR_S = 30.0


class Worker:
    """Drives runs of one store. `run` until it is cancelled or `drain` was called; not started twice."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        *,
        pace: Pace | None = None,
        limits: QueueLimits | None = None,
        progress: Progress = ignore,
        news: News | None = None,
    ) -> None:
        self._hear = news
        self._store = store
        self._runner = runner
        self._pace = pace or Pace()
        self._limits = limits or QueueLimits()
        self._progress = progress
        self._news = asyncio.Event()
        self._draining = False
        self._driving: set[asyncio.Task[None]] = set()
        self._releasing: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There may be work: look now. To be called on the event loop."""
        self._news.set()

    def drain(self, reason: str = "its worker is going away") -> None:
        """Take nothing more, stop what is driven at its next step, and let `run` return."""
        self._draining = True
        self._runner.stop_all(Stop(StopKind.DRAIN, "system:worker", reason))
        self._news.set()

    async def run(self) -> None:
        """Work until drained. A database that is away is waited for; nothing is lost by it."""
        sweep_in_s = 0.0
        async with asyncio.TaskGroup() as group:
            hearing = group.create_task(self._listen(self._hear)) if self._hear is not None else None
            while not self._draining:
                self._news.clear()
                try:
                    if sweep_in_s <= 0:
                        await self._sweep(group)
                        sweep_in_s = self._pace.sweep_s
                    await self._take(group)
                except LogUnavailable:
                    # The next look tries again: without its database a worker can do nothing, and must do nothing.
                    sweep_in_s = 0.0
                await self._rest()
                sweep_in_s -= self._pace.look_s
            await self._wait_for_drained()
            for beside in (hearing, self._releasing):
                if beside is not None:
                    beside.cancel()
        try:
            await self._store.write(lambda tx: sign_out(tx, self._runner.worker))
        except LogUnavailable:
            return  # the roster forgets it by itself

    async def _listen(self, news: News) -> None:
        """Look when there is news, for work and for what people ask of the runs in hand."""
        async with news() as heard:
            while True:
                if await heard.wait(HEAR_S):
                    self.wake()
                    try:
                        await self._runner.look()
                    except LogUnavailable:
                        continue  # the keeper's own look tries again

    async def _sweep(self, group: asyncio.TaskGroup) -> None:
        driving, at_once = len(self._driving), self._pace.at_once
        await self._runner.mend_leases()

        def work(tx: Transaction) -> int:
            sign_in(tx, self._runner.worker, at_once=at_once, driving=driving)
            return micros(tx.now)

        now_us = await self._store.write(work)
        if await self._store.read(lambda connection: decided(connection, now_us)):
            await self._store.write(wake_decided)
        if self._releasing is None or self._releasing.done():
            since_us = now_us - int(self._pace.release_after_s * 1_000_000)
            found = await self._store.read(lambda connection: long_waiting(connection, since_us))
            self._releasing = group.create_task(self._release(found[0])) if found else None

    async def _release(self, run: RunId) -> None:
        """One at a time, beside the runs in hand. The boundary of a run, as in `_drive`."""
        try:
            await self._runner.release(run)
        except Exception as error:  # noqa: BLE001 - told, and no other run suffers
            self._progress(RunMoved(run, "parked", f"keeps its sandbox: {type(error).__name__}: {error}"))

    async def _rest(self) -> None:
        if self._draining:
            return
        try:
            async with asyncio.timeout(self._pace.look_s):
                await self._news.wait()
        except TimeoutError:
            return

    async def _wait_for_drained(self) -> None:
        """Let runs reach their next step; those that do not are cancelled, which lets go of them too."""
        if not self._driving:
            return
        _, late = await asyncio.wait(set(self._driving), timeout=self._pace.drain_s)
        for task in late:
            task.cancel()

    async def _take(self, group: asyncio.TaskGroup) -> None:
        """Start driving whatever is ready and has room."""
        while len(self._driving) < self._pace.at_once and not self._draining:
            try:
                record = await self._store.write(self._claim)
            except RunHeld:
                continue  # another worker was first
            if record is None:
                return
            task = group.create_task(self._drive(record))
            self._driving.add(task)
            task.add_done_callback(self._ended)

    def _claim(self, tx: Transaction) -> RunRecord | None:
        """Choose and claim in one transaction, so that limits hold over all workers."""
        run = next_run(tx.connection, micros(tx.now), self._limits)
        return None if run is None else claim(tx, run, self._runner.worker, lease_s=self._runner.limits.lease_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._driving.discard(task)
        self._news.set()

    async def _drive(self, record: RunRecord) -> None:
        """The boundary of a run: whatever it raises is told and harms no other run."""
        try:
            await self._runner.drive_claimed(record)
        except Exception as error:  # noqa: BLE001 - told, and no other run suffers
            self._progress(RunMoved(record.id, "running", f"let go of it: {type(error).__name__}: {error}"))

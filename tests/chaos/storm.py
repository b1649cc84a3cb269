"""A storm over many runs: processes are ended at random points and started again until every run has ended.

What must hold afterwards is counted from three sides that know nothing of each other: the lines that commands wrote
outside, the ledger, and the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

from sqlalchemy import select

from ringfence.local_store import open_store
from ringfence.verifying import verdict_of_log
from ringfence_agents.leases import free_dead
from ringfence_agents.runs import NewRun, RunState, TaskId, open_run
from ringfence_agents.schema import runs
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Verdict
from ringfence_sandbox.source import bundle_from_path
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import ResultStatus, RunId
from ringfence_tools.profile import pin_profile
from ringfence_tools.schema import calls
from tests.chaos.lives import ASKED, LINES, PROFILE, World, voter_life, worker_life
from tests.chaos.points import NOWHERE, VOTER_POINTS, WORKER_POINTS, Fate
from tests.contracts.sandbox.repositories import make_repository

LIFE_S = 20.0
"""A life that does not come to its point by then is ended wherever it is."""
LOOK_S = 0.02


def make_world(folder: Path, **more: float) -> World:
    """An empty world. Its outside is writable to whatever uid a sandbox has."""
    folder.chmod(0o755)
    outside = folder / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    lines = outside / LINES
    lines.touch()
    lines.chmod(0o666)
    (folder / "home").mkdir(mode=0o700)
    return World(folder / "home", outside, **more)  # type: ignore[arg-type]  # the fields, as in dataclasses.replace


@dataclass
class Storm:
    """`fates` counts at which points processes were ended."""

    world: World
    store: SqlStore
    random: Random
    runs: list[RunId] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.lives"])
        self._bundle = bundle_from_path(make_repository(self.world.home / "repository"), into=self.world.home)
        profile = self.world.home / "chaos.yaml"
        profile.write_text(PROFILE)
        self._document = pin_profile(str(profile), ())

    # -- what there is to do -------------------------------------------------------------------------------------------

    def open_runs(self, count: int) -> None:
        toolbox = builtin_toolbox()
        for _ in range(count):
            run = RunId(f"r{len(self.runs)}")
            new = NewRun(
                run=run,
                task=TaskId(f"t{len(self.runs)}"),
                text="Write your lines",
                repository="chaos",
                assigned_by="ana",
                profile="chaos",
                profile_version="1",
                profile_digest=hashlib.sha256(self._document.encode()).hexdigest(),
                profile_document=self._document,
                model="scripted",
                base_commit=self._bundle.commit,
                system_prompt="Write.",
                workspace={"bundle": str(self._bundle.path), "branch": self._bundle.branch},
            )
            work = _opening(new, toolbox.is_read_only)
            asyncio.run(self.store.write(work))
            self.runs.append(run)

    def unended(self) -> int:
        ends = [state.value for state in RunState if state.is_end]
        query = select(runs.c.id).where(runs.c.state.not_in(ends))
        return len(self.store.read_now(lambda connection: connection.execute(query).all()))

    # -- lives ---------------------------------------------------------------------------------------------------------

    def worker(self, fate: Fate) -> tuple[str, ForkServerProcess]:
        self.lives += 1
        name = f"life-{self.lives}"
        return name, self._begin(worker_life, self.world, name, fate)

    def voter(self, fate: Fate) -> ForkServerProcess:
        return self._begin(voter_life, self.world, fate)

    def _begin(self, life: Callable[..., None], *arguments: object) -> ForkServerProcess:
        process = self._context.Process(target=life, args=arguments, daemon=True)
        process.start()
        return process

    def bury(self, name: str) -> None:
        """The worker's process has been seen to end: its runs need not wait for its leases."""
        asyncio.run(self.store.write(lambda tx: free_dead(tx, name)))

    # -- the storm -----------------------------------------------------------------------------------------------------

    def rage(self, kills: int, *, at_once: int = 20) -> None:
        """End that many processes, then let everything come to its end in peace."""
        while self.fates.total() < kills:
            if not self.unended():
                self.open_runs(at_once)
            self._one_life(kills)
        self.calm()

    def _one_life(self, kills: int) -> None:
        points = [point for point in WORKER_POINTS if not self.fates[point]] or list(WORKER_POINTS)
        fate = Fate(self.random.choice(points), self.random.randint(1, 4))
        vote_fate = Fate(self.random.choice(VOTER_POINTS), self.random.randint(1, 3))
        name, worker = self.worker(fate)
        voter = self.voter(vote_fate)
        try:
            end = time.monotonic() + LIFE_S
            while worker.is_alive() and time.monotonic() < end and self.unended():
                worker.join(LOOK_S)
                if not voter.is_alive():
                    self.fates[vote_fate.point] += 1
                    vote_fate = Fate(NOWHERE)
                    voter = self.voter(vote_fate)
            self._end(worker, fate)
        finally:
            _kill(worker)
            _kill(voter)
        self.bury(name)

    def _end(self, worker: ForkServerProcess, fate: Fate) -> None:
        if worker.exitcode == -signal.SIGKILL:
            self.fates[fate.point] += 1
        elif worker.is_alive():
            # The server inside a sandbox was ended and the worker lived on, or the point never came.
            self.fates[fate.point if fate.point.startswith("server") else "anywhere"] += 1
        else:
            raise AssertionError(f"a worker ended by itself with {worker.exitcode} on its way to {fate.point}")

    def calm(self, *, within_s: float = 180) -> None:
        """No more kills: every run ends."""
        name, worker = self.worker(Fate(NOWHERE))
        voter = self.voter(Fate(NOWHERE))
        try:
            end = time.monotonic() + within_s
            while self.unended():
                assert time.monotonic() < end, f"{self.unended()} runs did not end: {self.states()}"
                assert worker.is_alive(), worker.exitcode
                time.sleep(LOOK_S)
        finally:
            os.kill(worker.pid or 0, signal.SIGTERM)
            worker.join(20)
            _kill(worker)
            _kill(voter)
        self.bury(name)

    # -- the count -----------------------------------------------------------------------------------------------------

    def states(self) -> Counter[str]:
        query = select(runs.c.state, runs.c.waits_for, runs.c.detail)
        rows = self.store.read_now(lambda connection: connection.execute(query).all())
        return Counter(f"{row.state} {row.waits_for} {row.detail[:200]}" for row in rows)

    def statuses(self) -> dict[str, ResultStatus]:
        """How each call that writes a line ended, by the ledger."""
        query = select(calls).where(calls.c.tool == "shell")
        rows = self.store.read_now(lambda connection: connection.execute(query).all())
        return {f"{row.run}/{row.turn}/{row.idx}": ResultStatus(row.result_status) for row in rows}

    def lines(self) -> Counter[str]:
        return Counter((self.world.outside / LINES).read_text().split())

    def asked(self) -> Counter[str]:
        return Counter((self.world.outside / ASKED).read_text().splitlines())

    def verdict(self) -> Verdict:
        return verdict_of_log(self.world.settings, self.store)


def _opening(new: NewRun, is_read_only: Callable[[str], bool]) -> Callable[..., RunId]:
    return lambda tx: open_run(tx, new, is_read_only=is_read_only)


def _kill(process: ForkServerProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join(20)


@contextmanager
def storm_over(world: World, *, seed: int) -> Iterator[Storm]:
    with open_store(world.settings) as store:
        yield Storm(world, store, Random(seed))

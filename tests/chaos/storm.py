"""A storm over many runs: processes are ended at random points and started again until every run has ended.

What must hold afterwards is counted from three sides that know nothing of each other: the lines that commands wrote
outside, the ledger, and the log. The state is a file, or a PostgreSQL that is ended and started again like the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import TypeVar

from sqlalchemy import Connection, select

from ringfence.auth import people, tokens
from ringfence.auth.identity import GroupPlace, Membership
from ringfence.auth.roles import EVERY_TEAM, Permission, Role
from ringfence.database.upgrading import upgrade
from ringfence.local_store import open_store, open_tables
from ringfence.verifying import verdict_of_log
from ringfence_agents.leases import free_dead
from ringfence_agents.runs import NewRun, RunState, TaskId, open_run
from ringfence_agents.schema import runs
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import Verdict
from ringfence_sandbox.source import bundle_from_path
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import ResultStatus, RunId
from ringfence_tools.profile import pin_profile
from ringfence_tools.schema import calls
from tests.chaos.lives import ASKED, ENDED, LINES, PROFILE, World, api_life, worker_life
from tests.chaos.points import (
    API_POINTS,
    DATABASE,
    DATABASE_API_POINTS,
    DATABASE_POINTS,
    NOWHERE,
    WORKER_POINTS,
    Fate,
)
from tests.contracts.sandbox.repositories import make_repository
from tests.fixtures_postgres import PostgresServer, make_database

T = TypeVar("T")
LIFE_S = 20.0
"""A life that does not come to its point by then is ended wherever it is."""
AFTER_S = 6.0
"""How long a life goes on once its database was ended: longer than a lease."""
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
    """`fates` counts at which points processes were ended; the server is started again whenever it was."""

    world: World
    store: SqlStore
    random: Random
    server: PostgresServer | None = None
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
        return len(self.read(lambda connection: connection.execute(query).all()))

    def read(self, work: Callable[[Connection], T]) -> T:
        """From the database, as soon as it is there."""
        while True:
            self.revive()
            try:
                return self.store.read_now(work)
            except LogUnavailable:
                assert self.server is not None

    def revive(self) -> bool:
        """Start the server again where it was ended; whether it was."""
        if self.server is None or not self.server.has_ended:
            return False
        self.server.kill()
        self.server.start()
        return True

    # -- lives ---------------------------------------------------------------------------------------------------------

    def worker(self, fate: Fate) -> tuple[str, ForkServerProcess]:
        self.lives += 1
        name = f"life-{self.lives}"
        return name, self._begin(worker_life, self.world, name, fate)

    def api(self, fate: Fate) -> ForkServerProcess:
        return self._begin(api_life, self.world, fate)

    def _begin(self, life: Callable[..., None], *arguments: object) -> ForkServerProcess:
        process = self._context.Process(target=life, args=arguments, daemon=True)
        process.start()
        return process

    def bury(self, name: str) -> None:
        """The worker's process has been seen to end: its runs need not wait for its leases."""
        while True:
            self.revive()
            try:
                asyncio.run(self.store.write(lambda tx: free_dead(tx, name)))
                return
            except LogUnavailable:
                assert self.server is not None

    # -- the storm -----------------------------------------------------------------------------------------------------

    def rage(self, kills: int, *, at_once: int = 20) -> None:
        """End that many processes, then let everything come to its end in peace."""
        while self.fates.total() < kills:
            if not self.unended():
                self.open_runs(at_once)
            self._one_life()
        self.calm()

    def _one_life(self) -> None:
        fate, api_fate = self._fate(WORKER_POINTS, DATABASE_POINTS), self._fate(API_POINTS, DATABASE_API_POINTS)
        name, worker = self.worker(fate)
        api = self.api(api_fate)
        try:
            end = time.monotonic() + LIFE_S
            while worker.is_alive() and time.monotonic() < end and self.unended():
                worker.join(LOOK_S)
                if self.revive():
                    end = min(end, time.monotonic() + AFTER_S)
                if not api.is_alive():
                    self._count(api, api_fate)
                    api_fate = Fate(NOWHERE)
                    api = self.api(api_fate)
            if worker.is_alive() and self.unended():
                _kill(worker)
                self.fates["anywhere"] += 1
            elif not worker.is_alive():
                self._count(worker, fate)
        finally:
            _kill(worker)
            _kill(api)
        self._count_told()
        self.bury(name)

    def _fate(self, points: Sequence[str], of_database: Sequence[str]) -> Fate:
        """Where a life is ended, or its database: a point at which nothing was ended yet, as long as there is one."""
        every = [*points, *(of_database if self.server is not None else ())]
        point = self.random.choice([point for point in every if not self.fates[point]] or every)
        database = None if self.server is None or not point.startswith(DATABASE) else self.server.pid
        told = self.world.outside / ENDED
        return Fate(point.removeprefix(DATABASE), self.random.randint(1, 4), database=database, told=told)

    def _count(self, life: ForkServerProcess, fate: Fate) -> None:
        if life.exitcode != -signal.SIGKILL:
            raise AssertionError(f"a life ended by itself with {life.exitcode} on its way to {fate.point}")
        self.fates[fate.point] += 1

    def _count_told(self) -> None:
        """What lives ended besides themselves."""
        told = self.world.outside / ENDED
        if told.exists():
            self.fates.update(told.read_text().splitlines())
            told.unlink()

    def calm(self, *, within_s: float = 180) -> None:
        """No more kills: every run ends."""
        name, worker = self.worker(Fate(NOWHERE))
        api = self.api(Fate(NOWHERE))
        try:
            end = time.monotonic() + within_s
            while self.unended():
                assert worker.is_alive(), worker.exitcode
                if time.monotonic() > end:
                    os.kill(worker.pid or 0, signal.SIGUSR1)
                    raise AssertionError(f"{self.unended()} runs did not end: {self.states()}")
                time.sleep(LOOK_S)
        finally:
            os.kill(worker.pid or 0, signal.SIGTERM)
            worker.join(20)
            _kill(worker)
            _kill(api)
        self.bury(name)

    # -- the count -----------------------------------------------------------------------------------------------------

    def states(self) -> Counter[str]:
        query = select(runs.c.state, runs.c.waits_for, runs.c.detail)
        rows = self.read(lambda connection: connection.execute(query).all())
        return Counter(f"{row.state} {row.waits_for} {row.detail[:200]}" for row in rows)

    def statuses(self) -> dict[str, ResultStatus]:
        """How each call that writes a line ended, by the ledger."""
        query = select(calls).where(calls.c.tool == "shell")
        rows = self.read(lambda connection: connection.execute(query).all())
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
def storm_over(world: World, *, seed: int, server: PostgresServer | None = None) -> Iterator[Storm]:
    """A storm over an empty world, whose state lies on that server, or else in a file."""
    if server is not None:
        world = replace(world, database_url=make_database(server.url).render_as_string(hide_password=False))
        with open_tables(world.settings) as store:
            upgrade(store)
    with open_store(world.settings) as store:
        world = replace(world, token=asyncio.run(store.write(_make_reviewer)))
        yield Storm(world, store, Random(seed), server)


def _make_reviewer(tx: Transaction) -> str:
    """Makes the person who votes; returns a token of theirs."""
    name, by = "ana", "system:chaos"
    people.create_person(tx, name, by=by)
    roles, groups = [Membership(EVERY_TEAM, Role.REVIEWER)], [GroupPlace(EVERY_TEAM, "owner")]
    people.set_places(tx, name, by=by, roles=roles, groups=groups)
    scopes = (Permission.READ, Permission.DECIDE)
    return str(tokens.create(tx, name, by=by, scopes=scopes, label="chaos", days=1))

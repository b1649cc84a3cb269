"""What waiting costs: runs that were parked through the gate, a worker over them, and votes that wake them.

`RINGFENCE_BENCH_PARKED` (10,000) and `RINGFENCE_BENCH_LIVE` (200) say how many. Figures are printed, compared with
those of an empty folder in the same run, never asserted against the clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import select

from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence_agents import control
from ringfence_agents.model import Answer, ModelRequest, OnDelta
from ringfence_agents.ports import Equipment, Limits
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord, RunState, SandboxState
from ringfence_agents.schema import runs
from ringfence_agents.worker import Pace, Worker
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore, system_clock
from ringfence_sandbox.contract import Bundle
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.source import bundle_from_path
from ringfence_tools import escalations, review
from ringfence_tools.calls import Effect, RunId
from tests.contracts.sandbox.repositories import make_repository
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.fakes.policy import FakePolicy
from tests.integration.agents.house import ANA, Clock, House

pytestmark = pytest.mark.bench

PARKED = int(os.environ.get("RINGFENCE_BENCH_PARKED", "10000"))
LIVE = int(os.environ.get("RINGFENCE_BENCH_LIVE", "200"))
VOTES = 20
CURL = "curl https://pypi.example.org/"
AT_ONCE = 50


def house_over(store: SqlStore, folder: Path) -> House:
    """A house on real time over a store that is open already."""
    return House(store, Clock(), folder, policy=FakePolicy({CURL: Effect.ESCALATE}))


def idle(home: Path) -> dict[str, float]:
    """A worker of its own process over `home`."""
    words = [sys.executable, "-m", "tests.bench.idle_worker", str(home)]
    root = Path(__file__).resolve().parents[2]
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
    figures: dict[str, float] = json.loads(done.stdout)
    return {**figures, "whole_s": time.monotonic() - began}


async def park_all(house: House, count: int) -> None:
    model = ScriptedModel([says("", call("shell", {"command": CURL})), finishes()])
    runner = house.runner(model, progress=lambda _: None)
    places = asyncio.Semaphore(AT_ONCE)

    async def park(n: int) -> None:
        async with places:
            run = await house.open(RunId(f"r{n}"))
            assert await runner.drive(run) is RunState.PARKED

    await asyncio.gather(*(park(n) for n in range(count)))


async def test_ten_thousand_parked_runs_cost_a_worker_little(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir(mode=0o700)
    with open_store(Settings(home=tmp_path / "empty", config=tmp_path / "config")):
        pass
    without = idle(tmp_path / "empty")
    with open_store(Settings(home=tmp_path / "full", config=tmp_path / "config")) as store:
        house = house_over(store, tmp_path)
        began = time.monotonic()
        await park_all(house, PARKED)
        took = time.monotonic() - began
    held = idle(tmp_path / "full")
    print(f"\n{PARKED} runs parked through the gate in {took:.0f} s ({PARKED / took:.0f}/s)")
    for title, figures in (("empty", without), (f"{PARKED} parked", held)):
        there, size, busy = figures["ready_s"], figures["resident_mb"], figures["busy"]
        print(f"{title}: there after {there:.2f} s, {size:.0f} MB, busy {busy:.0%}")
    print(f"added: {held['resident_mb'] - without['resident_mb']:.1f} MB (to be at most 50)")
    with open_store(Settings(home=tmp_path / "full", config=tmp_path / "config")) as store:
        resumed = [RunId(f"r{n}") for n in range(0, PARKED, max(1, PARKED // 100))]
        house = replace(house_over(store, tmp_path), backend=house.backend)
        worker = Worker(store, house.runner(ScriptedModel([finishes()])), news=store.wakeups)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            began = time.monotonic()
            for run in resumed:
                await vote(store, run)
            ends = select(runs.c.id).where(runs.c.state == RunState.FINISHED.value)
            while len(await store.read(lambda c: c.execute(ends).all())) < len(resumed):  # noqa: ASYNC110 - tables
                await asyncio.sleep(0.05)
            print(f"{len(resumed)} of them resumed and finished in {time.monotonic() - began:.1f} s")
            worker.drain()


async def vote(store: SqlStore, run: RunId) -> float:
    """Approve what the run waits for; when the vote was cast."""

    def work(tx: Transaction) -> None:
        found = escalations.open_ones(tx.connection, 0, run=run)[0]
        review.approve(tx, found.id, ANA, digest=found.digest)
        control.wake(tx, run)

    cast = time.monotonic()
    await store.write(work)
    return cast


@dataclass
class Timed:
    """Asks for one command, then for one that people decide, then ends; tells when it was asked."""

    asked_at: dict[tuple[str, int], float] = field(default_factory=dict)
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def model(self) -> ScriptedModel:
        timed = self

        class Model(ScriptedModel):
            async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
                timed.asked_at[request.run, request.turn] = time.monotonic()
                timed.is_asked.set()
                return await super().answer(request, on_delta)

        first = says("", call("shell", {"command": "echo 1 > one"}))
        return Model([first, says("", call("shell", {"command": CURL})), finishes()])

    async def until(self, run: RunId, turn: int) -> float:
        while (run, turn) not in self.asked_at:
            self.is_asked.clear()
            await self.is_asked.wait()
        return self.asked_at[run, turn]


@asynccontextmanager
async def real(folder: Path, timed: Timed) -> AsyncIterator[tuple[House, Runner]]:
    """A house with real local sandboxes."""
    backend = LocalBackend(folder / "state")
    try:
        await backend.check()
    except IsolationUnavailable as error:
        pytest.skip(f"no local sandbox here: {error}")
    bundle = bundle_from_path(make_repository(folder / "repository"), into=folder)
    model = timed.model()
    with open_store(Settings(home=folder / "home", config=folder / "config")) as store:
        house = house_over(store, folder)

        async def equip(record: RunRecord) -> Equipment:
            return replace(
                house.equipment(model, Limits()),
                backend=backend,
                bundle=lambda _: Bundle(bundle.path, bundle.commit, bundle.branch),
            )

        yield house, Runner(store, equip, worker="bench")
    await backend.close()


@pytest.mark.parametrize("is_released", [False, True], ids=["suspended", "released"])
async def test_from_a_vote_to_the_next_question(tmp_path: Path, is_released: bool) -> None:
    timed = Timed()
    async with real(tmp_path, timed) as (house, runner):
        parked = [await house.open(RunId(f"r{n}")) for n in range(VOTES)]
        for run in parked:
            assert await runner.drive(run) is RunState.PARKED
            if is_released:
                assert await runner.release(run)
                assert (await house.record(run)).sandbox_state is SandboxState.KEPT
        worker = Worker(house.store, runner, pace=Pace(look_s=5), news=house.store.wakeups)
        waits = []
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            for run in parked:
                cast = await vote(house.store, run)
                waits.append(await timed.until(run, 3) - cast)
            worker.drain()
        kind = "released" if is_released else "suspended"
        limit = 3 if is_released else 1
        p50, worst = statistics.median(waits), max(waits)
        print(f"\nvote to next question, sandbox {kind}: p50 {p50:.3f} s (to be at most {limit}), worst {worst:.3f} s")


async def test_live_runs_miss_no_heartbeat(tmp_path: Path) -> None:
    """Each run thinks for a moment and reads a file, over and over; the keeper renews all leases meanwhile."""
    with open_store(Settings(home=tmp_path / "home", config=tmp_path / "config")) as store:
        house = house_over(store, tmp_path)

        class Slow(ScriptedModel):
            async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
                await asyncio.sleep(0.5)
                return await super().answer(request, on_delta)

        turns = [says("", call("read_file", {"path": f"f{n}"})) for n in range(20)]
        live = [await house.open(RunId(f"r{n}")) for n in range(LIVE)]
        runner = house.runner(Slow([*turns, finishes()]), limits=Limits(lease_s=30), progress=lambda _: None)
        least = [30.0]

        async def watch() -> None:
            held = select(runs.c.lease_until).where(runs.c.worker != "")
            while True:
                rows = await store.read(lambda connection: connection.execute(held).all())
                if rows:
                    least.append(min(row.lease_until for row in rows) / 1e6 - system_clock().timestamp())
                await asyncio.sleep(0.1)

        watching = asyncio.create_task(watch())
        began = time.monotonic()
        states = await asyncio.gather(*(runner.drive(run) for run in live))
        took = time.monotonic() - began
        watching.cancel()
        assert set(states) == {RunState.FINISHED}
        left = min(least)
        print(f"\n{LIVE} live runs, 20 turns each, in {took:.1f} s; of a 30 s lease {left:.1f} s were always left")

"""Workers: what they take, in which order, and how they let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from ringfence_agents import control
from ringfence_agents.leases import claim
from ringfence_agents.model import Answer, ModelRequest, OnDelta
from ringfence_agents.ports import Equipment, Limits
from ringfence_agents.queue import QueueLimits, next_run, place, wake_decided
from ringfence_agents.roster import SEEN_WITHIN_S, present, sign_in
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord, RunState
from ringfence_agents.standing import STUCK_AFTER_S, Standing, standings
from ringfence_agents.worker import Pace, Worker
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_tools import escalations, review
from ringfence_tools.calls import Effect, EscalationId, RunId
from ringfence_tools.clock import micros
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import ANA, RUN, House

T = TypeVar("T")
CURL = "curl https://pypi.example.org/"
PACE = Pace(look_s=0.02, sweep_s=0.02, drain_s=5)


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    house = House.build(tmp_path, effects={CURL: Effect.ESCALATE}, url=database_url)
    with house.store:
        yield house


class Gated(ScriptedModel):
    """Answers only once the test opens it."""

    def __init__(self) -> None:
        super().__init__([])
        self.opened = asyncio.Event()

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        self.asked.append(request)
        await self.opened.wait()
        return finishes()


async def until(house: House, runs: list[RunId], states: set[RunState]) -> None:
    async with asyncio.timeout(60):
        while {(await house.record(run)).state for run in runs} - states:
            await asyncio.wait({asyncio.create_task(house.record())}, timeout=1)


async def test_a_paused_run_is_never_taken(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: control.pause(tx, RUN, by="person:ana", reason="lunch"))
    other = await house.open(RunId("r2"))
    worker = Worker(house.store, house.runner(ScriptedModel([finishes()])), pace=PACE)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await until(house, [other], {RunState.FINISHED})
        worker.drain()
    assert (await house.record()).state is RunState.PARKED


async def test_limits_hold_and_what_waits_says_why(house: House) -> None:
    runs = [await house.open(RunId(f"r{n}")) for n in range(3)]
    model = Gated()
    limits = QueueLimits(profiles={"default": 2})
    worker = Worker(house.store, house.runner(model), pace=PACE, limits=limits)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        while len(model.asked) < 2:
            await asyncio.wait({asyncio.create_task(house.record())}, timeout=1)
        where = await house.store.write(lambda tx: place(tx.connection, runs[2], micros(tx.now), limits))
        assert where is not None
        assert (where.ahead, where.held_by) == (0, "profile default has 2 of 2 runs going on")
        assert len(model.asked) == 2
        model.opened.set()
        await until(house, runs, {RunState.FINISHED})
        worker.drain()


async def test_a_draining_worker_leaves_its_runs_queued_for_another(house: House) -> None:
    runs = [await house.open(RunId(f"r{n}")) for n in range(5)]
    model = Gated()
    worker = Worker(house.store, house.runner(model, limits=Limits(watch_s=0.05)), pace=PACE)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        while len(model.asked) < 5:
            await asyncio.wait({asyncio.create_task(house.record())}, timeout=1)
        worker.drain()
    assert {(await house.record(run)).state for run in runs} == {RunState.QUEUED}
    second = Worker(house.store, house.runner(ScriptedModel([finishes()]), worker="w2"), pace=PACE)
    async with asyncio.TaskGroup() as group:
        group.create_task(second.run())
        await until(house, runs, {RunState.FINISHED})
        second.drain()


async def test_a_vote_wakes_a_parked_run_even_where_nobody_told_the_worker(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("", call("shell", {"command": CURL})), finishes()])
    worker = Worker(house.store, house.runner(model), pace=PACE)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await until(house, [RUN], {RunState.PARKED})

        def vote(tx: Transaction) -> None:
            found = escalations.get(tx.connection, EscalationId(1))
            review.approve(tx, found.id, ANA, digest=found.digest)

        await house.store.write(vote)
        await until(house, [RUN], {RunState.FINISHED})
        worker.drain()
    assert house.commands() == [CURL]


async def test_a_vote_is_heard_at_once_by_a_worker_that_would_not_look_for_an_hour(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("", call("shell", {"command": CURL})), finishes()])
    hour = Pace(look_s=3600, sweep_s=3600, drain_s=5)
    runner = house.runner(model, limits=Limits(watch_s=3600))
    worker = Worker(house.store, runner, pace=hour, news=house.store.wakeups)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await until(house, [RUN], {RunState.PARKED})

        def vote(tx: Transaction) -> None:
            found = escalations.get(tx.connection, EscalationId(1))
            review.approve(tx, found.id, ANA, digest=found.digest)
            control.wake(tx, RUN)

        await house.store.write(vote)
        await until(house, [RUN], {RunState.FINISHED})
        worker.drain()


async def test_a_stop_is_heard_at_once_by_the_worker_that_holds_the_run(house: House) -> None:
    await house.open()
    model = Gated()
    worker = Worker(house.store, house.runner(model, limits=Limits(watch_s=3600)), pace=PACE, news=house.store.wakeups)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        while not model.asked:
            await asyncio.wait({asyncio.create_task(house.tick())}, timeout=1)
        await house.store.write(lambda tx: control.stop(tx, control.Whose(RUN), by="person:ana", reason="enough"))
        await until(house, [RUN], {RunState.CANCELLED})
        worker.drain()


async def test_an_undecided_run_is_not_woken(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("", call("shell", {"command": CURL})), finishes()])
    await house.runner(model).drive(RUN)
    assert await house.store.write(wake_decided) == 0
    house.clock.pass_s(5 * 3600)
    assert await house.store.write(wake_decided) == 1


async def test_many_runs_at_once_all_end(house: House) -> None:
    runs = [await house.open(RunId(f"r{n}")) for n in range(20)]
    model = ScriptedModel([says("", call("shell", {"command": "true"})), finishes()])
    worker = Worker(house.store, house.runner(model), pace=PACE)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await until(house, runs, {RunState.FINISHED})
        worker.drain()
    assert len(house.commands()) == 20


async def test_a_team_that_queues_many_does_not_hide_the_run_of_another(house: House) -> None:
    for n in range(30):
        await house.open(RunId(f"a{n:02}"), team="a")
    house.clock.pass_s(60)
    lone = await house.open(RunId("b0"), team="b")
    await house.store.write(lambda tx: claim(tx, RunId("a00"), "w0", lease_s=30))
    limits = QueueLimits()
    chosen = await house.store.write(lambda tx: next_run(tx.connection, micros(tx.now), limits))
    assert chosen == lone
    await house.store.write(lambda tx: claim(tx, lone, "w0", lease_s=30))
    where = await house.store.write(lambda tx: place(tx.connection, RunId("a05"), micros(tx.now), limits))
    assert where is not None
    assert where.ahead == 4


async def test_a_team_at_its_limit_is_passed_over(house: House) -> None:
    for n in range(2):
        await house.open(RunId(f"a{n}"), team="a")
    house.clock.pass_s(1)
    other = await house.open(RunId("b0"), team="b")
    await house.store.write(lambda tx: claim(tx, RunId("a0"), "w0", lease_s=30))
    limits = QueueLimits(teams={"a": 1})
    assert await house.store.write(lambda tx: next_run(tx.connection, micros(tx.now), limits)) == other


# -- why a run stands where it stands ----------------------------------------------------------------------------------


async def why(house: House, run: RunId = RUN, limits: QueueLimits | None = None) -> Standing:
    record = await house.record(run)
    now_us = micros(house.clock())
    found = await house.store.read(lambda c: standings(c, (record,), now_us, limits or QueueLimits()))
    return found[run]


async def test_a_queued_run_says_that_no_worker_is_there(house: House) -> None:
    await house.open()
    standing = await why(house)
    assert standing.is_stuck
    assert "no worker is there" in standing.why


async def test_a_queued_run_says_what_holds_it_back_and_how_many_are_ahead(house: House) -> None:
    await house.open(RunId("r0"))
    house.clock.pass_s(1)
    await house.open()
    await house.store.write(lambda tx: sign_in(tx, "w0", at_once=5, driving=0))
    assert await why(house) == Standing("1 ahead", 1)
    assert (await why(house, limits=QueueLimits(in_all=0))).why == "0 of 0 runs are going on; 1 ahead"
    house.clock.pass_s(SEEN_WITHIN_S + 1)
    assert "no worker is there" in (await why(house)).why


async def test_a_run_whose_worker_died_says_so(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: claim(tx, RUN, "w0", lease_s=30))
    assert (await why(house)).why == "begins, 0 s since its last step, by w0"
    house.clock.pass_s(31)
    assert "its worker w0 is gone" in (await why(house)).why


async def test_a_run_that_a_worker_holds_without_a_step_is_called_stuck(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: claim(tx, RUN, "w0", lease_s=2 * STUCK_AFTER_S))
    assert not (await why(house)).is_stuck
    house.clock.pass_s(STUCK_AFTER_S)
    standing = await why(house)
    assert standing.is_stuck
    assert "runs pause r1" in standing.why


async def test_a_parked_run_says_for_which_card_it_waits(house: House) -> None:
    await house.open()
    await house.runner(ScriptedModel([says("", call("shell", {"command": CURL}))])).drive(RUN)
    assert (await why(house)).why == "waits for E-1"


async def test_a_worker_signs_in_and_out(house: House) -> None:
    worker = Worker(house.store, house.runner(ScriptedModel([finishes()])), pace=PACE)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        async with asyncio.timeout(20):
            while not await house.store.read(lambda c: present(c, micros(house.clock()))):
                await asyncio.wait({asyncio.create_task(house.tick())}, timeout=1)
        worker.drain()
    assert await house.store.read(lambda c: present(c, micros(house.clock()))) == ()


class Slow:
    """A store whose reads for the keeper arrive late: what they tell is old by then."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.is_read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._store.write(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        result = await self._store.read(work)
        if getattr(work, "__name__", "") == "_asked":
            self.is_read.set()
            await self.go_on.wait()
        return result


async def test_a_run_that_is_taken_up_while_the_keeper_reads_is_not_called_lost(house: House) -> None:
    first, second = await house.open(), await house.open(RunId("r2"))
    model, slow, limits = Gated(), Slow(house.store), Limits(watch_s=0.01)

    async def equip(record: RunRecord) -> Equipment:
        return house.equipment(model, limits)

    runner = Runner(slow, equip, worker="w1", limits=limits)
    driving = asyncio.create_task(runner.drive(first))
    await slow.is_read.wait()
    late = asyncio.create_task(runner.drive(second))
    while len(model.asked) < 2:
        await house.tick()
    slow.go_on.set()
    await house.tick()
    model.opened.set()
    assert await driving is RunState.FINISHED
    assert await late is RunState.FINISHED

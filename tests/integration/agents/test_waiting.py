"""Waiting costs nothing: the sandbox of a run that waits long is given up, its files are kept, and all comes back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from ringfence_agents import control
from ringfence_agents.kept import RunFiles
from ringfence_agents.leases import claim_waiting
from ringfence_agents.model import Answer, ModelRequest, OnDelta
from ringfence_agents.ports import Equipment, Limits
from ringfence_agents.queue import ready
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord, RunState, SandboxState, WaitsFor
from ringfence_agents.worker import Pace, Worker
from ringfence_audit.events import Kind
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter, query
from ringfence_tools import escalations, review
from ringfence_tools.calls import Effect, EscalationId, RunId
from ringfence_tools.clock import micros
from ringfence_tools.schema import calls
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import ANA, RUN, House

CURL = "curl https://pypi.example.org/"
ONE = says("", call("shell", {"command": "one"}))
ASK = says("", call("shell", {"command": CURL}))
TWO = says("", call("shell", {"command": "two"}))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path, effects={CURL: Effect.ESCALATE})
    house.backend.keeps_patch = True
    with house.store:
        yield house


def approve(tx: Transaction) -> None:
    found = escalations.get(tx.connection, EscalationId(1))
    review.approve(tx, found.id, ANA, digest=found.digest)
    control.wake(tx, RUN)


def _begin_all(tx: Transaction) -> None:
    tx.connection.execute(update(calls).values(state="intent"))


async def parked(house: House) -> Runner:
    await house.open()
    runner = house.runner(ScriptedModel([ONE, ASK, TWO, finishes()]))
    assert await runner.drive(RUN) is RunState.PARKED
    return runner


async def test_a_run_that_goes_on_keeps_its_sandbox(house: House) -> None:
    runner = await parked(house)
    await house.store.write(approve)
    assert not await runner.release(RUN)
    assert house.backend.destroyed == []


async def test_a_call_that_began_without_an_outcome_keeps_the_sandbox(house: House) -> None:
    runner = await parked(house)
    await house.store.write(_begin_all)
    assert not await runner.release(RUN)
    assert house.backend.destroyed == []


async def test_files_that_are_not_those_that_were_kept_are_not_brought_back(house: House) -> None:
    runner = await parked(house)
    assert await runner.release(RUN)
    RunFiles(house.folder / "artifacts").archive(RUN).write_bytes(b"something else")
    await house.store.write(approve)
    assert await runner.drive(RUN) is RunState.FAILED
    assert "not those that were kept" in (await house.record()).detail
    assert house.commands() == ["one"]


async def test_a_run_is_not_taken_while_its_sandbox_is_given_up_and_is_right_after(house: House) -> None:
    await parked(house)
    record = await house.store.write(lambda tx: claim_waiting(tx, RUN, "w9", lease_s=30))
    assert record is not None
    await house.store.write(approve)
    now_us = micros(house.clock())
    assert await house.store.read(lambda connection: ready(connection, now_us)) == ()
    house.clock.pass_s(31)
    now_us = micros(house.clock())
    assert [one.run for one in await house.store.read(lambda connection: ready(connection, now_us))] == [RUN]


async def test_what_was_given_up_comes_back_with_its_files_and_the_approved_call_runs_once(house: House) -> None:
    runner = await parked(house)
    assert await runner.release(RUN)
    record = await house.record()
    assert (record.state, record.waits_for) == (RunState.PARKED, WaitsFor.PEOPLE)
    assert (record.sandbox_state, record.worker) == (SandboxState.KEPT, "")
    assert house.backend.sandboxes == {}
    page = await house.store.read(lambda connection: query(connection, Filter(run=RUN, kind=Kind.SANDBOX.value)))
    told = next(entry.data for entry in page.entries if entry.data["action"] == "released")
    archive = RunFiles(house.folder / "artifacts").archive(RUN)
    assert told["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    await house.store.write(approve)
    assert await runner.drive(RUN) is RunState.FINISHED
    assert house.commands() == ["one", CURL, "two"]
    assert house.backend.made[-1].patch == f"one\n{CURL}\ntwo\n".encode()
    assert not archive.exists()


async def test_a_cancelled_run_whose_sandbox_was_given_up_still_delivers_its_work(house: House) -> None:
    runner = await parked(house)
    assert await runner.release(RUN)
    await house.store.write(lambda tx: control.cancel(tx, RUN, by="person:ana", reason="enough"))
    assert await runner.drive(RUN) is RunState.CANCELLED
    patch = (await house.record()).result["patch"]
    assert isinstance(patch, dict)
    assert Path(patch["path"]).read_bytes() == b"one\n"


async def test_a_worker_gives_up_the_sandboxes_of_runs_that_wait_long_and_no_others(house: House) -> None:
    await parked(house)
    other = await house.open(RunId("r2"))
    house.clock.pass_s(100)
    runner = house.runner(ScriptedModel([ONE, ASK]))
    assert await runner.drive(other) is RunState.PARKED
    worker = Worker(house.store, runner, pace=Pace(look_s=0.02, sweep_s=0.02, release_after_s=60))
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        async with asyncio.timeout(20):
            while (await house.record()).sandbox_state is not SandboxState.KEPT:
                await house.tick()
        worker.drain()
    assert (await house.record(other)).sandbox_state is SandboxState.READY


async def test_a_run_that_cannot_be_equipped_is_left_to_a_person_and_harms_no_other(house: House) -> None:
    await house.open()
    other = await house.open(RunId("r2"))
    limits = Limits()
    model = ScriptedModel([finishes()])

    async def equip(record: RunRecord) -> Equipment:
        if record.id == RUN:
            raise ValueError("a profile that nobody foresaw")
        return house.equipment(model, limits)

    worker = Worker(house.store, Runner(house.store, equip, worker="w1"), pace=Pace(look_s=0.02, sweep_s=0.02))
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        async with asyncio.timeout(20):
            while not (await house.record(other)).state.is_end or (await house.record()).state is not RunState.PARKED:
                await house.tick()
        worker.drain()
    record = await house.record()
    assert (record.waits_for, "nobody foresaw" in record.detail) == (WaitsFor.PAUSE, True)


# -- back-pressure, and what a crash must not pay for twice ---------------------------------------------------------


class Counted(ScriptedModel):
    """Holds every question until the test lets one go; knows how many were open at once."""

    def __init__(self) -> None:
        super().__init__([finishes()])
        self.open = self.most = 0
        self.go = asyncio.Event()

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self.go.wait()
        finally:
            self.open -= 1
        return await super().answer(request, on_delta)


async def test_no_more_questions_are_open_at_once_than_the_limit_and_who_waits_can_be_stopped(house: House) -> None:
    opened = [await house.open(RunId(f"r{n}")) for n in range(8)]
    model = Counted()
    runner = house.runner(model, limits=Limits(questions_at_once=2, watch_s=0.02))
    driving = [asyncio.create_task(runner.drive(run)) for run in opened]
    while model.open < 2:
        await house.tick()
    for run in opened[2:]:
        await house.store.write(partial(control.stop, whose=control.Whose(run), by="person:ana", reason="x"))
    stopped = await asyncio.wait_for(asyncio.gather(*driving[2:]), 20)
    assert set(stopped) == {RunState.CANCELLED}
    model.go.set()
    assert set(await asyncio.gather(*driving[:2])) == {RunState.FINISHED}
    assert model.most == 2


async def test_a_model_that_never_answers_is_given_up_and_asked_again_later(house: House) -> None:
    await house.open()
    runner = house.runner(Counted(), limits=Limits(model_s=0.01))
    assert await runner.drive(RUN) is RunState.PARKED
    record = await house.record()
    assert (record.waits_for, "no answer within" in record.detail) == (WaitsFor.TIME, True)


class Died(BaseException):
    """The worker's process ended here."""


async def test_a_crash_between_a_stored_answer_and_its_calls_pays_for_no_answer_twice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.open()
    model = ScriptedModel([ONE, TWO, finishes()])

    async def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr("ringfence_tools.gate.Gate.step", die)
        with pytest.raises(Died):
            await house.runner(model).drive(RUN)
    house.clock.pass_s(31)
    assert await house.runner(model, worker="w2").drive(RUN) is RunState.FINISHED
    assert [request.turn for request in model.asked] == [1, 2, 3]
    assert house.commands() == ["one", "two"]

"""A hand on runs: stopping them, sealing what they leave, and beginning again at a step."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from ringfence_agents import control
from ringfence_agents.branching import Branch, branch
from ringfence_agents.control import Whose
from ringfence_agents.conversation import rows_since
from ringfence_agents.errors import RunEnded, RunHeld, RunNotFound, RunStopping, StepNotKept
from ringfence_agents.kept import RunFiles
from ringfence_agents.leases import Lease, claim, start_guard_of
from ringfence_agents.model import Answer, ModelRequest, OnDelta
from ringfence_agents.ports import Limits
from ringfence_agents.runs import Request, RunState, WaitsFor
from ringfence_agents.schema import steps
from ringfence_agents.steps import steps_of
from ringfence_agents.switch import Stop, StopKind
from ringfence_audit.events import Kind
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter, query
from ringfence_sandbox.contract import Action, Outcome, OutputSink
from ringfence_tools.budget import Unit, run_scope, usage
from ringfence_tools.calls import Effect, RunId
from tests.fakes.counting_sandbox import CountingSandbox
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import RUN, House

CURL = "curl https://pypi.example.org/"
QUICK = Limits(watch_s=0.02, stop_grace_s=0.05)
FORK = RunId("r2")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path, effects={CURL: Effect.ESCALATE})
    house.backend.keeps_patch = True
    with house.store:
        yield house


def sh(command: str) -> Answer:
    return says("", call("shell", {"command": command}))


async def actions(house: House, run: RunId = RUN, kind: Kind = Kind.CONTROL) -> list[object]:
    page = await house.store.read(lambda connection: query(connection, Filter(run=run, kind=kind.value)))
    return [entry.data.get("action") for entry in reversed(page.entries)]


def stall(order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on commands run until they are ended; `order` tells when one began, was ended, or all was packed."""

    async def perform(self: CountingSandbox, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        order.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            order.append("ended")
        raise AssertionError

    pack = CountingSandbox.pack

    async def packing(self: CountingSandbox, sink: OutputSink, *, stays_frozen: bool = False) -> int:
        order.append("sealed" if stays_frozen else "packed")
        return await pack(self, sink, stays_frozen=stays_frozen)

    monkeypatch.setattr(CountingSandbox, "perform", perform)
    monkeypatch.setattr(CountingSandbox, "pack", packing)


# -- the kill switch ---------------------------------------------------------------------------------------------------


async def test_a_stop_names_a_run_that_is_there_and_goes_on(house: House) -> None:
    with pytest.raises(RunNotFound):
        await house.store.write(lambda tx: control.stop(tx, Whose(RunId("nobody")), by="person:ana", reason="x"))
    await house.open()
    await house.runner(ScriptedModel([finishes()])).drive(RUN)
    with pytest.raises(RunEnded):
        await house.store.write(lambda tx: control.stop(tx, Whose(RUN), by="person:ana", reason="x"))


async def test_from_its_commit_on_a_stop_refuses_what_would_begin(house: House) -> None:
    await house.open()
    record = await house.store.write(lambda tx: claim(tx, RUN, "w1", lease_s=30))
    guard = start_guard_of(Lease(RUN, "w1", record.fence))
    await house.store.write(guard)
    await house.store.write(lambda tx: control.stop(tx, Whose(RUN), by="person:ana", reason="it misbehaves"))
    with pytest.raises(RunStopping, match="misbehaves"):
        await house.store.write(guard)


async def test_a_call_that_the_model_asks_for_while_it_is_being_stopped_never_runs(house: House) -> None:
    await house.open()

    class Slow(ScriptedModel):
        async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
            await house.store.write(lambda tx: control.stop(tx, Whose(RUN), by="person:ana", reason="enough"))
            return await super().answer(request, on_delta)

    # The keeper looks never: what stops the call is the commit of the stop alone.
    runner = house.runner(Slow([sh("rm -rf /")]), limits=Limits(watch_s=60))
    assert await runner.drive(RUN) is RunState.CANCELLED
    assert house.commands() == []
    assert "enough" in (await house.record()).detail


async def test_a_pause_lets_no_further_call_begin_either(house: House) -> None:
    await house.open()

    class Slow(ScriptedModel):
        async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
            if request.turn == 1:
                await house.store.write(lambda tx: control.pause(tx, RUN, by="person:ana", reason="lunch"))
            return await super().answer(request, on_delta)

    runner = house.runner(Slow([sh("ls"), finishes()]), limits=Limits(watch_s=60))
    assert await runner.drive(RUN) is RunState.PARKED
    assert (house.commands(), (await house.record()).waits_for) == ([], WaitsFor.PAUSE)
    await house.store.write(lambda tx: control.resume(tx, RUN, by="person:ana"))
    assert await runner.drive(RUN) is RunState.FINISHED
    assert house.commands() == ["ls"]


async def test_a_stop_is_not_undone_by_a_pause(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: claim(tx, RUN, "w1", lease_s=30))
    await house.store.write(lambda tx: control.stop(tx, Whose(RUN), by="person:ana", reason="x"))
    with pytest.raises(RunEnded):
        await house.store.write(lambda tx: control.pause(tx, RUN, by="person:ben", reason="y"))


async def test_what_runs_is_ended_and_what_waits_is_closed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.open(RunId("r5"), team="shop")
    await house.runner(ScriptedModel([sh(CURL)])).drive(RunId("r5"))
    order: list[str] = []
    stall(order, monkeypatch)
    await house.open(team="shop")
    other = await house.open(RunId("r9"), team="bank")
    driving = asyncio.create_task(house.runner(ScriptedModel([sh("make")]), limits=QUICK).drive(RUN))
    while not order:
        await asyncio.wait({driving}, timeout=0.01)
    stopped = await house.store.write(lambda tx: control.stop(tx, Whose(team="shop"), by="person:ana", reason="x"))
    assert stopped == (RUN, RunId("r5"))
    assert await asyncio.wait_for(driving, 2) is RunState.CANCELLED
    assert order == ["began", "ended"]
    assert await house.runner(ScriptedModel([])).drive(RunId("r5")) is RunState.CANCELLED
    assert (await house.record(other)).request is Request.NOTHING
    assert "stop" in await actions(house)
    assert "stop" in await actions(house, RunId("system"))


async def test_preserve_seals_the_files_before_anything_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.open()
    order: list[str] = []

    def make(_: ModelRequest) -> Answer:
        stall(order, monkeypatch)
        return sh("make")

    driving = asyncio.create_task(house.runner(ScriptedModel([sh("one"), make]), limits=QUICK).drive(RUN))
    while not order:
        await asyncio.wait({driving}, timeout=0.01)
    await house.store.write(lambda tx: control.stop(tx, Whose(RUN), by="person:ana", reason="x", preserve=True))
    assert await asyncio.wait_for(driving, 5) is RunState.CANCELLED
    assert order == ["began", "sealed", "ended"]
    sealed = RunFiles(house.folder / "artifacts").sealed(RUN)
    page = await house.store.read(lambda connection: query(connection, Filter(run=RUN, kind=Kind.CONTROL.value)))
    told = next(entry.data for entry in page.entries if entry.data.get("action") == "sealed")
    assert told["sha256"] == hashlib.sha256(sealed.read_bytes()).hexdigest()
    assert told["touched"] == {"hosts": [], "refused_hosts": [], "credentials": [], "grants": []}


# -- steps -------------------------------------------------------------------------------------------------------------


async def finished(house: House) -> None:
    await house.open(caps={Unit.MICRO_USD: 1_000_000})
    model = ScriptedModel([sh("one"), says("", call("list_files", {})), sh("two"), finishes()])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED


async def forked(house: House, step: int, *, is_retry: bool = False, setup: tuple[str, ...] = ()) -> RunId:
    files = RunFiles(house.folder / "artifacts")
    wanted = Branch(
        RUN,
        step,
        FORK,
        "person:ben",
        "try again",
        {},
        setup,
        is_retry=is_retry,
        word="be brief" if not is_retry else "",
    )
    made = await house.store.write(lambda tx: branch(tx, wanted, is_read_only=house.toolbox.is_read_only))
    for one in await house.store.read(lambda connection: steps_of(connection, made)):
        files.keep_step(made, files.step(RUN, one.files.sha256).read_bytes())
    return made


async def test_a_step_that_is_not_there_is_refused(house: House) -> None:
    await finished(house)
    for step in (-1, 5, 99):
        with pytest.raises(StepNotKept, match="has no step"):
            await forked(house, step)


async def test_a_step_whose_files_were_not_kept_is_refused_with_those_that_were(house: House) -> None:
    await finished(house)

    def forget(tx: Transaction) -> None:
        tx.connection.execute(delete(steps).where(steps.c.turn == 3))

    await house.store.write(forget)
    with pytest.raises(StepNotKept, match="of these steps were: 1"):
        await forked(house, 4)


async def test_a_run_that_goes_on_is_forked_but_not_retried(house: House) -> None:
    await house.open()
    await house.runner(ScriptedModel([sh("one"), sh(CURL)])).drive(RUN)
    with pytest.raises(RunHeld, match="fork it"):
        await forked(house, 1, is_retry=True)
    assert await forked(house, 1) == FORK
    assert (await house.record()).state is RunState.PARKED


async def test_the_files_after_each_turn_that_changed_some_are_kept_with_an_entry(house: House) -> None:
    await finished(house)
    kept = await house.store.read(lambda connection: steps_of(connection, RUN))
    files = RunFiles(house.folder / "artifacts")
    assert [(one.turn, files.step(RUN, one.files.sha256).read_bytes()) for one in kept] == [
        (1, b"one\n"),
        (3, b"one\ntwo\n"),
    ]
    assert (await actions(house, kind=Kind.SANDBOX)).count("step") == 2


async def test_a_fork_goes_on_from_the_files_and_the_words_of_its_step(house: House) -> None:
    await finished(house)
    made = await forked(house, 2, setup=("prepare",))
    model = ScriptedModel([finishes(), finishes(), sh("three"), finishes()])
    assert await house.runner(model).drive(made) is RunState.FINISHED
    record = await house.record(made)
    assert (record.agent, record.on_behalf_of, record.task) == ("agent:r2", "ben", f"t-{RUN}")
    assert [request.turn for request in model.asked] == [3, 4]
    said = str(model.asked[0].messages)
    assert "one" in said and "two" not in said
    assert "prepared with these commands" in said and "be brief" in said
    sandbox = house.backend.made[-1]
    assert sandbox.patch == b"one\nprepare\nthree\n"
    before = await house.store.read(lambda connection: rows_since(connection, RUN, 0))
    after = await house.store.read(lambda connection: rows_since(connection, made, 0))
    assert [row.body for row in after][: len(before) - 4] == [row.body for row in before][: len(before) - 4]


async def test_a_fork_has_a_budget_of_its_own(house: House) -> None:
    await finished(house)
    made = await forked(house, 4)
    held = await house.store.read(lambda connection: usage(connection, run_scope(made)))
    assert (held[Unit.MICRO_USD].cap, held[Unit.MICRO_USD].spent) == (1_000_000, 0)


async def test_a_retry_of_a_run_that_ended_is_a_new_run_and_both_say_so(house: House) -> None:
    await finished(house)
    made = await forked(house, 4, is_retry=True)
    assert await actions(house) == ["retry"]
    page = await house.store.read(lambda connection: query(connection, Filter(run=made, kind=Kind.RUN_OPENED.value)))
    origin = page.entries[0].data["from"]
    assert isinstance(origin, dict)
    assert (origin["run"], origin["step"], origin["how"]) == (RUN, 4, "retry")
    assert await house.runner(ScriptedModel([finishes()])).drive(made) is RunState.FINISHED


async def test_a_lost_sandbox_comes_back_with_the_files_of_the_last_step(house: House) -> None:
    await house.open()

    def vanish(_: ModelRequest) -> Answer:
        for sandbox in house.backend.sandboxes.values():
            sandbox.is_gone = True
        house.backend.sandboxes.clear()
        return sh("two")

    model = ScriptedModel([sh("one"), vanish, sh("three"), finishes()])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    assert house.backend.made[-1].patch == b"one\nthree\n"


async def test_a_drained_run_has_kept_its_last_step(house: House) -> None:
    await house.open()
    runner = house.runner(ScriptedModel([sh("one"), finishes()]))

    def drain(_: ModelRequest) -> Answer:
        runner.stop(RUN, Stop(StopKind.DRAIN, "system", "deploy"))
        return sh("two")

    runner = house.runner(ScriptedModel([sh("one"), drain]))
    assert await runner.drive(RUN) is RunState.QUEUED
    assert [one.turn for one in await house.store.read(lambda connection: steps_of(connection, RUN))] == [1]

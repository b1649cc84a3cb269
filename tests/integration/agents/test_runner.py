"""A run from its opening to its end, with the real store, ledger and gate: refusals first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence_agents import control
from ringfence_agents.errors import ModelRefused, ModelUnavailable, ReplayDiverged, RunEnded, RunHeld, RunNotFound
from ringfence_agents.leases import claim
from ringfence_agents.model import Answer, ModelRequest, OnDelta
from ringfence_agents.ports import Limits
from ringfence_agents.runs import RunState, WaitsFor
from ringfence_agents.switch import Stop, StopKind
from ringfence_audit.port import Transaction
from ringfence_sandbox.contract import Patch
from ringfence_sandbox.errors import IsolationUnavailable, SandboxBusy, SandboxError
from ringfence_tools import escalations, ledger, review
from ringfence_tools.budget import Unit, run_scope, usage
from ringfence_tools.calls import Effect, EscalationId, RunId
from ringfence_tools.errors import LeaseLost
from tests.fakes.counting_sandbox import CountingSandbox
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.fakes.policy import FakePolicy
from tests.integration.agents.house import ANA, RUN, House

LS = call("shell", {"command": "ls"})
CURL = call("shell", {"command": "curl https://pypi.example.org/"})
CURL_RESOURCE = "curl https://pypi.example.org/"


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    house = House.build(tmp_path, url=database_url)
    with house.store:
        yield house


@pytest.fixture
def asking(tmp_path: Path, database_url: str) -> Iterator[House]:
    """A house in which one command needs a person."""
    house = House.build(tmp_path, effects={CURL_RESOURCE: Effect.ESCALATE}, url=database_url)
    with house.store:
        yield house


class Stalling(ScriptedModel):
    """Never answers."""

    async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
        self.asked.append(request)
        await asyncio.Event().wait()
        raise AssertionError


# -- who may drive -----------------------------------------------------------------------------------------------------


async def test_a_run_that_is_not_there_is_not_driven(house: House) -> None:
    with pytest.raises(RunNotFound):
        await house.runner(ScriptedModel([finishes()])).drive(RunId("nobody"))


async def test_a_run_that_another_worker_holds_is_not_driven(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: claim(tx, RUN, "w0", lease_s=30))
    model = ScriptedModel([finishes()])
    with pytest.raises(RunHeld, match="w0"):
        await house.runner(model).drive(RUN)
    assert model.asked == []


async def test_a_run_whose_worker_died_is_taken_over_when_its_lease_has_ended(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: claim(tx, RUN, "w0", lease_s=30))
    house.clock.pass_s(31)
    assert await house.runner(ScriptedModel([finishes()])).drive(RUN) is RunState.FINISHED


async def test_an_ended_run_is_not_driven_again(house: House) -> None:
    await house.open()
    runner = house.runner(ScriptedModel([finishes()]))
    await runner.drive(RUN)
    with pytest.raises(RunEnded):
        await runner.drive(RUN)


async def test_a_worker_that_lost_its_lease_writes_nothing_more(house: House) -> None:
    await house.open()

    def steal(_: ModelRequest) -> Answer:
        house.clock.pass_s(60)
        stolen.append(asyncio.get_running_loop().create_task(_claim()))
        return says("too late", LS)

    async def _claim() -> None:
        await house.store.write(lambda tx: claim(tx, RUN, "thief", lease_s=30))

    stolen: list[asyncio.Task[None]] = []

    class Slow(ScriptedModel):
        async def answer(self, request: ModelRequest, on_delta: OnDelta) -> Answer:
            answer = await super().answer(request, on_delta)
            await stolen[0]
            return answer

    with pytest.raises(LeaseLost):
        await house.runner(Slow([steal])).drive(RUN)
    record = await house.record()
    assert (record.turn, record.worker) == (0, "thief")
    assert house.commands() == []


async def test_a_paused_run_goes_on_only_when_a_person_says_so(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: control.pause(tx, RUN, by="person:ana", reason="lunch"))
    runner = house.runner(ScriptedModel([finishes()]))
    with pytest.raises(RunHeld, match="paused"):
        await runner.drive(RUN)
    assert await runner.drive(RUN, is_forced=True) is RunState.FINISHED


# -- what ends a run ---------------------------------------------------------------------------------------------------


async def test_a_setup_that_fails_ends_the_run_before_the_model_is_asked(house: House) -> None:
    house.policy = FakePolicy({"make evil": Effect.FORBID})
    await house.open(setup=("make evil",))
    model = ScriptedModel([finishes()])
    assert await house.runner(model).drive(RUN) is RunState.FAILED
    assert model.asked == []
    assert "make evil" in str((await house.record()).result["summary"])


async def test_a_sandbox_that_cannot_be_fenced_ends_the_run_with_what_would_fix_it(house: House) -> None:
    house.backend.refuses = IsolationUnavailable("user namespaces are off", fix="sysctl kernel.unprivileged_userns=1")
    await house.open()
    model = ScriptedModel([says("", LS)])
    assert await house.runner(model).drive(RUN) is RunState.FAILED
    assert len(model.asked) == 1
    assert house.commands() == []
    assert "sysctl" in str((await house.record()).result["summary"])


async def test_a_budget_that_is_used_up_parks_the_run_before_the_model_is_asked(house: House) -> None:
    await house.open(caps={Unit.MICRO_USD: 500})
    model = ScriptedModel([says("", LS)])
    assert await house.runner(model).drive(RUN) is RunState.PARKED
    assert (await house.record()).waits_for is WaitsFor.BUDGET
    assert model.asked == []


async def test_money_is_reserved_before_and_settled_after(house: House) -> None:
    await house.open(caps={Unit.MICRO_USD: 10_000, Unit.TOKENS: 100_000})
    await house.runner(ScriptedModel([says("", LS), finishes()])).drive(RUN)
    held = await house.store.read(lambda connection: usage(connection, run_scope(RUN)))
    assert (held[Unit.MICRO_USD].reserved, held[Unit.MICRO_USD].spent) == (0, 2 * 120)
    assert (held[Unit.TOKENS].reserved, held[Unit.TOKENS].spent) == (0, 2 * 110)
    assert (await house.record()).cost_micro_usd == 240


async def test_too_many_denied_attempts_end_the_run_as_blocked(asking: House) -> None:
    await asking.open()
    model = ScriptedModel([says("", CURL), says("", CURL, LS), says("", LS, CURL), says("x", CURL), finishes()])
    runner = asking.runner(model)
    assert await runner.drive(RUN) is RunState.PARKED
    await asking.store.write(lambda tx: review.deny(tx, EscalationId(1), ANA, guidance="no"))
    assert await runner.drive(RUN) is RunState.BLOCKED


async def test_the_same_call_over_and_over_is_nudged_and_then_ends_the_run(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("", LS)])
    assert await house.runner(model).drive(RUN) is RunState.FAILED
    assert len(house.commands()) == 7
    assert len(model.asked) == 8
    nudged = [request.turn for request in model.asked if "same call several times" in str(request.messages[-1])]
    assert nudged == [5]


async def test_answers_without_a_call_are_nudged_once_and_then_taken_as_the_end(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("I think it is fine"), says("It is fine.")])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    assert "finish" in str(model.asked[1].messages[-1])
    assert "It is fine." in str((await house.record()).result["summary"])


async def test_empty_answers_end_the_run(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("")])
    assert await house.runner(model).drive(RUN) is RunState.FAILED
    assert len(model.asked) == 3


async def test_a_refused_key_fails_the_run_and_says_what_to_do(house: House) -> None:
    await house.open()
    model = ScriptedModel([ModelRefused("model coder: HTTP 401", fix="Check the API key")])
    assert await house.runner(model).drive(RUN) is RunState.FAILED
    assert "Check the API key" in str((await house.record()).result["summary"])


async def test_a_replay_that_diverges_stops_visibly(house: House) -> None:
    await house.open()
    assert await house.runner(ScriptedModel([ReplayDiverged("line 3 differs")])).drive(RUN) is RunState.FAILED
    assert "line 3 differs" in str((await house.record()).result["summary"])


async def test_a_model_that_is_away_parks_the_run_and_wakes_it_later(house: House) -> None:
    await house.open()
    runner = house.runner(ScriptedModel([ModelUnavailable("gone")]))
    assert await runner.drive(RUN) is RunState.PARKED
    record = await house.record()
    assert (record.waits_for, record.failures) == (WaitsFor.TIME, 1)
    assert "gone" in record.detail


async def test_a_model_that_stays_away_leaves_the_run_to_a_person(house: House) -> None:
    await house.open()
    runner = house.runner(ScriptedModel([ModelUnavailable("gone")]), limits=Limits(retries=2))
    for _ in range(3):
        await runner.drive(RUN)
    assert (await house.record()).waits_for is WaitsFor.PAUSE


async def test_a_sandbox_that_is_busy_parks_the_run_and_repeats_nothing(house: House) -> None:
    await house.open()
    house.backend.refuses = SandboxBusy("quota is full")
    model = ScriptedModel([says("", LS), finishes()])
    runner = house.runner(model)
    assert await runner.drive(RUN) is RunState.PARKED
    house.backend.refuses = None
    assert await runner.drive(RUN) is RunState.FINISHED
    assert [request.turn for request in model.asked] == [1, 2]


async def test_a_sandbox_that_vanished_makes_the_call_in_flight_unknown_and_the_agent_is_told(house: House) -> None:
    await house.open()

    def vanish(_: ModelRequest) -> Answer:
        for sandbox in house.backend.sandboxes.values():
            sandbox.is_gone = True
        house.backend.sandboxes.clear()
        return says("", call("shell", {"command": "echo 2"}))

    model = ScriptedModel([says("", LS), vanish, says("", call("shell", {"command": "echo 3"})), finishes()])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    assert house.commands() == ["ls", "echo 3"]
    assert "unknown" in str(model.asked[2].messages[-1]["content"])
    assert (await house.record()).result["unknown"] == ["r1/2/0"]
    assert "rebuilt from the files as they were after your turn 1" in str(model.asked[3].messages[-2:]) + str(
        model.asked[2].messages[-2:]
    )
    assert await house.store.read(lambda connection: ledger.unsettled(connection, RUN)) == ()


async def test_a_run_that_keeps_losing_its_sandbox_ends(house: House) -> None:
    await house.open()

    def vanish(request: ModelRequest) -> Answer:
        for sandbox in house.backend.sandboxes.values():
            sandbox.is_gone = True
        house.backend.sandboxes.clear()
        return says("", call("shell", {"command": f"echo {request.turn}"}))

    assert await house.runner(ScriptedModel([vanish])).drive(RUN) is RunState.FAILED
    left = await house.store.read(lambda connection: ledger.unsettled(connection, RUN))
    assert [row.state for row in left] == [ledger.CallState.NEW]


# -- what a misbehaving model may say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("no_such_tool", "{}"),
        ("", ""),
        ("shell", "{broken"),
        ("shell", '{"command": "ls", "sudo": true}'),
        ("shell", "[" * 100_000),
        ("shell", '{"command": "\\ud800"}'),
        ("shell\x00", '{"command": "ls\x00"}'),
        ("x" * 10_000, "y" * 3_000_000),
    ],
)
async def test_a_malformed_call_is_answered_and_the_run_goes_on(house: House, name: str, arguments: str) -> None:
    await house.open()
    model = ScriptedModel([says("\ud800 \x00", call(name, arguments, id="\udfff")), finishes("went on")])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    reply = model.asked[1].messages[-1]
    assert reply["role"] == "tool"
    assert house.commands() == []


async def test_echoed_calls_are_always_objects_that_a_strict_endpoint_accepts(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("", call("bad name!", "{broken")), finishes()])
    await house.runner(model).drive(RUN)
    echoed = model.asked[1].messages[-2]["tool_calls"]
    function = json.loads(json.dumps(echoed))[0]["function"]
    assert function["name"] == "invalid_name"
    assert json.loads(function["arguments"]) == {"malformed_arguments": "{broken"}


async def test_ids_that_repeat_are_answered_one_by_one(house: House) -> None:
    await house.open()
    twice = (call("shell", {"command": "echo a"}, id="same"), call("shell", {"command": "echo b"}, id="same"))
    model = ScriptedModel([says("", *twice), says("", *twice), finishes()])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    ids = [message["tool_call_id"] for message in model.asked[1].messages if message["role"] == "tool"]
    assert len(set(map(str, ids))) == 2


# -- people ------------------------------------------------------------------------------------------------------------


async def test_a_call_that_waits_parks_the_run_and_starts_nothing_behind_it(asking: House) -> None:
    await asking.open()
    runner = asking.runner(ScriptedModel([says("", CURL, LS), finishes()]))
    assert await runner.drive(RUN) is RunState.PARKED
    record = await asking.record()
    assert (record.waits_for, record.worker, runner.driving) == (WaitsFor.PEOPLE, "", frozenset())
    assert asking.commands() == []


def _approve(tx: Transaction) -> None:
    escalation = escalations.get(tx.connection, EscalationId(1))
    review.approve(tx, escalation.id, ANA, digest=escalation.digest)
    assert control.wake(tx, RUN)


async def test_an_approved_call_runs_once_and_the_run_goes_on(asking: House) -> None:
    await asking.open()
    model = ScriptedModel([says("", CURL, LS), finishes()])
    runner = asking.runner(model)
    await runner.drive(RUN)
    await asking.store.write(_approve)
    assert (await asking.record()).state is RunState.QUEUED
    assert await runner.drive(RUN) is RunState.FINISHED
    assert asking.commands() == [CURL_RESOURCE, "ls"]
    assert [request.turn for request in model.asked] == [1, 2]


async def test_an_escalation_that_expires_denies_and_the_run_goes_another_way(asking: House) -> None:
    await asking.open()
    model = ScriptedModel([says("", CURL), finishes("another way")])
    runner = asking.runner(model)
    await runner.drive(RUN)
    asking.clock.pass_s(5 * 3600)
    assert await runner.drive(RUN) is RunState.FINISHED
    assert "Nobody approved" in str(model.asked[1].messages[-1]["content"])


async def test_a_persons_message_reaches_the_agent_before_it_thinks_next(house: House) -> None:
    await house.open()
    await house.store.write(lambda tx: control.post_message(tx, RUN, by="person:ana", text="use the new parser"))
    model = ScriptedModel([finishes()])
    await house.runner(model).drive(RUN)
    assert "use the new parser" in str(model.asked[0].messages[-1]["content"])


async def test_cancelling_a_waiting_run_closes_it_and_removes_its_sandbox(asking: House) -> None:
    await asking.open(setup=("true",))
    runner = asking.runner(ScriptedModel([says("", CURL), finishes()]))
    await runner.drive(RUN)
    await asking.store.write(lambda tx: control.cancel(tx, RUN, by="person:ana", reason="not needed"))
    assert await runner.drive(RUN) is RunState.CANCELLED
    assert asking.backend.sandboxes == {}


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "state", "waits_for"),
    [
        (StopKind.PARK, RunState.PARKED, WaitsFor.PAUSE),
        (StopKind.DRAIN, RunState.QUEUED, WaitsFor.NOTHING),
        (StopKind.CANCEL, RunState.CANCELLED, WaitsFor.NOTHING),
        (StopKind.BUDGET, RunState.PARKED, WaitsFor.BUDGET),
    ],
)
async def test_a_run_that_is_told_to_stop_lets_go(
    house: House, kind: StopKind, state: RunState, waits_for: WaitsFor
) -> None:
    await house.open()
    model = Stalling([])
    runner = house.runner(model)
    driving = asyncio.create_task(runner.drive(RUN))
    while not model.asked:
        await asyncio.wait({driving}, timeout=0.01)
    assert runner.stop(RUN, Stop(kind, "person:ana", "because"))
    assert await driving is state
    assert (await house.record()).waits_for is waits_for


async def test_a_pause_asked_elsewhere_is_seen_by_the_worker(house: House) -> None:
    await house.open()
    model = Stalling([])
    runner = house.runner(model, limits=Limits(watch_s=0.02))
    driving = asyncio.create_task(runner.drive(RUN))
    while not model.asked:
        await asyncio.wait({driving}, timeout=0.01)
    await house.store.write(lambda tx: control.pause(tx, RUN, by="person:ana", reason="lunch"))
    assert await driving is RunState.PARKED
    assert "lunch" in (await house.record()).detail


async def test_wall_time_that_is_used_up_parks_the_run(house: House) -> None:
    await house.open(caps={Unit.WALL_MS: 1})
    model = Stalling([])
    assert await house.runner(model, limits=Limits(watch_s=0.02)).drive(RUN) is RunState.PARKED


async def test_a_driver_that_is_cancelled_lets_go_of_the_run(house: House) -> None:
    await house.open()
    model = Stalling([])
    driving = asyncio.create_task(house.runner(model).drive(RUN))
    while not model.asked:
        await asyncio.wait({driving}, timeout=0.01)
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving
    record = await house.record()
    assert (record.state, record.worker) == (RunState.QUEUED, "")


# -- the plain case ----------------------------------------------------------------------------------------------------


async def test_a_run_that_finishes_has_run_each_call_once(house: House) -> None:
    await house.open(setup=("true",))
    model = ScriptedModel([says("first", LS, call("shell", {"command": "python -m pytest -q"})), finishes("all good")])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    result = (await house.record()).result
    assert house.commands() == ["true", "ls", "python -m pytest -q"]
    assert (result["summary"], result["tool_calls"], result["turns"]) == ("all good", 4, 2)
    assert result["tests"] == [{"call": "r1/1/1", "command": "python -m pytest -q", "exit_code": 0}]
    assert house.backend.sandboxes == {}


async def test_a_run_whose_work_cannot_be_taken_out_has_not_finished(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: CountingSandbox) -> Patch:
        raise SandboxError("git would not")

    monkeypatch.setattr(CountingSandbox, "diff", refuse)
    await house.open(setup=("true",))
    assert await house.runner(ScriptedModel([finishes("all good")])).drive(RUN) is RunState.FAILED
    assert "git would not" in (await house.record()).detail

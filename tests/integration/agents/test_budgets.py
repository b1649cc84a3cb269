"""Budgets over a run's life: what is used up parks it with its work kept, and more of it lets it go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ringfence.budgets import check_team, team_scopes
from ringfence.errors import Refused
from ringfence_agents import control
from ringfence_agents.ports import Limits
from ringfence_agents.runs import RunState, WaitsFor
from ringfence_audit.events import Kind
from ringfence_audit.query import Filter, query
from ringfence_tools.budget import Unit, open_budget, team_scope, usage
from ringfence_tools.calls import RunId
from ringfence_tools.profile import Profile, parse_profile
from ringfence_tools.progress import RunMoved
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import RUN, House

LS = call("shell", {"command": "ls"})
SHOP = team_scope("shop", datetime(2026, 11, 24, tzinfo=UTC))
COST = 120
"""What one answer of the scripted model costs, in micro-dollars."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


async def share(house: House, **caps: int) -> None:
    await house.store.write(lambda tx: open_budget(tx, SHOP, {Unit(unit): cap for unit, cap in caps.items()}))
    house.scopes = (SHOP,)


async def test_fifty_runs_at_once_never_overshoot_what_they_share(house: House) -> None:
    cap = 80 * COST
    await share(house, micro_usd=cap)
    runs = [await house.open(RunId(f"r{n}"), team="shop") for n in range(50)]
    model = ScriptedModel([*[says("", LS, call("shell", {"command": f"echo {n}"})) for n in range(3)], finishes()])
    runner = house.runner(model, limits=Limits(budget_retry_s=0))

    async def drive(run: RunId) -> RunState:
        while (await runner.drive(run)) is RunState.PARKED:
            if (await house.record(run)).waits_for is WaitsFor.BUDGET:
                return RunState.PARKED
            house.clock.pass_s(1)
        return RunState.FINISHED

    states = await asyncio.gather(*map(drive, runs))
    held = (await house.store.read(lambda connection: usage(connection, SHOP)))[Unit.MICRO_USD]
    assert held.reserved == 0
    assert held.spent == len(model.asked) * COST <= cap
    assert RunState.PARKED in states


async def test_a_run_that_its_team_has_no_budget_for_waits_for_the_month_or_for_more(house: House) -> None:
    await share(house, micro_usd=1)
    await house.open(team="shop")
    model = ScriptedModel([finishes()])
    assert await house.runner(model).drive(RUN) is RunState.PARKED
    assert model.asked == []
    raised = await house.store.write(
        lambda tx: control.change_team_budget(tx, "shop", {Unit.MICRO_USD: 10_000}, by="person:ana", reason="more")
    )
    assert raised == 1
    assert (await house.record()).state is RunState.QUEUED
    assert await house.runner(model).drive(RUN) is RunState.FINISHED


async def test_tool_calls_that_are_used_up_park_the_run_and_a_raise_lets_it_go_on_without_repeating(
    house: House,
) -> None:
    await house.open(caps={Unit.TOOL_CALLS: 1})
    model = ScriptedModel([says("", LS), says("", call("shell", {"command": "pwd"})), finishes()])
    runner = house.runner(model)
    assert await runner.drive(RUN) is RunState.PARKED
    record = await house.record()
    assert (record.waits_for, "tool_calls" in record.detail) == (WaitsFor.BUDGET, True)
    await house.store.write(
        lambda tx: control.change_budget(tx, RUN, {Unit.TOOL_CALLS: 5}, by="person:ana", reason="more")
    )
    assert await runner.drive(RUN) is RunState.FINISHED
    assert house.commands() == ["ls"]
    assert [request.turn for request in model.asked] == [1, 2, 3]


async def test_four_fifths_of_a_budget_are_an_entry_and_are_told(house: House) -> None:
    await house.open(caps={Unit.MICRO_USD: 100_000})
    words = [says("", call("shell", {"command": f"echo {n}"}), tokens=1_000) for n in range(9)]
    await house.runner(ScriptedModel([*words, finishes()])).drive(RUN)
    page = await house.store.read(lambda connection: query(connection, Filter(run=RUN, kind=Kind.CONTROL.value)))
    marks = [entry.data for entry in page.entries]
    assert [(mark["action"], mark["unit"], mark["spent"]) for mark in marks] == [("budget.mark", "micro_usd", 84_000)]
    assert [event for event in house.seen if isinstance(event, RunMoved) and "80 % of" in event.detail]


# -- a profile's team budget -------------------------------------------------------------------------------------------


def profile(at_limit: str) -> Profile:
    text = f"""\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {{name: test, owner: owner, version: 1}}
budget: {{team_month: {{usd: 1, warn: 50%, at_limit: {at_limit}}}}}
"""
    return parse_profile(text.encode(), "test")


async def test_the_first_run_of_a_month_opens_its_teams_budget(house: House) -> None:
    await house.open(team="shop")
    record = await house.record()
    assert await team_scopes(house.store, profile("park"), record) == (SHOP,)
    assert await team_scopes(house.store, profile("park"), replace(record, team="")) == ()
    held = await house.store.read(lambda connection: usage(connection, SHOP))
    assert held[Unit.MICRO_USD].cap == 1_000_000


async def test_a_team_without_budget_opens_no_run_where_its_profile_refuses(house: House) -> None:
    await share(house, micro_usd=0)
    await check_team(house.store, profile("park"), "shop")
    with pytest.raises(Refused, match="next month"):
        await check_team(house.store, profile("refuse"), "shop")

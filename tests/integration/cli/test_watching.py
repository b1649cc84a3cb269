"""Watching from another process: what the log tells is what the one that moved the run was told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.errors import Mistake
from ringfence.watching import newest_open, watch
from ringfence_agents.errors import RunNotFound
from ringfence_agents.runs import RunState
from ringfence_tools.calls import Effect, RunId
from ringfence_tools.progress import CallDecided, CallSettled, Exchanged, ProgressEvent, RunMoved
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import RUN, House

CURL = "curl https://pypi.example.org/"
SCRIPT = [says("I look.", call("shell", {"command": "ls"}), call("nope", {})), finishes("all good")]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path, effects={CURL: Effect.ESCALATE})
    with house.store:
        yield house


async def test_no_run_and_an_unknown_run_are_said(house: House) -> None:
    with pytest.raises(Mistake, match="no run is going on"):
        await house.store.read(newest_open)
    with pytest.raises(RunNotFound):
        await watch(house.store, RunId("absent"), lambda _: None)


async def test_what_a_watcher_sees_is_what_the_mover_saw(house: House) -> None:
    await house.open()
    seen: list[ProgressEvent] = []
    watching = asyncio.create_task(watch(house.store, await house.store.read(newest_open), seen.append))
    moved: list[ProgressEvent] = []
    assert await house.runner(ScriptedModel(SCRIPT), progress=moved.append).drive(RUN) is RunState.FINISHED
    assert (await asyncio.wait_for(watching, 20)).state is RunState.FINISHED
    for kind in (CallSettled, Exchanged):
        assert [_of(one) for one in seen if isinstance(one, kind)] == [
            _of(one) for one in moved if isinstance(one, kind)
        ]
    decided = [(one.key, one.tool, one.summary) for one in seen if isinstance(one, CallDecided)]
    assert decided == [(one.key, one.tool, one.summary) for one in moved if isinstance(one, CallDecided)]
    assert seen[-1] == RunMoved(RUN, "finished", "all good")


def _of(event: ProgressEvent) -> object:
    if isinstance(event, CallSettled):
        return (event.key, event.tool, event.result.status, event.result.text)
    return event


async def test_a_card_and_its_end_are_told(house: House) -> None:
    await house.open()
    runner = house.runner(ScriptedModel([says("", call("shell", {"command": CURL})), finishes()]))
    await runner.drive(RUN)
    seen: list[str] = []

    def note(event: ProgressEvent) -> None:
        if isinstance(event, RunMoved):
            seen.append(f"{event.state} {event.detail}")

    watching = asyncio.create_task(watch(house.store, RUN, note))
    house.clock.pass_s(5 * 3600)
    await runner.drive(RUN)
    await asyncio.wait_for(watching, 20)
    assert "asks E-1: ringfence review show E-1" in seen
    assert any(one.startswith("decided E-1 expired") for one in seen)

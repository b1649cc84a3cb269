"""A run from its opening to its end, with the real store, ledger and gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence_agents.runs import RunState
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import RUN, House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


async def test_a_run_that_finishes_has_run_each_call_once(house: House) -> None:
    await house.open()
    model = ScriptedModel([says("first", call("shell", {"command": "ls"})), finishes("all good")])
    assert await house.runner(model).drive(RUN) is RunState.FINISHED
    record = await house.record()
    assert record.result["summary"] == "all good"
    assert record.result["tool_calls"] == 2
    assert len(model.asked) == 2

"""How long a person at a terminal waits for a run whose model is away."""

from __future__ import annotations

from pathlib import Path

from ringfence.driving import TRIES_HERE, exit_of, goes_on
from ringfence.exits import Exit
from ringfence_agents.errors import ModelUnavailable
from ringfence_agents.runs import RunState
from tests.fakes.model import ScriptedModel
from tests.integration.agents.house import RUN, House


async def test_a_run_whose_model_stays_away_gives_the_terminal_back_and_waits(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    with house.store:
        await house.open()
        runner = house.runner(ScriptedModel([ModelUnavailable("gone")]))
        goes = []
        for _ in range(TRIES_HERE):
            assert await runner.drive(RUN) is RunState.PARKED
            record = await house.record()
            goes.append(goes_on(record, is_patient=False))
            house.clock.pass_s(3600)
    assert goes == [True] * (TRIES_HERE - 1) + [False]
    assert goes_on(record, is_patient=True)
    assert exit_of(record) is Exit.UNAVAILABLE

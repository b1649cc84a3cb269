from __future__ import annotations

import pytest

from tests.lints.only_the_gate import violations
from tests.lints.sources import modules, parse


@pytest.mark.parametrize(
    "source",
    [
        "async def f(sandbox): await sandbox.perform(action)",
        "door = sandbox.perform",
        "getattr(sandbox, 'perform')(action)",
        "operator.methodcaller('perform', action)(sandbox)",
    ],
)
def test_a_second_door_is_found(source: str) -> None:
    (found,) = violations([parse("ringfence_agents.planted", source)])
    assert "only the gate runs tools" in str(found)


def test_a_door_in_a_neighbour_of_the_gate_is_found() -> None:
    assert violations([parse("ringfence_tools.gate_keeper", "sandbox.perform(action)")])


def test_the_gate_itself_may_act() -> None:
    assert violations([parse("ringfence_tools.gate", "sandbox.perform(action)")]) == []


def test_nothing_but_the_gate_acts_in_the_product() -> None:
    assert violations(modules()) == []

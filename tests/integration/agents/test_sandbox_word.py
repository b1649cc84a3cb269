"""What a sandbox says of itself reaches log and screen: that an operator took it away, that a layer does not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ringfence_agents.model import Answer, ModelRequest
from ringfence_agents.runs import RunState
from ringfence_audit.query import story
from ringfence_sandbox.contract import EgressGatekeeper, Layer, Sandbox, SandboxSpec
from ringfence_sandbox.errors import SandboxRemoved
from ringfence_tools.progress import RunMoved
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import RUN, CountingBackend, House, NamedSandbox

LS = call("shell", {"command": "ls"})


class Watched(CountingBackend):
    """One whose operator takes sandboxes away on purpose."""

    async def attach(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        if spec.id not in self.sandboxes:
            raise SandboxRemoved(f"{spec.id} was deleted by hand")
        return await super().attach(spec, egress=egress)


class Open(NamedSandbox):
    @property
    def layers(self) -> Sequence[Layer]:
        return (Layer("pod-security", True), Layer("network", False, "open: reached 10.96.0.1:443"))


class Reduced(CountingBackend):
    """One that may build sandboxes whose network is not closed."""

    async def create(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        self.sandboxes[spec.id] = Open(spec.id)
        self.made.append(self.sandboxes[spec.id])
        return self.sandboxes[spec.id]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


async def sandbox_entries(house: House) -> list[dict[str, object]]:
    entries = await house.store.read(lambda connection: list(story(connection, RUN)))
    return [json.loads(json.dumps(entry.data)) for entry in entries if entry.kind == "sandbox.life"]


async def test_a_sandbox_that_an_operator_took_away_ends_the_run_and_is_not_rebuilt(house: House) -> None:
    house.backend = Watched()
    await house.open()

    def take_away(_: ModelRequest) -> Answer:
        for sandbox in house.backend.sandboxes.values():
            sandbox.is_gone = True
        house.backend.sandboxes.clear()
        return says("", LS)

    model = ScriptedModel([says("", LS), take_away, says("", LS), finishes()])
    assert await house.runner(model).drive(RUN) is RunState.FAILED
    assert "was deleted by hand" in (await house.record()).detail
    assert len(house.backend.made) == 1
    assert [entry["action"] for entry in await sandbox_entries(house)].count("removed") == 1


async def test_a_layer_that_does_not_hold_is_called_reduced_in_the_log_and_on_screen(house: House) -> None:
    house.backend = Reduced()
    await house.open()
    assert await house.runner(ScriptedModel([says("", LS), finishes()])).drive(RUN) is RunState.FINISHED
    (started,) = [entry for entry in await sandbox_entries(house) if entry["action"] == "started"]
    assert started["is_reduced"] is True
    shown = [event.detail for event in house.seen if isinstance(event, RunMoved)]
    assert any(text.startswith("REDUCED isolation") and "10.96.0.1:443" in text for text in shown)

"""What a crash left on a cluster goes; what a run still needs stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from ringfence.sweeping import sweep
from ringfence_agents.schema import runs
from ringfence_audit.query import story
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import SandboxBusy
from ringfence_tools.calls import RunId
from tests.integration.agents.house import RUN, House


class Namespaces:
    """A backend, as far as sweeping sees it."""

    def __init__(self, *names: str) -> None:
        self.there = {SandboxId(name) for name in names}
        self.is_stuck = False
        self.ended_grants: list[str] = []

    async def end_grants(self) -> list[str]:
        ended, self.ended_grants = self.ended_grants, []
        return ended

    async def sandboxes(self) -> frozenset[SandboxId]:
        return frozenset(self.there)

    async def destroy(self, sandbox: SandboxId) -> None:
        if self.is_stuck:
            raise SandboxBusy(f"{sandbox} is stuck in terminating")
        self.there.discard(sandbox)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


async def holds(house: House, sandbox: str, *, ended_at: int | None = None) -> None:
    await house.open()
    values = {"sandbox_id": sandbox, "ended_at": ended_at}
    await house.store.write(lambda tx: tx.connection.execute(update(runs).where(runs.c.id == RUN).values(**values)))


async def swept_entries(house: House) -> list[str]:
    entries = await house.store.read(lambda connection: list(story(connection, RunId("system"))))
    return [str(entry.data["sandbox"]) for entry in entries if entry.data.get("action") == "swept"]


async def test_the_sandbox_of_a_run_that_goes_on_is_never_swept(house: House) -> None:
    await holds(house, "r1-1")
    namespaces = Namespaces("r1-1")
    assert await sweep(house.store, namespaces) == frozenset()
    assert namespaces.there == {"r1-1"}


async def test_what_belongs_to_no_run_or_to_an_ended_one_goes_with_an_entry(house: House) -> None:
    await holds(house, "r1-1", ended_at=1)
    namespaces = Namespaces("r1-1", "r0-7")
    assert await sweep(house.store, namespaces) == {"r1-1", "r0-7"}
    assert namespaces.there == set()
    assert await swept_entries(house) == ["r0-7", "r1-1"]


async def test_a_namespace_that_is_stuck_is_there_for_the_next_sweep(house: House) -> None:
    namespaces = Namespaces("r0-7")
    namespaces.is_stuck = True
    with pytest.raises(SandboxBusy):
        await sweep(house.store, namespaces)
    namespaces.is_stuck = False
    assert await sweep(house.store, namespaces) == {"r0-7"}


async def test_a_grant_that_outlived_its_worker_is_ended_with_an_entry(house: House) -> None:
    await holds(house, "r1-1")
    namespaces = Namespaces("r1-1")
    namespaces.ended_grants = ["rf-r-r1-1/grant-g-1"]
    await sweep(house.store, namespaces)
    entries = await house.store.read(lambda connection: list(story(connection, RunId("system"))))
    ended = [entry.data["grant"] for entry in entries if entry.data.get("action") == "grant ended"]
    assert ended == ["rf-r-r1-1/grant-g-1"]

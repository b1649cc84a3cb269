"""What a crash left on a cluster goes; what a run still needs stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from ringfence.sweeping import sweep
from ringfence_agents.schema import runs
from ringfence_audit.port import Transaction
from ringfence_audit.query import story
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import SandboxBusy
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros
from ringfence_tools.schema import grants
from tests.integration.agents.house import RUN, House


class Namespaces:
    """A backend, as far as sweeping sees it."""

    def __init__(self, *names: str) -> None:
        self.there = {SandboxId(name) for name in names}
        self.is_stuck = False
        self.opened: dict[str, str] = {}

    async def grants(self) -> dict[str, str]:
        return dict(self.opened)

    async def end_grant(self, where: str) -> None:
        del self.opened[where]

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


async def give(house: House, **values: object) -> str:
    """A grant that lives for an hour, unless `values` say otherwise; its id."""

    def work(tx: Transaction) -> str:
        row: dict[str, object] = {
            "id": "g-live",
            "run": RUN,
            "call": "",
            "tool": "t",
            "accesses": "[]",
            "width": "task",
        }
        row |= {"expires_at": micros(tx.now) + 3_600_000_000, "given_by": "person:ana", "escalation": 1, **values}
        tx.connection.execute(insert(grants).values(**row))
        return str(row["id"])

    return await house.store.write(work)


async def test_what_a_live_grant_opened_stays(house: House) -> None:
    await holds(house, "r1-1")
    namespaces = Namespaces("r1-1")
    namespaces.opened = {"rf-r-r1-1/grant": await give(house)}
    await sweep(house.store, namespaces)
    assert list(namespaces.opened) == ["rf-r-r1-1/grant"]


@pytest.mark.parametrize("values", [{"expires_at": 1}, {"revoked_at": 1}])
async def test_what_an_ended_grant_left_goes_with_an_entry(house: House, values: dict[str, object]) -> None:
    await holds(house, "r1-1")
    namespaces = Namespaces("r1-1")
    namespaces.opened = {"rf-r-r1-1/grant": await give(house, **values), "rf-r-r1-1/other": "g-nobodys"}
    await sweep(house.store, namespaces)
    assert namespaces.opened == {}
    entries = await house.store.read(lambda connection: list(story(connection, RunId("system"))))
    ended = [entry.data["grant"] for entry in entries if entry.data.get("action") == "grant ended"]
    assert ended == ["g-live", "g-nobodys"]

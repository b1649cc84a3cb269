"""The cluster's egress proxy decides for runs that go on, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from ringfence.egress_parts import RunsEgress
from ringfence_agents.schema import runs
from ringfence_sandbox.contract import EgressRequest, SandboxId
from ringfence_tools.profile import pin_profile
from tests.integration.agents.house import RUN, House

REQUEST = EgressRequest(SandboxId("r1-1"), "c1", "packages.example", 443, "CONNECT")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House.build(tmp_path)
    with house.store:
        yield house


async def holds(house: House, sandbox: str, *, ended_at: int | None = None) -> None:
    if ended_at is None:
        await house.open()
    values = {"sandbox_id": sandbox, "ended_at": ended_at, "profile_document": pin_profile("default")}
    await house.store.write(lambda tx: tx.connection.execute(update(runs).where(runs.c.id == RUN).values(**values)))


async def test_a_sandbox_that_no_run_has_gets_no_answer(house: House) -> None:
    await holds(house, "r1-2")
    with pytest.raises(LookupError, match="r1-1"):
        await RunsEgress(house.store, secret=lambda _: None).admit(REQUEST)


async def test_a_run_that_ended_gets_nothing_more_and_what_was_open_ends(house: House) -> None:
    await holds(house, "r1-1")
    gatekeeper = RunsEgress(house.store, secret=lambda _: None)
    verdict = await gatekeeper.admit(REQUEST)
    assert (verdict.is_allowed, "request_access" in verdict.instead) == (False, True)
    await holds(house, "r1-1", ended_at=1)
    with pytest.raises(LookupError):
        await gatekeeper.admit(REQUEST)
    assert await gatekeeper.stands([REQUEST]) == frozenset()
    await gatekeeper.closed(REQUEST, sent_bytes=1, received_bytes=2, duration_ms=3)

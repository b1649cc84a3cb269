"""The cluster's egress proxy decides for runs that go on, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from sqlalchemy import update

from ringfence.cluster_addresses import SqlAddresses, StandingIdentities
from ringfence.egress_parts import Clones, RunsEgress
from ringfence_agents.schema import runs
from ringfence_sandbox.contract import EgressRequest, SandboxId
from ringfence_sandbox.egress.errors import Code, Refused
from ringfence_sandbox.kubernetes.egress_identity import EgressKey
from ringfence_tools.egress import CloneEgress
from ringfence_tools.profile import pin_profile
from tests.integration.agents.house import RUN, House
from tests.integration.tools.test_egress import entries

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


KEY = EgressKey(b"k" * 32)
CLONE, ADDRESS = SandboxId("clone-1"), "10.0.0.7"


async def clones_of(house: House) -> Clones:
    await SqlAddresses(house.store, "tests").stands(CLONE, ADDRESS)
    return Clones(StandingIdentities(house.store, KEY), house.store)


def asking(host: str, port: int) -> EgressRequest:
    return EgressRequest(CLONE, "c1", host, port, "CONNECT")


async def test_a_clone_without_what_it_may_reach_is_not_let_in_nor_a_run_with_it(house: House) -> None:
    clones = await clones_of(house)
    assert not await clones.is_theirs(CLONE, KEY.token(CLONE, ADDRESS), ip_address(ADDRESS))
    run = SandboxId("r1-1")
    await SqlAddresses(house.store, "tests").stands(run, "10.0.0.8")
    carried = CloneEgress(house.store, RUN, "person:ana", "git.example", 443).carried()
    assert not await clones.is_theirs(run, KEY.token(run, "10.0.0.8", carried=carried), ip_address("10.0.0.8"))
    with pytest.raises(LookupError):
        await RunsEgress(house.store, secret=lambda _: None, clones=clones.known).admit(asking("git.example", 443))


async def test_a_clone_reaches_the_one_place_that_its_person_named_and_each_request_is_an_entry(house: House) -> None:
    clones = await clones_of(house)
    carried = CloneEgress(house.store, RUN, "person:ana", "git.example", 8443, is_private_allowed=True).carried()
    assert await clones.is_theirs(CLONE, KEY.token(CLONE, ADDRESS, carried=carried), ip_address(ADDRESS))
    egress = RunsEgress(house.store, secret=lambda _: "secret", clones=clones.known)
    for host, port in (("git.example", 443), ("elsewhere.example", 8443)):
        verdict = await egress.admit(asking(host, port))
        assert (verdict.is_allowed, "git.example:8443" in verdict.instead) == (False, True)
    named = asking("git.example", 8443)
    verdict = await egress.admit(named)
    assert (verdict.is_allowed, verdict.is_private_allowed, dict(verdict.headers)) == (True, True, {})
    assert await egress.stands([named]) == {named.id}
    await egress.refused(Refused(CLONE, Code.CONTENT_REFUSED, "another server name", "", named))
    await egress.closed(named, sent_bytes=1, received_bytes=2, duration_ms=3)
    kinds = [event["kind"] for event in await entries(house.store) if event["actor"] == "person:ana"]
    assert kinds == ["egress.refused", "egress.refused", "egress.opened", "egress.refused", "egress.closed"]

"""A sandbox's credential at the egress proxy is good from the address that it has now, never from one that it had."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

import ringfence.cluster_addresses
from ringfence.cluster_addresses import SqlAddresses, StandingIdentities
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.kubernetes.egress_identity import EgressKey
from tests.integration.agents.house import House

KEY = EgressKey(b"k" * 32)
MINE, OTHER = SandboxId("r1-1"), SandboxId("r2-1")
HERE, THERE = "10.0.0.7", "10.0.0.8"


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    assert ringfence.cluster_addresses.addresses.name == "cluster_addresses"
    house = House.build(tmp_path, url=database_url)
    with house.store:
        yield house


@pytest.fixture
def book(house: House) -> SqlAddresses:
    return SqlAddresses(house.store, "here")


async def is_known(house: House, sandbox: SandboxId, address: str, *, token: str = "") -> bool:
    identities = StandingIdentities(house.store, KEY)
    return await identities.is_theirs(sandbox, token or KEY.token(sandbox, address), ip_address(address))


async def test_a_sandbox_that_stands_nowhere_is_not_known_however_right_its_credential(house: House) -> None:
    assert not await is_known(house, MINE, HERE)


async def test_where_it_stands_it_is_known_by_its_own_credential_alone(house: House, book: SqlAddresses) -> None:
    await book.stands(MINE, HERE)
    assert not await is_known(house, MINE, HERE, token=KEY.token(OTHER, HERE))
    assert not await is_known(house, MINE, THERE)
    assert await is_known(house, MINE, HERE)


async def test_what_was_suspended_opens_nothing_from_its_old_address(house: House, book: SqlAddresses) -> None:
    await book.stands(MINE, HERE)
    await book.left(MINE)
    assert not await is_known(house, MINE, HERE)


async def test_an_address_given_to_another_pod_is_no_longer_the_first_ones(house: House, book: SqlAddresses) -> None:
    await book.stands(MINE, HERE)
    await book.stands(OTHER, HERE)
    assert not await is_known(house, MINE, HERE)
    assert await is_known(house, OTHER, HERE)


async def test_one_that_moved_is_known_where_it_is_now(house: House, book: SqlAddresses) -> None:
    await book.stands(MINE, HERE)
    await SqlAddresses(house.store, "elsewhere").stands(OTHER, HERE)
    assert await is_known(house, MINE, HERE)
    await book.stands(MINE, "2001:db8:0:0::1")
    assert not await is_known(house, MINE, HERE)
    assert await is_known(house, MINE, "2001:db8::1")

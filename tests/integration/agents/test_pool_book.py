"""The book of prepared namespaces: of any number who want a member exactly one gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.aio import client as kubernetes_client

import ringfence.cluster_pool
from ringfence.cluster_pool import SqlPoolBook
from ringfence_audit.query import story
from ringfence_sandbox.contract import SandboxId, SandboxSpec
from ringfence_sandbox.kubernetes.api import ClusterApi
from ringfence_sandbox.kubernetes.pool_book import Bounds, Member
from ringfence_sandbox.kubernetes.pools import Pool
from ringfence_sandbox.kubernetes.settings import ClusterSettings
from ringfence_tools.calls import RunId
from tests.integration.agents.house import House

BOUNDS = Bounds(least=2, most=4, window_s=60, max_age_s=3600)
SHAPE = "abc"


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    assert ringfence.cluster_pool.members.name == "cluster_pool"
    house = House.build(tmp_path, url=database_url)
    with house.store:
        yield house


@pytest.fixture
def book(house: House) -> SqlPoolBook:
    return SqlPoolBook(house.store, "here")


def member(name: str, shape: str = SHAPE) -> Member:
    return Member(name, shape, "7", f"uid-{name}", "10.0.0.7", "closed: no answer")


async def ready(book: SqlPoolBook, *names: str) -> None:
    for name in names:
        assert await book.reserve(name, SHAPE, Bounds(least=100, most=100))
        await book.enter(member(name))


async def claim(book: SqlPoolBook, sandbox: str, shape: str = SHAPE) -> Member | None:
    return await book.claim(shape, SandboxId(sandbox), run="r1")


async def test_an_empty_pool_another_shape_or_installation_gives_nothing(house: House, book: SqlPoolBook) -> None:
    assert await claim(book, "r1-1") is None
    assert await book.reserve("rf-p-1", SHAPE, BOUNDS)
    assert await claim(book, "r1-1") is None
    await book.enter(member("rf-p-1"))
    assert await claim(book, "r1-1", shape="other") is None
    assert await claim(SqlPoolBook(house.store, "elsewhere"), "r1-1") is None


async def test_of_many_at_once_as_many_win_as_there_are_members_each_with_an_entry(
    house: House, book: SqlPoolBook
) -> None:
    await ready(book, "rf-p-1", "rf-p-2", "rf-p-3")
    claims = await asyncio.gather(*(claim(book, f"r1-{number}") for number in range(20)))
    won = [found for found in claims if found is not None]
    assert sorted(found.namespace for found in won) == ["rf-p-1", "rf-p-2", "rf-p-3"]
    entries = await house.store.read(lambda connection: list(story(connection, RunId("r1"))))
    assert sorted(str(entry.data["namespace"]) for entry in entries) == ["rf-p-1", "rf-p-2", "rf-p-3"]


async def test_no_more_are_made_than_are_wanted_however_many_processes_fill(book: SqlPoolBook) -> None:
    reserved = await asyncio.gather(*(book.reserve(f"rf-p-{number}", SHAPE, BOUNDS) for number in range(10)))
    assert sum(reserved) == BOUNDS.least


async def test_size_follows_demand_up_to_its_bound_and_back(house: House, book: SqlPoolBook) -> None:
    for number in range(9):
        await claim(book, f"r{number}-1")
    reserved = [await book.reserve(f"rf-p-{number}", SHAPE, BOUNDS) for number in range(6)]
    assert sum(reserved) == BOUNDS.most
    for number in range(4):
        await book.enter(member(f"rf-p-{number}"))
    assert await book.retire(SHAPE, BOUNDS) is None
    house.clock.pass_s(BOUNDS.window_s + 1)
    retired = [await book.retire(SHAPE, BOUNDS) for _ in range(4)]
    assert [name is not None for name in retired] == [True, True, False, False]


async def test_an_old_member_is_retired_and_never_claimed(house: House, book: SqlPoolBook) -> None:
    await ready(book, "rf-p-1")
    house.clock.pass_s(BOUNDS.max_age_s + 1)
    assert await SqlPoolBook(house.store, "elsewhere").expire(BOUNDS) is None
    assert await book.expire(BOUNDS) == "rf-p-1"
    assert await claim(book, "r1-1") is None
    assert await book.expire(BOUNDS) is None


class Removing:
    """Takes the word for the deed."""

    cold_starts = 0

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def prepare(self, spec: SandboxSpec, namespace: str) -> Member:
        raise AssertionError("nothing is wanted")

    async def remove(self, namespace: str) -> None:
        self.removed.append(namespace)


async def test_members_of_a_shape_that_nobody_asks_for_any_more_go_when_they_are_old(
    house: House, book: SqlPoolBook
) -> None:
    await ready(book, "rf-p-1", "rf-p-2")
    builder = Removing()
    settings = ClusterSettings(image="images.example.org/team:1", inside_image="images.example.org/inside:1")
    async with ClusterApi(kubernetes_client.ApiClient(kubernetes_client.Configuration())) as api:
        pool = Pool(api, settings, book, bounds=BOUNDS, builder=builder)
        await pool.trim()
        assert builder.removed == []
        house.clock.pass_s(BOUNDS.max_age_s + 1)
        await pool.trim()
    assert sorted(builder.removed) == ["rf-p-1", "rf-p-2"]
    assert await book.known() == frozenset()


async def test_what_was_never_finished_is_found_and_forgotten(house: House, book: SqlPoolBook) -> None:
    await ready(book, "rf-p-1")
    await book.reserve("rf-p-2", SHAPE, BOUNDS)
    assert await book.cut_off(older_than_s=300) == frozenset()
    house.clock.pass_s(301)
    assert await book.cut_off(older_than_s=300) == {"rf-p-2"}
    await book.forget("rf-p-2")
    assert await book.known() == {"rf-p-1"}

"""Questions to the log through the server: the index only says where to look, and every answer is the log's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ringfence.api import evidence, log_index
from ringfence.api.app import create_app
from ringfence.api.log_index import LogIndex
from ringfence.auth import people
from ringfence.auth.identity import Membership
from ringfence.auth.roles import Role
from ringfence.searching import open_index
from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.query import Filter, count, matching
from tests.integration.api.world import World, copied, house_at, store_at

QUESTIONS: tuple[dict[str, str], ...] = (
    {"kind": "run.opened"},
    {"kind": "escalation.*"},
    {"tool": "shell"},
    {"host": "*.org"},
    {"refused": "true"},
    {"person": "person:ana"},
    {"words": "half cent"},
    {"kind": "run.opened", "person": "person:dana"},
    {"run": "nothere"},
)


@contextmanager
def ask_of(world: World) -> Iterator[LogIndex]:
    """The index of this world; nobody builds it."""
    found = LogIndex(world.house.settings, world.store)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
async def indexed(seeded: Path, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose index holds the whole log."""
    folder = copied(seeded, tmp_path / "home")
    with store_at(folder) as store:
        house = house_at(folder, store)
        with open_index(house.settings, store) as index:
            store.read_now(index.catch_up)
        with ask_of(World(store, house, httpx.ASGITransport(create_app(house)))) as asking:
            house = replace(house, index=asking)
            yield World(store, house, httpx.ASGITransport(create_app(house), raise_app_exceptions=False))


async def walked(client: httpx.AsyncClient, asked: dict[str, str], *, limit: int = 7) -> tuple[list[int], int]:
    """Positions of the whole answer, and in how many pages it came."""
    found: list[int] = []
    pages, after = 0, ""
    while True:
        given = {**asked, "limit": str(limit), **({"after": after} if after else {})}
        answer = (await client.get("/api/v1/entries", params=given)).json()
        found += [one["position"] for one in answer["items"]]
        pages += 1
        if answer["next"] is None:
            return found, pages
        after = answer["next"]


async def truth(world: World, asked: dict[str, str]) -> list[int]:
    """The same answer, entry by entry, newest first."""
    wanted = Filter(**{**asked, "refused": "refused" in asked})  # type: ignore[arg-type]  # words, and one flag
    return await world.store.read(lambda c: [entry.position for entry in matching(c, wanted)])


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that looks through little, so that a small log is long."""
    monkeypatch.setattr(evidence, "LOOKED_THROUGH", 30)
    monkeypatch.setattr(evidence, "_CHUNK", 10)


async def test_without_an_index_a_page_looks_through_a_bounded_part_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch)
    iris = await world.person("iris")
    page = (await iris.get("/audit?kind=run.opened")).text
    assert "Looked through down to entry" in page
    assert "No entry is like that" not in page
    for asked in QUESTIONS:
        wanted = await truth(world, asked)
        found, pages = await walked(iris, asked)
        assert found[-len(wanted) :] == wanted if wanted else found == []
        assert pages > 1


@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
async def test_with_the_index_each_question_has_the_logs_own_answer(
    indexed: World, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch)
    wanted = await truth(indexed, asked)
    iris = await indexed.person("iris")
    size = await indexed.store.read(count)
    found, pages = await walked(iris, asked)
    # The question itself has become an entry, which may answer it.
    assert [position for position in found if position < size] == wanted
    assert pages <= len(wanted) // 7 + 2


async def test_what_came_after_the_index_is_in_the_answer(indexed: World) -> None:
    event = Event(Kind.GAP, "system:test", {"what": "just now"})
    await indexed.store.write(lambda tx: tx.record(event))
    items = (await (await indexed.person("iris")).get("/api/v1/entries?kind=audit.gap")).json()["items"]
    assert [one["data"]["what"] for one in items] == ["just now"]


async def test_a_pattern_for_very_many_words_is_answered_all_the_same(
    indexed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringfence_audit.search._MOST_WORDS", 1)
    iris = await indexed.person("iris")
    asked = {"kind": "escalation.*"}
    wanted = await truth(indexed, asked)
    assert wanted
    assert (await walked(iris, asked))[0] == wanted


async def test_an_index_that_is_damaged_costs_time_and_no_answer(indexed: World) -> None:
    indexed.house.settings.index_file.write_bytes(b"this is no index" * 1000)
    found, _ = await walked(await indexed.person("iris"), {"kind": "run.opened"})
    assert found == await truth(indexed, {"kind": "run.opened"})


async def test_an_auditor_of_one_team_finds_that_teams_entries_alone(indexed: World) -> None:
    def make(tx: Transaction) -> None:
        people.create_person(tx, "nora", by="system:test")
        people.set_places(tx, "nora", by="system:test", roles=[Membership("shop", Role.AUDITOR)], groups=[])

    await indexed.store.write(make)
    nora = await indexed.person("nora")
    mine = {one["id"] for one in (await nora.get("/api/v1/tasks?limit=200")).json()["items"]}
    found, _ = await walked(nora, {"kind": "escalation.*"})
    items = (await nora.get("/api/v1/entries", params={"kind": "escalation.*", "limit": 200})).json()["items"]
    assert found
    assert {one["run"] for one in items} <= mine


async def test_the_index_is_built_beside_the_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_index, "CHUNK", 50)
    monkeypatch.setattr(log_index, "LOOK_S", 0.01)
    size = await world.store.read(count)
    with ask_of(world) as asking:
        building = asyncio.create_task(asking.run())
        async with asyncio.timeout(20):
            while await asking.read(lambda _, index: -1 if index is None else index.next) < size:  # noqa: ASYNC110 a file
                await asyncio.sleep(0.01)
        building.cancel()
        await asyncio.gather(building, return_exceptions=True)

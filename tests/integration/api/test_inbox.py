"""The inbox at any length: every card that a person may decide is in it once, whatever stands before it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlalchemy import insert, select

from ringfence.api.waiting import inbox_page
from ringfence.auth import people
from ringfence.auth.identity import GroupPlace, Identity, Membership
from ringfence.auth.roles import EVERY_TEAM, Permission, Role
from ringfence.voting import is_for
from ringfence_agents.schema import runs
from ringfence_audit.port import Transaction
from ringfence_tools import escalations
from ringfence_tools.clock import micros
from ringfence_tools.schema import asked_groups
from ringfence_tools.schema import escalations as cards
from tests.integration.api.world import HARMLESS, HIDING, World

FAR_US = 1_000 * 3_600_000_000


async def add(world: World, count: int, *, like: int, groups: tuple[str, ...], **own: object) -> None:
    """More open cards of the same run, each on a matter of its own, that expire after those of the data set."""

    def work(tx: Transaction) -> None:
        row: dict[str, Any] = dict(tx.connection.execute(select(cards).where(cards.c.id == like)).mappings().one())
        del row["id"]
        terms = json.dumps({**json.loads(row["terms"]), "any_of": list(groups), "all_of": []})
        for n in range(count):
            values = {"matter": f"matter {like} {groups} {n}", "expires_at": micros(tx.now) + FAR_US + n, **own}
            made = tx.connection.execute(insert(cards).values({**row, "terms": terms, **values}).returning(cards.c.id))
            number = made.scalar_one()
            for name in groups:
                tx.connection.execute(insert(asked_groups).values(escalation=number, name=name))

    await world.store.write(work)


async def every_number(world: World, who: str, *, scope: str = "mine") -> list[int]:
    """The inbox as a program walks it."""
    program = await world.program(who)
    found: list[int] = []
    after: str | None = ""
    while after is not None:
        path = f"/api/v1/inbox?scope={scope}&limit=7" + (f"&after={after}" if after else "")
        answer = (await program.get(path)).json()
        assert len(answer["items"]) <= 7
        found += [one["id"] for one in answer["items"]]
        after = answer["next"]
    return found


async def test_a_cursor_of_another_team_names_no_card(world: World) -> None:
    dana = await world.program("dana")
    answer = await dana.get(f"/api/v1/inbox?after={HARMLESS}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    page = await (await world.person("dana")).get(f"/inbox?after={HARMLESS}")
    assert page.status_code == 404


async def test_a_card_of_ones_own_stands_in_the_inbox_however_many_others_wait_before_it(world: World) -> None:
    """600 cards that expire sooner are for a group that Dana is not in."""
    await add(world, 600, like=6, groups=("others",), expires_at=2**52, rank=0)
    await add(world, 3, like=6, groups=("team-lead",), expires_at=2**52 + 1)
    walked = await every_number(world, "dana")
    assert len(walked) == len(set(walked))
    newest = max(walked)
    page = (await (await world.person("dana")).get("/inbox")).text
    assert f'id="slip-{newest}"' in page
    assert "others" not in page


async def test_pages_hold_every_card_once_those_with_findings_first(world: World) -> None:
    await add(world, 30, like=HARMLESS, groups=("team-lead",))
    await add(world, 30, like=HIDING, groups=("team-lead",))
    walked = await every_number(world, "ben", scope="all")
    ranks = await world.store.read(
        lambda c: {row.id: (row.rank, row.expires_at) for row in c.execute(select(cards)).all()}
    )
    assert len(walked) == len(set(walked)) > 60
    assert [ranks[number] for number in walked] == sorted(ranks[number] for number in walked)
    ben = await world.person("ben")
    path, seen = "/inbox?scope=all", []
    while path:
        page = (await ben.get(path)).text
        seen += [int(number) for number in re.findall(r'id="slip-(\d+)"', page)]
        more = re.search(r'href="([^"]+)">More cards', page)
        path = more[1].replace("&amp;", "&") if more else ""
    assert seen == walked


async def test_cards_alike_are_counted_over_all_pages(world: World) -> None:
    await add(world, 120, like=HARMLESS, groups=("team-lead",), matter="the same")
    page = (await (await world.person("ben")).get("/inbox")).text
    assert "×120 alike" in page


async def test_the_data_sets_cards_say_the_team_of_their_run(world: World) -> None:
    query = select(cards.c.team, runs.c.team.label("held")).join(runs, runs.c.id == cards.c.run)
    rows = await world.store.read(lambda c: c.execute(query).all())
    assert rows
    assert all(row.team == row.held for row in rows)


GROUPS = ("team-lead", "security")


@pytest.mark.parametrize("role", [Role.MEMBER, Role.REVIEWER, Role.AUDITOR])
@pytest.mark.parametrize("team", ["billing", EVERY_TEAM])
@pytest.mark.parametrize("place", [None, GroupPlace("billing", "team-lead"), GroupPlace(EVERY_TEAM, "security")])
@pytest.mark.parametrize("is_own", [False, True])
async def test_the_list_agrees_with_what_a_vote_is_asked(
    world: World, role: Role, team: str, place: GroupPlace | None, is_own: bool
) -> None:
    """The condition in SQL chooses exactly the cards that the rule in code names."""

    def make(tx: Transaction) -> None:
        people.create_person(tx, "nora", by="system:test")
        held = [] if place is None else [place]
        people.set_places(tx, "nora", by="system:test", roles=[Membership(team, role)], groups=held)

    await world.store.write(make)
    requester = "nora" if is_own else "someone"
    terms = json.loads((await row_of(world, HARMLESS))["terms"])
    for groups in ((), ("team-lead",), ("security",), GROUPS):
        for four_eyes in (0, 1):
            said = json.dumps({**terms, "any_of": list(groups), "all_of": [], "four_eyes": bool(four_eyes)})
            own = {"requester": requester, "four_eyes": four_eyes, "terms": said}
            await add(world, 1, like=HARMLESS, groups=groups, matter=f"m{groups}{four_eyes}", **own)
    await add(world, 1, like=9, groups=("team-lead",), requester=requester, matter="a question")

    def both(connection: Any) -> tuple[set[int], set[int]]:  # Any: the store's connection
        identity = people.identity_of(connection, "nora", how="test")
        assert identity is not None
        now_us = world.house.now_us()
        listed = {int(one.escalation.id) for one in inbox_page(connection, identity, now_us, is_mine=True, limit=200)}
        return listed, _ruled(connection, identity, now_us)

    listed, ruled = await world.store.read(both)
    assert listed == ruled


def _ruled(connection: Any, identity: Identity, now_us: int) -> set[int]:  # Any: the store's connection
    teams = {row.id: row.team for row in connection.execute(select(runs.c.id, runs.c.team))}
    found = set()
    for one in escalations.open_ones(connection, now_us):
        team = teams[one.key.run]
        may = identity.may(Permission.DECIDE, team) or one.requester == identity.name
        if identity.may(Permission.READ, team) and may and is_for(one, identity.person_in(team)):
            found.add(int(one.id))
    return found


async def row_of(world: World, number: int) -> dict[str, Any]:  # Any: a row of the table
    query = select(cards).where(cards.c.id == number)
    return await world.store.read(lambda c: dict(c.execute(query).mappings().one()))

"""People and tokens in lists of any length: each is on one page, and what is over is not among what still opens."""

from __future__ import annotations

import re

from ringfence.auth import people, tokens
from ringfence.auth.identity import GroupPlace, Membership
from ringfence.auth.roles import Permission, Role
from ringfence_audit.port import Transaction
from tests.integration.api.world import World


async def walked(world: World, who: str, path: str, link: str, wanted: str) -> list[str]:
    client, found, at = await world.person(who), [], path
    while at:
        page = (await client.get(at)).text
        found += re.findall(wanted, page)
        more = re.search(rf'href="([^"]+)">{link}', page)
        at = more[1] if more else ""
    return found


async def test_revoked_tokens_are_not_among_those_that_open_something(world: World) -> None:
    def make(tx: Transaction) -> set[str]:
        made = [
            tokens.create(tx, "ben", by="person:ben", scopes=[Permission.READ], label=f"t{n}", days=30)
            for n in range(120)
        ]
        for one in made[::2]:
            tokens.revoke(tx, str(one).split("_")[1], by="person:ben")
        return {str(one).split("_")[1] for one in made[1::2]}

    live = await world.store.write(make)
    found = await walked(world, "ben", "/me", "More tokens", r'class="mono">rf_([^_]+)_')
    assert len(found) == len(set(found))
    assert set(found) == live


async def test_every_person_is_on_one_page_with_their_own_places(world: World) -> None:
    def make(tx: Transaction) -> None:
        for n in range(120):
            people.create_person(tx, f"p{n:03}", by="system:test")
            team = ("billing", "shop")[n % 2]
            places = [GroupPlace(team, f"group-{n}")]
            people.set_places(tx, f"p{n:03}", by="system:test", roles=[Membership(team, Role.MEMBER)], groups=places)

    await world.store.write(make)
    found = await walked(world, "eve", "/people", "More people", r'<tr><td><a href="/people/([^"]+)">')
    assert len(found) == len(set(found))
    assert {f"p{n:03}" for n in range(120)} <= set(found)
    listed = await world.store.read(lambda c: people.list_people(c, after="p0", limit=120))
    for one in listed:
        assert one == await world.store.read(lambda c, one=one: people.person_record(c, one.name))  # type: ignore[misc]  # bound now
        assert [place.name for place in one.groups] == [f"group-{int(one.name[1:])}"]

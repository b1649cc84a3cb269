"""People, teams and service accounts, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection

from ringfence.api.access import Caller, HouseHere, require
from ringfence.api.forms.people import Invitation, NewPerson, NewTeam, PersonOut, Places, TeamOut
from ringfence.api.forms.shape import Done, Limit, NamePath, PageOf, json_of, page
from ringfence.api.house import House
from ringfence.api.once import KeyHere
from ringfence.api.problems import documented
from ringfence.auth import people
from ringfence.auth.identity import GroupPlace, Identity, Membership
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction

router = APIRouter(tags=["people"])
After = Annotated[str, Query(max_length=63, description="The last name of the page before")]


@router.get("/teams", responses=documented())
async def list_teams(house: HouseHere, identity: Caller, after: After = "", limit: Limit = 50) -> PageOf[TeamOut]:
    """The teams that the caller may see."""
    reach = identity.reach(Permission.READ)
    found = await house.store.read(lambda c: people.list_teams(c, reach=reach, after=after, limit=limit))
    return page([TeamOut.model_validate(team) for team in found], limit, found[-1].name if found else None)


@router.post("/teams", status_code=201, responses=documented(403, 404, 409))
async def create_team(request: Request, house: HouseHere, identity: Caller, key: KeyHere, given: NewTeam) -> Done:
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)

    def make(tx: Transaction) -> dict[str, JsonValue]:
        people.create_team(tx, given.name, by=identity.principal, title=given.title)
        return json_of(Done())

    await house.store.write(lambda tx: key.once(tx, identity, make))
    return Done()


@router.get("/people", responses=documented(403, 404))
async def list_people(
    request: Request, house: HouseHere, identity: Caller, after: After = "", limit: Limit = 50
) -> PageOf[PersonOut]:
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)
    found = await house.store.read(lambda c: people.list_people(c, after=after, limit=limit))
    return page([PersonOut.of(person) for person in found], limit, found[-1].name if found else None)


@router.post("/people", status_code=201, responses=documented(403, 404, 409))
async def create_person(
    request: Request, house: HouseHere, identity: Caller, key: KeyHere, given: NewPerson
) -> PersonOut:
    """An account, a person's or a service's. It holds nothing until it is given places, and a person an invitation."""
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)

    def make(tx: Transaction) -> dict[str, JsonValue]:
        people.create_person(
            tx, given.name, by=identity.principal, display=given.display, email=given.email, kind=given.kind
        )
        return json_of(_person(tx.connection, given.name))

    return PersonOut.model_validate(await house.store.write(lambda tx: key.once(tx, identity, make)))


@router.get("/people/{name}", responses=documented(403, 404))
async def show_person(request: Request, house: HouseHere, identity: Caller, name: NamePath) -> PersonOut:
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)
    return await house.store.read(lambda connection: _person(connection, name))


@router.put("/people/{name}/places", responses=documented(403, 404, 409))
async def set_places(request: Request, house: HouseHere, identity: Caller, name: NamePath, given: Places) -> PersonOut:
    """Replace the roles and groups that a person holds here; those from a provider stay."""
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)
    roles = [Membership(place.team, place.role) for place in given.roles]
    groups = [GroupPlace(group.team, group.name) for group in given.groups]

    def place(tx: Transaction) -> PersonOut:
        people.set_places(tx, name, by=identity.principal, roles=roles, groups=groups)
        return _person(tx.connection, name)

    return await house.store.write(place)


@router.post("/people/{name}/invitation", status_code=201, responses=documented(403, 404, 409))
async def invite(request: Request, house: HouseHere, identity: Caller, name: NamePath) -> Invitation:
    """A one-time link with which the person chooses a password and a second factor; older links end."""
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)
    return Invitation(url=await invitation(house, identity, name))


@router.post("/people/{name}/disable", responses=documented(403, 404, 409))
async def disable(request: Request, house: HouseHere, identity: Caller, name: NamePath) -> Done:
    """The account can do nothing any more: its sessions and tokens end at once."""
    await require(request, identity, Permission.MANAGE, EVERY_TEAM)
    await house.store.write(lambda tx: people.disable_person(tx, name, by=identity.principal))
    return Done()


async def invitation(house: House, identity: Identity, name: str) -> str:
    secret = await house.store.write(lambda tx: people.invite(tx, name, by=identity.principal, seal=house.seal))
    return f"{house.origin.text}/welcome/{secret}"


def _person(connection: Connection, name: str) -> PersonOut:
    return PersonOut.of(people.person_record(connection, name))

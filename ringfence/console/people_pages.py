"""People for admins, and one's own account: roles, tokens, log-out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection
from starlette.responses import Response

from ringfence.api.access import HouseHere, require
from ringfence.api.house import House
from ringfence.api.problems import DOMAIN, Unseen, problem_of
from ringfence.api.routes.people import invitation
from ringfence.auth import people, tokens
from ringfence.auth.errors import AuthError
from ringfence.auth.identity import GroupPlace, Identity, Membership
from ringfence.auth.roles import EVERY_TEAM, MEANINGS, Permission, Role
from ringfence.console.visiting import Visitor, see, views_of
from ringfence_audit.port import Transaction

router = APIRouter()
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
PersonName = Annotated[str, Path(pattern=NAME)]
SHOWN = 50
TEAMS_SHOWN = 500
After = Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$")]


@router.get("/people")
async def list_people(request: Request, house: HouseHere, visitor: Visitor, after: After = "") -> HTMLResponse:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    return await _people_page(request, house, visitor, after=after)


@router.post("/people")
async def create(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    name: Annotated[str, Form(max_length=63)] = "",
    display: Annotated[str, Form(max_length=200)] = "",
    email: Annotated[str, Form(max_length=320)] = "",
    kind: Annotated[str, Form(pattern="^(person|service)$")] = "person",
) -> Response:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    try:
        await house.store.write(
            lambda tx: people.create_person(
                tx,
                name,
                by=visitor.principal,
                display=display,
                email=email,
                kind="service" if kind == "service" else "person",
            )
        )
    except AuthError as error:
        kept = {"name": name, "display": display, "email": email}
        return await _people_page(request, house, visitor, error=str(error), kept=kept)
    return see(f"/people/{name}")


@router.post("/teams")
async def create_team(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    team: Annotated[str, Form(max_length=63)] = "",
    title: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    try:
        await house.store.write(lambda tx: people.create_team(tx, team, by=visitor.principal, title=title))
    except AuthError as error:
        return await _people_page(request, house, visitor, error=str(error), kept={"team": team})
    return see("/people")


@router.get("/people/{name}")
async def show(request: Request, house: HouseHere, visitor: Visitor, name: PersonName) -> HTMLResponse:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    return await _person_page(request, house, visitor, name)


@router.post("/people/{name}/places")
async def set_places(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    name: PersonName,
    roles: Annotated[str, Form(max_length=8000)] = "",
    groups: Annotated[str, Form(max_length=8000)] = "",
) -> Response:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    try:
        held = [_role(word) for word in roles.split()]
        places = [_group(word) for word in groups.split()]
        await house.store.write(lambda tx: people.set_places(tx, name, by=visitor.principal, roles=held, groups=places))
    except AuthError as error:
        kept = {"roles": roles, "groups": groups}
        return await _person_page(request, house, visitor, name, error=str(error), kept=kept)
    return see(f"/people/{name}")


@router.post("/people/{name}/invite")
async def invite(request: Request, house: HouseHere, visitor: Visitor, name: PersonName) -> HTMLResponse:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    link = await invitation(house, visitor, name)
    return await _person_page(request, house, visitor, name, link=link)


@router.post("/people/{name}/disable")
async def disable(request: Request, house: HouseHere, visitor: Visitor, name: PersonName) -> Response:
    await require(request, visitor, Permission.MANAGE, EVERY_TEAM)
    await house.store.write(lambda tx: people.disable_person(tx, name, by=visitor.principal))
    return see(f"/people/{name}")


@router.get("/me")
async def me(request: Request, house: HouseHere, visitor: Visitor, after: After = "") -> HTMLResponse:
    return await _me_page(request, house, visitor, after=after)


@router.post("/me/tokens")
async def make_token(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    label: Annotated[str, Form(max_length=200)] = "",
    days: Annotated[int, Form(ge=1, le=366)] = 30,
    scopes: Annotated[list[Permission], Form()] = [],  # noqa: B006 FastAPI copies it
) -> HTMLResponse:
    def make(tx: Transaction) -> str:
        made = tokens.create(tx, visitor.name, by=visitor.principal, scopes=scopes, label=label, days=days)
        return str(made)

    try:
        text = await house.store.write(make)
    except AuthError as error:
        return await _me_page(request, house, visitor, error=str(error))
    return await _me_page(request, house, visitor, token=text)


@router.post("/me/tokens/{token}/revoke")
async def revoke_token(house: HouseHere, visitor: Visitor, token: str) -> Response:
    def revoke(tx: Transaction) -> None:
        found = tokens.get(tx.connection, token)
        if found is None or found.person != visitor.name:
            raise Unseen("token")
        tokens.revoke(tx, token, by=visitor.principal)

    await house.store.write(revoke)
    return see("/me")


async def _me_page(
    request: Request, house: House, visitor: Identity, *, token: str = "", error: str = "", after: str = ""
) -> HTMLResponse:
    found = await house.store.read(
        lambda c: tokens.list_tokens(c, person=visitor.name, live_at=house.now_us(), after=after, limit=SHOWN + 1)
    )
    held = sorted({permission for each in visitor.memberships for permission in visitor.permissions_in(each.team)})
    values = {
        "token": token,
        "error": error,
        "held": held,
        "meanings": MEANINGS,
        "live": found[:SHOWN],
        "after": after,
        "more": found[SHOWN - 1].id if len(found) > SHOWN else "",
    }
    return views_of(request).page(request, "me.html", values, identity=visitor, status=409 if error else 200)


async def _people_page(
    request: Request,
    house: House,
    visitor: Identity,
    *,
    error: str = "",
    kept: dict[str, str] | None = None,
    after: str = "",
) -> HTMLResponse:
    def look(connection: Connection) -> dict[str, object]:
        found = people.list_people(connection, after=after, limit=SHOWN + 1)
        return {
            "people": found[:SHOWN],
            "after": after,
            "more": found[SHOWN - 1].name if len(found) > SHOWN else "",
            "teams": people.list_teams(connection, limit=TEAMS_SHOWN),
        }

    values = {**await house.store.read(look), "error": error, "kept": kept or {}}
    return views_of(request).page(request, "people.html", values, identity=visitor, status=409 if error else 200)


async def _person_page(
    request: Request,
    house: House,
    visitor: Identity,
    name: str,
    *,
    error: str = "",
    link: str = "",
    kept: dict[str, str] | None = None,
) -> HTMLResponse:
    try:
        person = await house.store.read(lambda c: people.person_record(c, name))
    except DOMAIN as unknown:
        if problem_of(unknown).status == 404:
            raise Unseen("person") from unknown
        raise
    values = {"person": person, "error": error, "link": link, "kept": kept or {}, "roles": list(Role)}
    return views_of(request).page(request, "person.html", values, identity=visitor, status=409 if error else 200)


def _role(word: str) -> Membership:
    team, _, role = word.partition(":")
    if role not in set(Role):
        raise AuthError(f"{word[:60]!r} is no role", fix=f"Write TEAM:ROLE, with a role of {', '.join(Role)}")
    return Membership(team, Role(role))


def _group(word: str) -> GroupPlace:
    team, _, name = word.partition(":")
    if not name:
        raise AuthError(f"{word[:60]!r} is no group", fix="Write TEAM:GROUP, or *:GROUP for every team")
    return GroupPlace(team, name)

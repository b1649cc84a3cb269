"""Profiles: what an agent may do, in plain words, its published versions, and what would become of a call."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import Connection

from ringfence.api import catalogue
from ringfence.api.access import Caller, HouseHere, require_anywhere
from ringfence.api.forms.profiles import (
    ChangesOut,
    DraftOut,
    LiveRunOut,
    NewVersion,
    ProfileChangeOut,
    ProfileDraft,
    ProfileLine,
    ProfileOut,
    Published,
    TryAnswer,
    TryCall,
    UseOut,
    UsesOut,
    VersionOut,
)
from ringfence.api.forms.shape import Limit, PageOf, json_of, page
from ringfence.api.once import KeyHere
from ringfence.api.problems import documented
from ringfence.api.publishing import looked_at
from ringfence.auth.roles import Permission
from ringfence.profile_uses import Uses, uses_of
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_tools.profile_changes import Change
from ringfence_tools.profile_versions import Version, publish

router = APIRouter(tags=["profiles"])
ProfilePath = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
NumberPath = Annotated[int, Path(ge=1, le=1_000_000, description="A version's number")]
NumberQuery = Annotated[int | None, Query(ge=1, le=1_000_000)]
OtherQuery = Annotated[
    str | None, Query(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Another profile; without it, this one")
]


@router.get("/profiles", responses=documented(403))
async def list_profiles(request: Request, house: HouseHere, identity: Caller) -> PageOf[ProfileLine]:
    """Every profile that a task of the caller's teams can name."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)
    found = await house.store.read(lambda c: house.catalogue.listed(c, house.settings, reach))
    return PageOf[ProfileLine](items=[ProfileLine.of(one) for one in found], next=None)


@router.post("/profiles", status_code=201, responses=documented(403, 404, 409))
async def publish_profile(
    request: Request, response: Response, house: HouseHere, identity: Caller, key: KeyHere, given: NewVersion
) -> Published:
    """Publish a version of a profile, for good. Its tests are run first. What was published already is answered 200."""
    await require_anywhere(request, identity, Permission.PUBLISH)
    before = await house.store.write(lambda tx: key.answered(tx, identity))
    if before is not None:
        return Published.model_validate(before)
    draft = await looked_at(request, house, identity, given.text)

    def work(tx: Transaction) -> dict[str, JsonValue]:
        made = publish(tx, draft, by=identity.principal, reason=given.reason, since=given.since)
        return json_of(Published.of(made))

    found = Published.model_validate(await house.store.write(lambda tx: key.once(tx, identity, work)))
    response.status_code = 201 if found.is_new else 200
    return found


@router.post("/profiles/check", responses=documented(403, 404, 409))
async def check_profile(request: Request, house: HouseHere, identity: Caller, given: ProfileDraft) -> DraftOut:
    """What publishing this text would do: its tests, and what it would allow more or less. Nothing is kept."""
    return DraftOut.of(await looked_at(request, house, identity, given.text))


@router.get("/profiles/{name}", responses=documented(403, 404, 409))
async def show_profile(request: Request, house: HouseHere, identity: Caller, name: ProfilePath) -> ProfileOut:
    """What it allows, asks and forbids, in plain words and as it counts for a run that begins now."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)
    return ProfileOut.of(name, await house.store.read(lambda c: house.catalogue.shown(c, house.settings, reach, name)))


@router.get("/profiles/{name}/versions", responses=documented(403, 404))
async def list_versions(
    request: Request,
    house: HouseHere,
    identity: Caller,
    name: ProfilePath,
    after: Annotated[int | None, Query(ge=1, le=1_000_000, description="The last number of the page before")] = None,
    limit: Limit = 50,
) -> PageOf[VersionOut]:
    """What was published under the name, newest first."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)

    def look(connection: Connection) -> tuple[Version, ...]:
        house.catalogue.seen(connection, house.settings, reach, name)
        return catalogue.seen_versions(connection, reach, name, below=after, limit=limit)

    found = await house.store.read(look)
    return page([VersionOut.of(one) for one in found], limit, str(found[-1].number) if found else None)


@router.get("/profiles/{name}/versions/{number}", responses=documented(403, 404, 409))
async def show_version(
    request: Request, house: HouseHere, identity: Caller, name: ProfilePath, number: NumberPath
) -> ProfileOut:
    """One published version as it counts for the runs that began with it."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)
    return ProfileOut.of(
        name, await house.store.read(lambda c: house.catalogue.shown(c, house.settings, reach, name, number))
    )


@router.get("/profiles/{name}/changes", responses=documented(403, 404, 409))
async def list_changes(
    request: Request,
    house: HouseHere,
    identity: Caller,
    name: ProfilePath,
    version: NumberQuery = None,
    other: OtherQuery = None,
    since: Annotated[int | None, Query(ge=1, le=1_000_000, description="The version compared with")] = None,
) -> ChangesOut:
    """What this profile allows more or less than another, or than an earlier version of its own, in plain words."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)

    def look(connection: Connection) -> tuple[Change, ...]:
        before = house.catalogue.shown(connection, house.settings, reach, other or name, since)
        after = house.catalogue.shown(connection, house.settings, reach, name, version)
        return catalogue.compared(before, after)

    return ChangesOut(changes=[ProfileChangeOut.of(one) for one in await house.store.read(look)])


@router.get("/profiles/{name}/uses", responses=documented(403, 404))
async def list_uses(request: Request, house: HouseHere, identity: Caller, name: ProfilePath) -> UsesOut:
    """Live runs of the caller's teams, by the version that each was begun with and keeps."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)

    def look(connection: Connection) -> Uses:
        house.catalogue.seen(connection, house.settings, reach, name)
        return uses_of(connection, reach, name)

    found = await house.store.read(look)
    return UsesOut(
        teams=[UseOut.model_validate(one) for one in found.teams],
        newest=[LiveRunOut.model_validate(one) for one in found.newest],
    )


@router.post("/profiles/{name}/try", responses=documented(403, 404, 409))
async def try_call(
    request: Request, house: HouseHere, identity: Caller, name: ProfilePath, given: TryCall
) -> TryAnswer:
    """What would happen if an agent asked for this. Nothing is asked, run or recorded."""
    await require_anywhere(request, identity, Permission.READ)
    reach = identity.reach(Permission.READ)
    decided = await house.store.read(
        lambda c: catalogue.tried(house.catalogue.shown(c, house.settings, reach, name, given.version), given.call)
    )
    terms = decided.terms
    return TryAnswer(
        effect=decided.effect.value,
        rules=list(decided.rules),
        reason=decided.reason,
        instead=decided.instead,
        any_of=list(terms.any_of) if terms else [],
        all_of=list(terms.all_of) if terms else [],
    )

"""Profiles: what an agent may do, in plain words, and what would become of a call."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request

from ringfence.api import catalogue
from ringfence.api.access import Caller, HouseHere, require_anywhere
from ringfence.api.forms.platform import ProfileLine, ProfileOut, TryAnswer, TryCall
from ringfence.api.forms.shape import PageOf
from ringfence.api.problems import documented
from ringfence.auth.roles import Permission

router = APIRouter(tags=["profiles"])
ProfilePath = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


@router.get("/profiles", responses=documented(403))
async def list_profiles(request: Request, house: HouseHere, identity: Caller) -> PageOf[ProfileLine]:
    """Every profile that a task can name."""
    await require_anywhere(request, identity, Permission.READ)
    found = await asyncio.to_thread(house.catalogue.listed, house.settings)
    items = [
        ProfileLine(
            name=one.name, place=one.place, version=one.version, description=one.description, problem=one.problem
        )
        for one in found
    ]
    return PageOf[ProfileLine](items=items, next=None)


@router.get("/profiles/{name}", responses=documented(403, 404, 409))
async def show_profile(request: Request, house: HouseHere, identity: Caller, name: ProfilePath) -> ProfileOut:
    """What it allows, asks and forbids, in plain words and as it counts."""
    await require_anywhere(request, identity, Permission.READ)
    found = await asyncio.to_thread(catalogue.shown, house.settings, name)
    return ProfileOut(
        name=name,
        version=found.profile.metadata.version,
        description=found.profile.description,
        policy_version=found.policy.version,
        words=list(found.words),
        document=found.document,
    )


@router.post("/profiles/{name}/try", responses=documented(403, 404, 409))
async def try_call(
    request: Request, house: HouseHere, identity: Caller, name: ProfilePath, given: TryCall
) -> TryAnswer:
    """What would happen if an agent asked for this. Nothing is asked, run or recorded."""
    await require_anywhere(request, identity, Permission.READ)
    decided = await asyncio.to_thread(catalogue.tried, house.settings, name, given.call)
    terms = decided.terms
    return TryAnswer(
        effect=decided.effect.value,
        rules=list(decided.rules),
        reason=decided.reason,
        instead=decided.instead,
        any_of=list(terms.any_of) if terms else [],
        all_of=list(terms.all_of) if terms else [],
    )

"""Profiles in plain words with a call to try; and what operators see, with the kill switch."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from ringfence.api import catalogue, operating
from ringfence.api.access import HouseHere, require, require_anywhere
from ringfence.api.problems import DOMAIN, problem_of
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence.console.visiting import Visitor, see, views_of

router = APIRouter()
ProfileName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


@router.get("/profiles")
async def profiles(request: Request, house: HouseHere, visitor: Visitor) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ)
    found = await asyncio.to_thread(house.catalogue.listed, house.settings)
    return views_of(request).page(request, "profiles.html", {"profiles": found}, identity=visitor)


@router.get("/profiles/{name}")
async def profile(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    name: ProfileName,
    call: Annotated[str, Query(max_length=8000)] = "",
    other: Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")] = "",
) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ)
    shown = await asyncio.to_thread(catalogue.shown, house.settings, name)
    decided, error = None, ""
    if call.strip():
        try:
            decided = await asyncio.to_thread(catalogue.tried, house.settings, name, call.strip())
        except DOMAIN as problem:
            error = problem_of(problem).detail
    lines = await asyncio.to_thread(catalogue.compared, house.settings, other, name) if other else None
    names = [one.name for one in await asyncio.to_thread(house.catalogue.listed, house.settings) if one.name != name]
    values = {
        "name": name,
        "shown": shown,
        "call": call,
        "decided": decided,
        "error": error,
        "other": other,
        "lines": lines,
        "names": names,
    }
    return views_of(request).page(request, "profile.html", values, identity=visitor)


@router.get("/operate")
async def operate(request: Request, house: HouseHere, visitor: Visitor, stopped: int | None = None) -> HTMLResponse:
    await require(request, visitor, Permission.OPERATE, EVERY_TEAM)
    found = await house.store.read(lambda c: operating.operations(c, house))
    values = {"found": found, "stopped": stopped, "error": ""}
    return views_of(request).page(request, "operate.html", values, identity=visitor)


@router.post("/operate/stop")
async def stop(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    reason: Annotated[str, Form(max_length=2000)] = "",
    team: Annotated[str, Form(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$")] = "",
) -> Response:
    await require(request, visitor, Permission.OPERATE, team or EVERY_TEAM)
    if not reason.strip():
        found = await house.store.read(lambda c: operating.operations(c, house))
        values = {"found": found, "stopped": None, "error": "A stop needs a reason: it goes into the log."}
        return views_of(request).page(request, "operate.html", values, identity=visitor, status=409)
    ended = await operating.stop_all(house, visitor, team=team or None, reason=reason)
    return see(f"/operate?stopped={len(ended)}")

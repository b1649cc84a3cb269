"""What operators see, with the kill switch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from ringfence.api import operating
from ringfence.api.access import HouseHere, require
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence.console.visiting import Visitor, see, views_of

router = APIRouter()


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

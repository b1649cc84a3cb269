"""Operators: sandboxes, and the kill switch with its reason."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ringfence.api import operating
from ringfence.api.access import Caller, HouseHere, require, require_anywhere
from ringfence.api.forms.platform import SandboxOut, StopGiven, Stopped
from ringfence.api.forms.shape import PageOf
from ringfence.api.problems import documented
from ringfence.auth.roles import EVERY_TEAM, Permission

router = APIRouter(tags=["operate"])


@router.get("/sandboxes", responses=documented(403))
async def list_sandboxes(request: Request, house: HouseHere, identity: Caller) -> PageOf[SandboxOut]:
    """Sandboxes that runs hold now."""
    await require_anywhere(request, identity, Permission.OPERATE)
    reach = identity.reach(Permission.OPERATE)
    found = await house.store.read(lambda c: operating.sandboxes(c, reach))
    items = [SandboxOut(id=one.id, run=one.run, team=one.team, state=one.state, worker=one.worker) for one in found]
    return PageOf[SandboxOut](items=items, next=None)


@router.post("/stop", responses=documented(403, 404))
async def stop(request: Request, house: HouseHere, identity: Caller, given: StopGiven) -> Stopped:
    """Cancel every run of a team, or every run, now. The reason goes into the log with each."""
    await require(request, identity, Permission.OPERATE, given.team or EVERY_TEAM)
    return Stopped(runs=await operating.stop_all(house, identity, team=given.team, reason=given.reason))

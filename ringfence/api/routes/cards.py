"""Escalations, votes and grants: what waits for people, and what they say."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from ringfence.api import reading
from ringfence.api.access import Caller, HouseHere, is_still, require
from ringfence.api.deciding import cast, may_cast
from ringfence.api.feed import Interest
from ringfence.api.forms.cards import CardOut, EscalationOut, GrantOut, NewVote, VoteOut
from ringfence.api.forms.shape import CardPath, Done, Limit, PageOf, json_of, page
from ringfence.api.house import House
from ringfence.api.once import KeyHere
from ringfence.api.problems import Unseen, documented
from ringfence.api.streams import EVENTS, LastEvent, stream
from ringfence.api.waiting import escalation_page, inbox_page
from ringfence.auth.identity import Identity
from ringfence.auth.roles import Permission
from ringfence.voting import is_as_shown
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_tools import escalations, grants
from ringfence_tools.calls import GrantId
from ringfence_tools.escalations import EscalationState

router = APIRouter(tags=["escalations"])
RunQuery = Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9]{0,23}$", description="Only this run's")]


@router.get("/inbox", responses=documented(404))
async def inbox(
    house: HouseHere,
    identity: Caller,
    scope: Literal["mine", "all"] = "mine",
    after: Annotated[int | None, Query(ge=1, le=2**53, description="The last card of the page before")] = None,
    limit: Limit = 50,
) -> PageOf[EscalationOut]:
    """What waits: cards with findings first, then what expires first. `mine`: what you may decide."""
    found = await house.store.read(
        lambda c: inbox_page(c, identity, house.now_us(), is_mine=scope == "mine", after=after, limit=limit)
    )
    last = str(found[-1].escalation.id) if found else None
    return page([EscalationOut.of(one) for one in found], limit, last)


@router.get("/inbox/events", response_class=StreamingResponse, responses={**documented(), **EVENTS})
async def inbox_events(
    request: Request, house: HouseHere, identity: Caller, last_event_id: LastEvent = None
) -> StreamingResponse:
    """Cards that open, get a vote or are settled, as they do. Resumes behind `Last-Event-ID`."""
    interest = Interest(identity.reach(Permission.READ))
    return stream(house.feed, interest, after=last_event_id, still_may=lambda: is_still(request, house, identity))


@router.get("/escalations", responses=documented())
async def list_escalations(
    house: HouseHere,
    identity: Caller,
    state: EscalationState | None = None,
    run: RunQuery = None,
    after: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    limit: Limit = 50,
) -> PageOf[EscalationOut]:
    """Newest first."""
    reach = identity.reach(Permission.READ)
    found = await house.store.read(lambda c: escalation_page(c, reach, state=state, run=run, after=after, limit=limit))
    last = str(found[-1].escalation.id) if found else None
    return page([EscalationOut.of(one) for one in found], limit, last)


@router.get("/escalations/{number}", responses=documented(404))
async def show(house: HouseHere, identity: Caller, number: CardPath) -> CardOut:
    """One card, its votes, and whether what it shows hashes to the digest that a vote carries."""
    return await house.store.read(lambda connection: _card(connection, house, identity, number))


@router.post("/escalations/{number}/votes", status_code=201, responses=documented(403, 404, 409))
async def vote(
    request: Request, house: HouseHere, identity: Caller, key: KeyHere, number: CardPath, given: NewVote
) -> CardOut:
    """Approve, deny, edit or answer. Two votes at once have one outcome; a vote that comes again is the same vote."""
    waiting = await house.store.read(lambda c: reading.seen_escalation(c, identity, number))
    await may_cast(request, identity, waiting, given)

    def work(tx: Transaction) -> dict[str, JsonValue]:
        cast(tx, house, identity, waiting, given)
        return json_of(_card(tx.connection, house, identity, number))

    return CardOut.model_validate(await house.store.write(lambda tx: key.once(tx, identity, work)))


@router.get("/grants", responses=documented())
async def list_grants(
    house: HouseHere,
    identity: Caller,
    run: RunQuery = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 50,
) -> PageOf[GrantOut]:
    """What approvals opened, ended ones too."""
    reach = identity.reach(Permission.READ)
    found = await house.store.read(lambda c: reading.grant_page(c, reach, run=run, after=after, limit=limit))
    return page([GrantOut.of(one, house) for one in found], limit, found[-1].grant.id if found else None)


@router.delete("/grants/{grant}", responses=documented(403, 404))
async def revoke(request: Request, house: HouseHere, identity: Caller, grant: str) -> Done:
    """Close a grant now, on every layer."""

    def look(connection: Connection) -> str:
        found = grants.by_ids(connection, (grant,))
        if not found:
            raise Unseen("grant")
        return reading.seen_run(connection, identity, found[0].run).team

    team = await house.store.read(look)
    await require(request, identity, Permission.REVOKE, team)
    await house.store.write(lambda tx: grants.revoke(tx, GrantId(grant), by=identity.principal))
    return Done()


def _card(connection: Connection, house: House, identity: Identity, number: int) -> CardOut:
    waiting = reading.seen_escalation(connection, identity, number)
    found = waiting.escalation
    return CardOut(
        escalation=EscalationOut.of(waiting),
        votes=[VoteOut.model_validate(one) for one in escalations.votes_of(connection, found.id)],
        is_as_shown=found.state is not EscalationState.OPEN or is_as_shown(connection, found, house.toolbox),
    )

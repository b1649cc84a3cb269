"""Audit: ask the log, see one entry with its bytes and a proof that is checked before it is shown, verify it all."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from ringfence.api.access import HouseHere, require, require_anywhere
from ringfence.api.evidence import entries_found, entry_with_proof
from ringfence.api.routes.log import record_query
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence.console.visiting import Visitor, see, views_of
from ringfence_audit.query import Filter

router = APIRouter()
FIELDS = ("words", "run", "person", "tool", "kind", "decision", "outcome", "rule", "host", "path", "call", "escalation")
SAVED: tuple[tuple[str, str], ...] = (
    ("Everything refused", "refused=true"),
    ("Votes", "kind=escalation.vote"),
    ("Grants given", "kind=grant.given"),
    ("What left", "kind=egress.*"),
    ("Log-ins and denials", "kind=person.login"),
    ("People on the log itself", "kind=audit.*"),
)
PAGE = 50


@router.get("/audit")
async def ask(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    after: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    refused: bool = False,
) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ_ENTRIES)
    given = {name: request.query_params.get(name, "").strip()[:400] for name in FIELDS}
    asked = Filter(**{name: text or None for name, text in given.items()}, refused=refused)  # type: ignore[arg-type]  # the text fields alone
    if any(given.values()) or refused:
        await record_query(house, visitor, asked)
    reach = visitor.reach(Permission.READ_ENTRIES)
    found = await entries_found(house, reach, asked, after=after, limit=PAGE)
    kept = {name: text for name, text in given.items() if text} | ({"refused": "true"} if refused else {})
    values = {
        "given": given,
        "refused": refused,
        "found": found,
        "saved": SAVED,
        "more": urlencode({**kept, "after": str(found.next)}) if found.next is not None else "",
        "may_verify": visitor.may(Permission.READ_ENTRIES, EVERY_TEAM),
        "is_asked": bool(kept),
    }
    return views_of(request).page(request, "audit.html", values, identity=visitor)


@router.get("/audit/{position}")
async def entry(
    request: Request, house: HouseHere, visitor: Visitor, position: Annotated[int, Path(ge=0, le=2**53)]
) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ_ENTRIES)
    found = await house.store.read(lambda c: entry_with_proof(c, visitor, position))
    values = {"found": found, "raw": found.view.raw.decode("utf-8", "backslashreplace")}
    return views_of(request).page(request, "entry.html", values, identity=visitor)


@router.post("/audit/verify")
async def verify(request: Request, house: HouseHere, visitor: Visitor) -> Response:
    await require(request, visitor, Permission.READ_ENTRIES, EVERY_TEAM)
    await house.verdicts.refresh()
    return see("/audit")

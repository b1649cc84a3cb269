"""Entries, proofs and the verdict on the log. Whoever asks is an entry too."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as PathParameter

from ringfence.api import reading
from ringfence.api.access import Caller, HouseHere, require, require_anywhere
from ringfence.api.evidence import Proved, entries_found, entry_with_proof
from ringfence.api.forms.log import EntryOut, ProofOut, VerdictOut
from ringfence.api.forms.shape import Limit, PageOf, RunPath
from ringfence.api.house import House
from ringfence.api.problems import documented
from ringfence.api.verdicts import LogVerdict
from ringfence.auth.identity import Identity
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence.exporting import export_answer
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.query import Filter

router = APIRouter(tags=["log"])
Word = Annotated[str | None, Query(max_length=400)]


def wanted(
    run: Word = None,
    call: Word = None,
    person: Word = None,
    tool: Word = None,
    kind: Word = None,
    decision: Word = None,
    outcome: Word = None,
    rule: Word = None,
    host: Word = None,
    path: Word = None,
    escalation: Word = None,
    grant: Word = None,
    words: Word = None,
    refused: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Filter:
    """Every field that is set must hold; `*` stands for anything."""
    return Filter(
        run=run,
        call=call,
        person=person,
        tool=tool,
        kind=kind,
        decision=decision,
        outcome=outcome,
        rule=rule,
        host=host,
        path=path,
        escalation=escalation,
        grant=grant,
        words=words,
        refused=refused,
        since=_aware(since),
        until=_aware(until),
    )


FilterHere = Annotated[Filter, Depends(wanted)]


@router.get("/entries", responses=documented(403))
async def list_entries(
    request: Request,
    house: HouseHere,
    identity: Caller,
    asked: FilterHere,
    after: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    limit: Limit = 50,
) -> PageOf[EntryOut]:
    """Newest first; the question becomes an entry. Pages may hold fewer than `limit`: go on while there is a `next`."""
    await require_anywhere(request, identity, Permission.READ_ENTRIES)
    await record_query(house, identity, asked)
    reach = identity.reach(Permission.READ_ENTRIES)
    found = await entries_found(house, reach, asked, after=after, limit=limit)
    following = None if found.next is None else str(found.next)
    return PageOf[EntryOut](items=[EntryOut.model_validate(entry) for entry in found.entries], next=following)


@router.get("/entries/{position}", responses=documented(403, 404))
async def show_entry(
    request: Request, house: HouseHere, identity: Caller, position: Annotated[int, PathParameter(ge=0, le=2**53)]
) -> ProofOut:
    """One entry with its exact bytes and its proof of inclusion, checked before it is answered."""
    await require_anywhere(request, identity, Permission.READ_ENTRIES)
    return _proof(await house.store.read(lambda c: entry_with_proof(c, identity, position)))


@router.get(
    "/runs/{run}/export",
    response_class=Response,
    responses={**documented(403, 404), 200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
async def export_run(request: Request, house: HouseHere, identity: Caller, run: RunPath) -> Response:
    """A run's whole story as evidence: each entry's exact bytes with its path to the signed checkpoint."""
    return await export_response(request, house, identity, run)


@router.get("/verification", responses=documented())
async def last_verdict(house: HouseHere, _: Caller) -> VerdictOut:
    """The verdict of the last verification of the whole log."""
    return verdict_out(house.verdicts.last)


@router.post("/verification", responses=documented(403))
async def verify_now(request: Request, house: HouseHere, identity: Caller) -> VerdictOut:
    """Verify the whole log now, and wait for the verdict."""
    await require(request, identity, Permission.READ_ENTRIES, EVERY_TEAM)
    return verdict_out(await house.verdicts.refresh())


async def export_response(request: Request, house: House, identity: Identity, run: str) -> Response:
    record = await house.store.read(lambda c: reading.seen_run(c, identity, run))
    await require(request, identity, Permission.EXPORT, record.team)
    with tempfile.TemporaryDirectory(prefix="ringfence-export-") as folder:
        out = Path(folder) / "evidence"
        # In a thread: it reads much, and waits for a checkpoint on a loop of its own.
        await asyncio.to_thread(export_answer, house.store, Filter(run=run), out, actor=identity.principal)
        body = await asyncio.to_thread(out.read_bytes)
    headers = {"Content-Disposition": f'attachment; filename="{run}.evidence.ndjson"'}
    return Response(body, media_type="application/x-ndjson", headers=headers)


async def record_query(house: House, identity: Identity, asked: Filter) -> None:
    """Auditors' own questions are entries."""
    words: dict[str, JsonValue] = dict(asked.wanted())
    if asked.words is not None:
        words["words"] = asked.words
    await house.store.write(lambda tx: tx.record(Event(Kind.QUERY, identity.principal, {"filter": words})))


def verdict_out(last: LogVerdict | None) -> VerdictOut:
    if last is None:
        return VerdictOut(grade="unknown", text="the first verification is under way", size=0, at=None)
    return VerdictOut(grade=last.grade, text=last.text, size=last.size, at=last.at)


def _proof(found: Proved) -> ProofOut:
    view = found.view
    return ProofOut(
        entry=EntryOut.model_validate(view.entry),
        raw_base64=base64.b64encode(view.raw).decode(),
        leaf=found.leaf.hex(),
        size=view.size,
        path=[step.hex() for step in view.proof],
        root=view.root.hex(),
        checkpoint=view.note,
        is_proved=found.is_proved,
    )


def _aware(moment: datetime | None) -> datetime | None:
    """Times without a zone are UTC."""
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)

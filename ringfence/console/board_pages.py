"""The board: tasks by state, assigning one, and a run as it works with what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import ValidationError
from sqlalchemy import Connection
from starlette.responses import Response

from ringfence.api import reading, steps
from ringfence.api.access import HouseHere, require, require_anywhere
from ringfence.api.assigning import assign, begin_from
from ringfence.api.forms.tasks import FromStep, NewTask
from ringfence.api.house import House
from ringfence.api.problems import DOMAIN, Unseen, problem_of
from ringfence.api.routes.log import export_response
from ringfence.api.routes.runs import may_steer, patch_response
from ringfence.auth.identity import Identity
from ringfence.auth.people import list_teams
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence.console.visiting import Visitor, see, views_of
from ringfence.patch_reading import FileChange, Hunk
from ringfence_agents import control
from ringfence_agents.runs import RunRecord, RunState
from ringfence_audit.port import Transaction
from ringfence_tools import budget, escalations
from ringfence_tools.budget import Unit
from ringfence_tools.calls import CallKey, RunId

router = APIRouter()
LANES: tuple[tuple[str, tuple[RunState, ...]], ...] = (
    ("Waiting", (RunState.PARKED,)),
    ("Working", (RunState.RUNNING, RunState.QUEUED)),
    ("Done", (RunState.FINISHED,)),
    ("Ended otherwise", (RunState.FAILED, RunState.BLOCKED, RunState.EXHAUSTED, RunState.CANCELLED)),
)
IN_LANE = 12
TURNS_SHOWN = 20
OUTPUT_SHOWN = 20_000
DIFF_LINES = 3_000
RunName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9]{0,23}$")]


@dataclass(frozen=True, slots=True)
class DiffRow:
    """`kind` is `add`, `del`, `hunk` or nothing. Hostile text."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ShownFile:
    """`left_out` counts the lines that are not among `rows`."""

    change: FileChange
    rows: list[DiffRow]
    left_out: int


@router.get("/board")
async def board(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    team: Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$")] = "",
    lane: Annotated[int | None, Query(ge=0, lt=len(LANES))] = None,
    after: Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9]{0,23}$")] = None,
) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.READ)
    reach = visitor.reach(Permission.READ)

    def look(connection: Connection) -> dict[str, object]:
        chosen = LANES if lane is None else (LANES[lane],)
        limit = IN_LANE if lane is None else 60
        lanes = []
        for number, (title, states) in enumerate(LANES):
            if (title, states) in chosen:
                lines = reading.run_lines(
                    connection, reach, states=states, team=team or None, after=after, limit=limit + 1
                )
                lanes.append((number, title, lines[:limit], len(lines) > limit))
        return {"lanes": lanes, "teams": _teams(visitor)}

    found = await house.store.read(look)
    values = {**found, "team": team, "lane": lane, "may_assign": visitor.may_anywhere(Permission.ASSIGN)}
    return views_of(request).page(request, "board.html", values, identity=visitor)


@router.get("/board/new")
async def new_task(request: Request, house: HouseHere, visitor: Visitor) -> HTMLResponse:
    await require_anywhere(request, visitor, Permission.ASSIGN)
    return await _form(request, house, visitor, {})


@router.post("/board/new")
async def assign_task(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    text: Annotated[str, Form(max_length=32_768)] = "",
    repository: Annotated[str, Form(max_length=2000)] = "",
    team: Annotated[str, Form(max_length=63)] = "",
    profile: Annotated[str, Form(max_length=80)] = "default",
    budget: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    kept = {"text": text, "repository": repository, "team": team, "profile": profile, "budget": budget}
    try:
        given = NewTask(text=text, repository=repository, team=team or None, profile=profile, budget=budget)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        said = f"{first['loc'][0] if first['loc'] else 'the form'}: {first['msg']}"
        return await _form(request, house, visitor, kept, error=said, status=409)
    await require(request, visitor, Permission.ASSIGN, given.team or "")
    try:
        run = await assign(house, visitor, given)
    except DOMAIN as error:
        found = problem_of(error)
        said = f"{found.detail}. {found.fix}".rstrip(". ") + "."
        return await _form(request, house, visitor, kept, error=said, status=found.status)
    return see(f"/runs/{run.id}")


@router.get("/runs/{run}")
async def show_run(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    run: RunName,
    after: Annotated[int | None, Query(ge=-1, le=2**31)] = None,
) -> HTMLResponse:
    return await _run_page(request, house, visitor, run, after=after)


@router.get("/runs/{run}/calls/{turn}/{index}")
async def show_call(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    run: RunName,
    turn: Annotated[int, Path(ge=0, le=2**31)],
    index: Annotated[int, Path(ge=0, le=2**31)],
    at: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> HTMLResponse:
    """One call with all of its output, a piece at a time."""

    def look(connection: Connection) -> steps.CallStep:
        reading.seen_run(connection, visitor, run)
        found = steps.one_call(connection, CallKey(RunId(run), turn, index))
        if found is None:
            raise Unseen("call")
        return found

    found = await house.store.read(look)
    output = "" if found.row.result is None else found.row.result.text
    values = {
        "run": run,
        "step": found,
        "output": output[at : at + OUTPUT_SHOWN],
        "at": at,
        "before": max(at - OUTPUT_SHOWN, 0),
        "behind": at + OUTPUT_SHOWN,
        "size": len(output),
        "may_read_entries": visitor.may_anywhere(Permission.READ_ENTRIES),
    }
    return views_of(request).page(request, "call.html", values, identity=visitor)


@router.get("/runs/{run}/result")
async def show_result(request: Request, house: HouseHere, visitor: Visitor, run: RunName) -> HTMLResponse:
    record = await house.store.read(lambda c: reading.seen_run(c, visitor, run))
    left = await asyncio.to_thread(steps.deliverable, record)
    files = _files(left.changes) if left is not None else []
    values = {"run": record, "left": left, "tests": steps.tests_of(record.result), "files": files}
    return views_of(request).page(request, "result.html", values, identity=visitor)


@router.get("/runs/{run}/patch")
async def patch(house: HouseHere, visitor: Visitor, run: RunName) -> Response:
    return await patch_response(await house.store.read(lambda c: reading.seen_run(c, visitor, run)))


@router.get("/runs/{run}/evidence")
async def evidence(request: Request, house: HouseHere, visitor: Visitor, run: RunName) -> Response:
    return await export_response(request, house, visitor, run)


@router.post("/runs/{run}/act")
async def act(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    run: RunName,
    action: Annotated[Literal["message", "pause", "resume", "cancel"], Form()],
    text: Annotated[str, Form(max_length=32_000)] = "",
) -> Response:
    needed = Permission.STOP if action == "cancel" else Permission.STEER
    await may_steer(request, house, visitor, run, needed)
    if action in ("message", "cancel") and not text.strip():
        said = "Write what the agent should know." if action == "message" else "Cancelling needs a reason."
        return await _run_page(request, house, visitor, run, error=said, status=409)

    def work(tx: Transaction) -> None:
        match action:
            case "message":
                control.post_message(tx, RunId(run), by=visitor.principal, text=text)
            case "pause":
                control.pause(tx, RunId(run), by=visitor.principal, reason=text or "asked in the console")
            case "resume":
                control.resume(tx, RunId(run), by=visitor.principal)
            case "cancel":
                control.cancel(tx, RunId(run), by=visitor.principal, reason=text)

    try:
        await house.store.write(work)
    except DOMAIN as error:
        found = problem_of(error)
        return await _run_page(request, house, visitor, run, error=f"{found.detail}.", kept=text, status=found.status)
    return see(f"/runs/{run}")


@router.post("/runs/{run}/fork")
async def fork(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    run: RunName,
    step: Annotated[int, Form(ge=0, le=2**31)],
    text: Annotated[str, Form(max_length=32_000)] = "",
) -> Response:
    await may_steer(request, house, visitor, run, Permission.ASSIGN)
    given = FromStep(reason="asked in the console", step=step, message=text)
    try:
        begun = await begin_from(house, visitor, RunId(run), given)
    except DOMAIN as error:
        found = problem_of(error)
        said = f"{found.detail}. {found.fix}".rstrip(". ") + "."
        return await _run_page(request, house, visitor, run, error=said, kept=text, status=found.status)
    return see(f"/runs/{begun.id}")


async def _run_page(
    request: Request,
    house: House,
    visitor: Identity,
    run: str,
    *,
    after: int | None = None,
    error: str = "",
    kept: str = "",
    status: int = 200,
) -> HTMLResponse:
    def look(connection: Connection) -> dict[str, object]:
        record = reading.seen_run(connection, visitor, run)
        last = steps.last_turn(connection, record.id)
        first = max(last - TURNS_SHOWN, -1) if after is None else after
        return {
            "run": record,
            "turns": steps.turns(connection, record.id, after=first, limit=TURNS_SHOWN),
            "first": first,
            "last": last,
            "cards": escalations.open_ones(connection, house.now_us(), run=record.id),
            "shown": TURNS_SHOWN,
            "bars": _bars(connection, record),
        }

    found = await house.store.read(look)
    record = found["run"]
    assert isinstance(record, RunRecord)  # noqa: S101 put there above
    values = {
        **found,
        "error": error,
        "kept": kept,
        "may_steer": visitor.may(Permission.STEER, record.team) and not record.state.is_end,
        "may_fork": visitor.may(Permission.ASSIGN, record.team) and record.collected_turn >= 0,
        "may_stop": visitor.may(Permission.STOP, record.team) and not record.state.is_end,
        "may_export": visitor.may(Permission.EXPORT, record.team),
        "may_read_entries": visitor.may(Permission.READ_ENTRIES, record.team),
    }
    return views_of(request).page(request, "run.html", values, identity=visitor, status=status)


def _bars(connection: Connection, record: RunRecord) -> list[tuple[str, str, int]]:
    """What the run has used of its budget: label, text, percent."""
    bars = []
    names = {Unit.MICRO_USD: "cost", Unit.TOOL_CALLS: "tool calls", Unit.TOKENS: "tokens"}
    for unit, used in budget.usage(connection, budget.run_scope(record.id)).items():
        if unit not in names or used.cap <= 0:
            continue
        if unit is Unit.MICRO_USD:
            text = f"${used.spent / 1e6:.2f} of ${used.cap / 1e6:.2f}"
        else:
            text = f"{used.spent:,} of {used.cap:,}"
        bars.append((names[unit], text, min(100 * used.spent // used.cap, 100)))
    return bars


async def _form(
    request: Request, house: House, visitor: Identity, kept: dict[str, str], *, error: str = "", status: int = 200
) -> HTMLResponse:
    reach = visitor.reach(Permission.ASSIGN)
    profiles = await house.store.read(lambda c: house.catalogue.listed(c, house.settings, reach))
    teams = await house.store.read(lambda c: _assignable(c, visitor))
    values = {
        "profiles": [one for one in profiles if not one.problem],
        "teams": teams,
        "kept": {"text": "", "repository": "", "team": "", "profile": house.settings.profile, "budget": "", **kept},
        "error": error,
        "has_paths": house.settings.repositories is not None,
    }
    return views_of(request).page(request, "assign.html", values, identity=visitor, status=status)


def _assignable(connection: Connection, visitor: Identity) -> list[str]:
    reach = visitor.reach(Permission.ASSIGN)
    named = [team.name for team in list_teams(connection, reach=reach, limit=500)]
    return [*named, ""] if reach.is_everywhere else named


def _teams(visitor: Identity) -> list[str]:
    return sorted({each.team for each in visitor.memberships if each.team != EVERY_TEAM})


def _files(changes: Sequence[FileChange]) -> list[ShownFile]:
    """Every file of a patch, with as many of its lines as a page bears."""
    room = DIFF_LINES
    files = []
    for change in changes:
        rows = [row for hunk in change.hunks for row in _rows(hunk)]
        files.append(ShownFile(change, rows[:room], max(len(rows) - room, 0)))
        room = max(room - len(rows), 0)
    return files


def _rows(hunk: Hunk) -> list[DiffRow]:
    kinds = {b"+": "add", b"-": "del"}
    lines = [DiffRow(kinds.get(text[:1], ""), text.decode("utf-8", "backslashreplace")) for text in hunk.lines]
    return [DiffRow("hunk", f"@@ −{hunk.old_start} +{hunk.new_start} @@"), *lines]

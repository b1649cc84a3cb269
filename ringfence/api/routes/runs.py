"""Tasks and runs: assign, watch, steer, take the patch."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from ringfence.api import reading, steps
from ringfence.api.access import Caller, HouseHere, is_still, require
from ringfence.api.assigning import assign, begin_from
from ringfence.api.feed import Interest
from ringfence.api.forms.shape import Answered, Because, Done, Limit, PageOf, RunPath, TeamQuery, json_of, page
from ringfence.api.forms.tasks import Caps, FromStep, NewTask, RunOut, Said, TaskOpened
from ringfence.api.house import House
from ringfence.api.once import KeyHere
from ringfence.api.problems import Unseen, documented
from ringfence.api.streams import EVENTS, LastEvent, stream
from ringfence.auth.identity import Identity, Reach
from ringfence.auth.roles import Permission
from ringfence_agents import control
from ringfence_agents.runs import RunRecord, RunState
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_tools.budget import Unit
from ringfence_tools.calls import RunId

router = APIRouter(tags=["runs"])
States = Annotated[list[RunState], Query(max_length=8, description="Only runs in these states")]


class CallOut(Answered):
    call: str
    tool: str
    arguments: str
    state: str
    digest: str
    status: str | None
    output: str
    left_out: int
    escalation: int | None
    escalation_state: str | None


class MessageOut(Answered):
    role: str
    author: str
    text: str


class StepOut(Answered):
    """One turn: what was said, and the calls in the model's order."""

    turn: int
    messages: list[MessageOut]
    calls: list[CallOut]

    @classmethod
    def of(cls, turn: steps.Turn) -> StepOut:
        return cls(
            turn=turn.number,
            messages=[
                MessageOut(role=row.role.value, author=str(row.body.get("author", "")), text=row.text)
                for row in turn.said
            ],
            calls=[
                CallOut(
                    call=str(one.row.key),
                    tool=one.row.tool,
                    arguments=one.arguments,
                    state=one.row.state.value,
                    digest=one.row.digest,
                    status=None if one.row.result is None else one.row.result.status.value,
                    output=one.output,
                    left_out=one.left_out,
                    escalation=one.row.escalation,
                    escalation_state=None if one.escalation is None else one.escalation.state.value,
                )
                for one in turn.calls
            ],
        )


class ChangeOut(Answered):
    path: str
    change: str
    added: int
    removed: int
    is_binary: bool


class ResultOut(Answered):
    """What the run left. `care` are paths to look at; `problem` why the patch would be refused."""

    state: str
    summary: str
    tests: list[dict[str, str | int | None]]
    changes: list[ChangeOut]
    care: list[str]
    problem: str


@router.post("/tasks", status_code=201, responses=documented(403, 404, 409))
async def assign_task(request: Request, house: HouseHere, identity: Caller, key: KeyHere, given: NewTask) -> TaskOpened:
    """Assign a task to an AI developer; it is queued, and a worker takes it."""
    await require(request, identity, Permission.ASSIGN, given.team or "")
    before = await house.store.write(lambda tx: key.answered(tx, identity))
    if before is not None:
        return TaskOpened.model_validate(before)
    run = await assign(house, identity, given, key=key.text)
    answer = TaskOpened(task=run.task, run=run.id)
    await house.store.write(lambda tx: key.once(tx, identity, lambda _: json_of(answer)))
    return answer


@router.get("/tasks", responses=documented(404))
async def list_tasks(
    house: HouseHere,
    identity: Caller,
    team: TeamQuery = None,
    state: States = [],  # noqa: B006 FastAPI copies it
    after: Annotated[
        str | None, Query(pattern=r"^[a-z][a-z0-9]{0,23}$", description="The last run of the page before")
    ] = None,
    limit: Limit = 50,
) -> PageOf[RunOut]:
    """Tasks with the run that works on them, newest first."""
    reach = identity.reach(Permission.READ)
    found = await house.store.read(
        lambda c: reading.run_lines(c, reach, states=state, team=team, after=after, limit=limit)
    )
    return page([RunOut.model_validate(line) for line in found], limit, found[-1].id if found else None)


@router.get("/runs/{run}", responses=documented(404))
async def show_run(house: HouseHere, identity: Caller, run: RunPath) -> RunOut:
    return RunOut.model_validate(await house.store.read(lambda c: reading.seen_run(c, identity, run)))


@router.get("/runs/{run}/steps", responses=documented(404))
async def list_steps(
    house: HouseHere,
    identity: Caller,
    run: RunPath,
    after: Annotated[int, Query(ge=-1, le=2**31)] = -1,
    limit: Limit = 50,
) -> PageOf[StepOut]:
    """The run as a timeline, oldest turn first."""

    def look(connection: Connection) -> tuple[steps.Turn, ...]:
        reading.seen_run(connection, identity, run)
        return steps.turns(connection, RunId(run), after=after, limit=limit)

    found = await house.store.read(look)
    return page([StepOut.of(turn) for turn in found], limit, str(found[-1].number) if found else None)


@router.get("/runs/{run}/result", responses=documented(404))
async def show_result(house: HouseHere, identity: Caller, run: RunPath) -> ResultOut:
    """What the run left: summary, tests, and each file that its patch changes."""
    record = await house.store.read(lambda c: reading.seen_run(c, identity, run))
    left = await asyncio.to_thread(steps.deliverable, record)
    return ResultOut(
        state=record.state.value,
        summary=str(record.result.get("summary", "")),
        tests=[{"command": command, "exit_code": code} for command, code in steps.tests_of(record.result)],
        changes=[
            ChangeOut(
                path=one.name, change=one.change.value, added=one.added, removed=one.removed, is_binary=one.is_binary
            )
            for one in (left.changes if left else ())
        ],
        care=[f"{one.path}: {one.reason}" for one in (left.notable if left else ())],
        problem=left.problem if left else "",
    )


@router.get(
    "/runs/{run}/patch",
    response_class=Response,
    responses={**documented(404), 200: {"content": {"text/x-diff": {"schema": {"type": "string"}}}}},
)
async def patch(house: HouseHere, identity: Caller, run: RunPath) -> Response:
    """The patch, byte for byte: `git apply` takes it."""
    record = await house.store.read(lambda c: reading.seen_run(c, identity, run))
    return await patch_response(record)


async def patch_response(record: RunRecord) -> Response:
    left = await asyncio.to_thread(steps.deliverable, record)
    if left is None or not left.data:
        raise Unseen("patch")
    headers = {"Content-Disposition": f'attachment; filename="{record.id}.patch"'}
    return Response(left.data, media_type="text/x-diff", headers=headers)


@router.get("/runs/{run}/events", response_class=StreamingResponse, responses={**documented(404), **EVENTS})
async def run_events(
    request: Request, house: HouseHere, identity: Caller, run: RunPath, last_event_id: LastEvent = None
) -> StreamingResponse:
    """Every entry of the run as it becomes durable. Resumes behind `Last-Event-ID`."""
    record = await house.store.read(lambda c: reading.seen_run(c, identity, run))
    interest = Interest(Reach(frozenset({record.team})) if record.team else Reach(is_everywhere=True), run)
    return stream(house.feed, interest, after=last_event_id, still_may=lambda: is_still(request, house, identity))


@router.post("/runs/{run}/branches", status_code=201, responses=documented(403, 404, 409))
async def branch(
    request: Request, house: HouseHere, identity: Caller, key: KeyHere, run: RunPath, given: FromStep
) -> TaskOpened:
    """Fork a run from one of its steps, or try one that has ended again, as a new run of your own."""
    await may_steer(request, house, identity, run, Permission.ASSIGN)
    before = await house.store.write(lambda tx: key.answered(tx, identity))
    if before is not None:
        return TaskOpened.model_validate(before)
    begun = await begin_from(house, identity, RunId(run), given, key=key.text)
    answer = TaskOpened(task=begun.task, run=begun.id)
    await house.store.write(lambda tx: key.once(tx, identity, lambda _: json_of(answer)))
    return answer


@router.post("/runs/{run}/messages", status_code=201, responses=documented(403, 404, 409))
async def post_message(
    request: Request, house: HouseHere, identity: Caller, key: KeyHere, run: RunPath, given: Said
) -> Done:
    """Tell the agent something; it reads it before it thinks next."""
    await may_steer(request, house, identity, run, Permission.STEER)

    def post(tx: Transaction) -> dict[str, JsonValue]:
        control.post_message(tx, RunId(run), by=identity.principal, text=given.text)
        return json_of(Done())

    await house.store.write(lambda tx: key.once(tx, identity, post))
    return Done()


@router.post("/runs/{run}/pause", responses=documented(403, 404, 409))
async def pause(request: Request, house: HouseHere, identity: Caller, run: RunPath, given: Because) -> Done:
    """Park the run until someone resumes it."""
    await may_steer(request, house, identity, run, Permission.STEER)
    await house.store.write(lambda tx: control.pause(tx, RunId(run), by=identity.principal, reason=given.reason))
    return Done()


@router.post("/runs/{run}/resume", responses=documented(403, 404, 409))
async def resume(request: Request, house: HouseHere, identity: Caller, run: RunPath) -> Done:
    """Put a parked run back into the queue."""
    await may_steer(request, house, identity, run, Permission.STEER)
    await house.store.write(lambda tx: control.resume(tx, RunId(run), by=identity.principal))
    return Done()


@router.post("/runs/{run}/cancel", responses=documented(403, 404, 409))
async def cancel(request: Request, house: HouseHere, identity: Caller, run: RunPath, given: Because) -> Done:
    """End the run for good."""
    await may_steer(request, house, identity, run, Permission.STOP)
    await house.store.write(lambda tx: control.cancel(tx, RunId(run), by=identity.principal, reason=given.reason))
    return Done()


@router.post("/runs/{run}/budget", responses=documented(403, 404, 409))
async def change_budget(request: Request, house: HouseHere, identity: Caller, run: RunPath, given: Caps) -> Done:
    """Set caps of the run's own budget; a run that waits for it goes on."""
    await may_steer(request, house, identity, run, Permission.STEER)
    wanted = {
        Unit.MICRO_USD: given.usd_micro,
        Unit.TOKENS: given.tokens,
        Unit.TOOL_CALLS: given.tool_calls,
        Unit.WALL_MS: None if given.wall_s is None else given.wall_s * 1000,
    }
    caps = {unit: cap for unit, cap in wanted.items() if cap is not None}
    await house.store.write(
        lambda tx: control.change_budget(tx, RunId(run), caps, by=identity.principal, reason=given.reason)
    )
    return Done()


async def may_steer(request: Request, house: House, identity: Identity, run: str, permission: Permission) -> RunRecord:
    """The run, where the caller may do this with it. Raises `Unseen` and `Denied`."""
    record = await house.store.read(lambda c: reading.seen_run(c, identity, run))
    await require(request, identity, permission, record.team)
    return record

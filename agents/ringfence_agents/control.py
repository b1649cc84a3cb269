"""What people ask of a run: pause, resume, cancel, a word to the agent, a vote's wake, another budget.

Each is one transaction with its entry, whatever holds the run at that moment. A run that a worker holds gets a
request, which the worker sees within a second; one that nobody holds is moved at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, insert, select, update

from ringfence_agents.errors import RunEnded
from ringfence_agents.leases import in_order
from ringfence_agents.model import storable
from ringfence_agents.runs import Request, RunRecord, RunState, WaitsFor, load
from ringfence_agents.schema import inbox, runs
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.budget import Unit, open_budget, run_scope, team_scope
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros

MESSAGE_LIMIT_CHARS = 32 << 10


_QUEUED: dict[str, str | int | None] = {
    "state": RunState.QUEUED.value,
    "waits_for": "",
    "wake_at": None,
    "detail": "",
}


_OPEN_STATES = tuple(state.value for state in RunState if not state.is_end)


def pause(tx: Transaction, run: RunId, *, by: str, reason: str) -> None:
    """Park the run until a person resumes it. Raises `RunNotFound`, `RunEnded`."""
    record = _open(tx, run)
    if record.request.is_end:
        raise RunEnded(f"run {run} is being stopped already")
    if record.state is RunState.RUNNING:
        _set(tx, run, request=Request.PAUSE.value, requested_by=by, request_reason=reason)
    else:
        detail = f"paused by {by}: {reason}"
        _set(
            tx,
            run,
            state=RunState.PARKED.value,
            waits_for=WaitsFor.PAUSE.value,
            wake_at=None,
            detail=detail,
            request="",
        )
    record_control(tx, record, by, {"action": "pause", "reason": reason})


def cancel(tx: Transaction, run: RunId, *, by: str, reason: str) -> None:
    """End the run as cancelled. What waits is queued, so that a worker settles and closes it.

    Raises `RunNotFound`, `RunEnded`.
    """
    record = _open(tx, run)
    if record.request is Request.PRESERVE:
        raise RunEnded(f"run {run} is being stopped already, its files preserved")
    _set(tx, run, request=Request.CANCEL.value, requested_by=by, request_reason=reason)
    if record.state is not RunState.RUNNING:
        _set(tx, run, state=RunState.QUEUED.value, waits_for="", wake_at=None, detail="is being cancelled")
    record_control(tx, record, by, {"action": "cancel", "reason": reason})


@dataclass(frozen=True, slots=True)
class Whose:
    """Which runs a stop is for: one, a team's, or all where neither is named."""

    run: RunId | None = None
    team: str = ""


def stop(tx: Transaction, whose: Whose, *, by: str, reason: str, preserve: bool = False) -> tuple[RunId, ...]:
    """The kill switch: from this commit on no call of these runs begins; what runs is ended within two seconds.

    With `preserve` everything inside is stopped, its files are sealed, and only then is it ended. Returns the runs.
    Raises `RunNotFound`, `RunEnded` for one that is named.
    """
    if whose.run is not None:
        _open(tx, whose.run)
    request = Request.PRESERVE if preserve else Request.CANCEL
    chosen: list[ColumnElement[bool]] = [runs.c.state.in_(_OPEN_STATES)]
    if whose.run is not None:
        chosen.append(runs.c.id == whose.run)
    if whose.team:
        chosen.append(runs.c.team == whose.team)
    asked = {"request": request.value, "requested_by": by, "request_reason": reason}
    tx.connection.execute(update(runs).where(in_order(*chosen)).values(asked))
    found = tx.connection.execute(select(runs.c.id, runs.c.on_behalf_of).where(*chosen).order_by(runs.c.id)).all()
    waiting = {**_QUEUED, "detail": "is being stopped"}
    idle = in_order(*chosen, runs.c.state != RunState.RUNNING.value)
    tx.connection.execute(update(runs).where(idle).values(waiting))
    tx.announce()
    data: dict[str, JsonValue] = {"action": "stop", "reason": reason, "preserve": preserve}
    for row in found:
        tx.record(Event(Kind.CONTROL, by, data, run=row.id, on_behalf_of=f"person:{row.on_behalf_of}"))
    if whose.run is None:
        whom = f"team:{whose.team}" if whose.team else "all"
        tx.record(Event(Kind.CONTROL, by, {**data, "whose": whom, "runs": len(found)}))
    return tuple(RunId(row.id) for row in found)


def resume(tx: Transaction, run: RunId, *, by: str) -> None:
    """Put a parked run back in the queue, whatever it waits for. A run that goes on anyway is left alone.

    Raises `RunNotFound`, `RunEnded`.
    """
    record = _open(tx, run)
    if record.state is RunState.PARKED:
        _queue(tx, run)
    elif record.request is Request.PAUSE:
        _set(tx, run, request="", requested_by="", request_reason="")
    record_control(tx, record, by, {"action": "resume"})


def wake(tx: Transaction, run: RunId) -> bool:
    """A vote settled an escalation: queue the run where it waits for people. True where it moved.

    Called in the vote's own transaction, so that no vote is ever left lying. Not an entry: the vote is one.
    """
    moved = tx.connection.execute(
        update(runs)
        .where(runs.c.id == run, runs.c.state == RunState.PARKED.value, runs.c.waits_for == WaitsFor.PEOPLE.value)
        .values(_QUEUED)
    )
    if moved.rowcount:
        tx.announce()
    return bool(moved.rowcount)


def post_message(tx: Transaction, run: RunId, *, by: str, text: str) -> None:
    """A person's word to the agent; it reads it before it thinks next. Raises `RunNotFound`, `RunEnded`."""
    record = _open(tx, run)
    words = storable(text[:MESSAGE_LIMIT_CHARS])
    tx.connection.execute(insert(inbox).values(run=run, author=by, text=words, posted_at=micros(tx.now)))
    record_control(tx, record, by, {"action": "message", "text": words})


def change_team_budget(tx: Transaction, team: str, caps: Mapping[Unit, int], *, by: str, reason: str) -> int:
    """Set caps of a team for this month; runs of the team that wait for it are queued. Returns how many."""
    scope = team_scope(team, tx.now)
    open_budget(tx, scope, caps)
    waiting = (runs.c.team == team) & (runs.c.waits_for == WaitsFor.BUDGET.value)
    queued = tx.connection.execute(update(runs).where(in_order(waiting)).values(_QUEUED)).rowcount
    tx.announce()
    named: dict[str, JsonValue] = {unit.value: cap for unit, cap in caps.items()}
    data: dict[str, JsonValue] = {"action": "budget", "scope": scope, "caps": named, "reason": reason}
    tx.record(Event(Kind.CONTROL, by, data))
    return queued


def change_budget(tx: Transaction, run: RunId, caps: Mapping[Unit, int], *, by: str, reason: str) -> None:
    """Set caps of the run's own budget; one that waits for it is queued. Raises `RunNotFound`, `RunEnded`."""
    record = _open(tx, run)
    open_budget(tx, run_scope(run), caps)
    if Unit.WALL_MS in caps:
        _set(tx, run, wall_cap_ms=caps[Unit.WALL_MS])
    if record.waits_for is WaitsFor.BUDGET:
        _queue(tx, run)
    named: dict[str, JsonValue] = {unit.value: cap for unit, cap in caps.items()}
    record_control(tx, record, by, {"action": "budget", "caps": named, "reason": reason})


def _open(tx: Transaction, run: RunId) -> RunRecord:
    tx.connection.execute(select(runs.c.id).where(runs.c.id == run).with_for_update()).first()
    record = load(tx.connection, run)
    if record.state.is_end:
        raise RunEnded(f"run {run} is {record.state.value} already")
    return record


def _queue(tx: Transaction, run: RunId) -> None:
    _set(tx, run, **_QUEUED)


def _set(tx: Transaction, run: RunId, **values: str | int | None) -> None:
    """Change the run, and let those look who wait for work or hold it."""
    tx.announce()
    tx.connection.execute(update(runs).where(runs.c.id == run).values(**values))


def record_control(tx: Transaction, record: RunRecord, by: str, data: dict[str, JsonValue]) -> None:
    """The entry of something that a person asked of a run."""
    tx.record(Event(Kind.CONTROL, by, data, run=record.id, on_behalf_of=record.person))

"""What people ask of a run: pause, resume, cancel, a word to the agent, a vote's wake, another budget.

Each is one transaction with its entry, whatever holds the run at that moment. A run that a worker holds gets a
request, which the worker sees within a second; one that nobody holds is moved at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import insert, select, update

from ringfence_agents.errors import RunEnded
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


def pause(tx: Transaction, run: RunId, *, by: str, reason: str) -> None:
    """Park the run until a person resumes it. Raises `RunNotFound`, `RunEnded`."""
    record = _open(tx, run)
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
    _record(tx, record, by, {"action": "pause", "reason": reason})


def cancel(tx: Transaction, run: RunId, *, by: str, reason: str) -> None:
    """End the run as cancelled. What waits is queued, so that a worker settles and closes it.

    Raises `RunNotFound`, `RunEnded`.
    """
    record = _open(tx, run)
    _set(tx, run, request=Request.CANCEL.value, requested_by=by, request_reason=reason)
    if record.state is not RunState.RUNNING:
        _set(tx, run, state=RunState.QUEUED.value, waits_for="", wake_at=None, detail="is being cancelled")
    _record(tx, record, by, {"action": "cancel", "reason": reason})


def resume(tx: Transaction, run: RunId, *, by: str) -> None:
    """Put a parked run back in the queue, whatever it waits for. A run that goes on anyway is left alone.

    Raises `RunNotFound`, `RunEnded`.
    """
    record = _open(tx, run)
    if record.state is RunState.PARKED:
        _queue(tx, run)
    elif record.request is Request.PAUSE:
        _set(tx, run, request="", requested_by="", request_reason="")
    _record(tx, record, by, {"action": "resume"})


def wake(tx: Transaction, run: RunId) -> bool:
    """A vote settled an escalation: queue the run where it waits for people. True where it moved.

    Called in the vote's own transaction, so that no vote is ever left lying. Not an entry: the vote is one.
    """
    moved = tx.connection.execute(
        update(runs)
        .where(runs.c.id == run, runs.c.state == RunState.PARKED.value, runs.c.waits_for == WaitsFor.PEOPLE.value)
        .values(state=RunState.QUEUED.value, waits_for="", wake_at=None, detail="")
    )
    return bool(moved.rowcount)


def post_message(tx: Transaction, run: RunId, *, by: str, text: str) -> None:
    """A person's word to the agent; it reads it before it thinks next. Raises `RunNotFound`, `RunEnded`."""
    record = _open(tx, run)
    words = storable(text[:MESSAGE_LIMIT_CHARS])
    tx.connection.execute(insert(inbox).values(run=run, author=by, text=words, posted_at=micros(tx.now)))
    _record(tx, record, by, {"action": "message", "text": words})


def change_team_budget(tx: Transaction, team: str, caps: Mapping[Unit, int], *, by: str, reason: str) -> int:
    """Set caps of a team for this month; runs of the team that wait for it are queued. Returns how many."""
    scope = team_scope(team, tx.now)
    open_budget(tx, scope, caps)
    waiting = (runs.c.team == team) & (runs.c.waits_for == WaitsFor.BUDGET.value)
    queued = tx.connection.execute(update(runs).where(waiting).values(_QUEUED)).rowcount
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
    _record(tx, record, by, {"action": "budget", "caps": named, "reason": reason})


def _open(tx: Transaction, run: RunId) -> RunRecord:
    tx.connection.execute(select(runs.c.id).where(runs.c.id == run).with_for_update()).first()
    record = load(tx.connection, run)
    if record.state.is_end:
        raise RunEnded(f"run {run} is {record.state.value} already")
    return record


def _queue(tx: Transaction, run: RunId) -> None:
    _set(tx, run, **_QUEUED)


def _set(tx: Transaction, run: RunId, **values: str | int | None) -> None:
    tx.connection.execute(update(runs).where(runs.c.id == run).values(**values))


def _record(tx: Transaction, record: RunRecord, by: str, data: dict[str, JsonValue]) -> None:
    tx.record(Event(Kind.CONTROL, by, data, run=record.id, on_behalf_of=record.person))

"""Leases: who may move a run. One conditional update takes it, a fencing token travels with everything after.

`guard` is the first statement of every transaction that writes for a run. A worker that lost its lease, however long
it slept, finds a higher fence there and writes nothing. Expiry is judged by the database's clock alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, exists, func, or_, select, update

from ringfence_agents.errors import RunEnded, RunHeld, RunStopping
from ringfence_agents.runs import Closing, Request, RunRecord, RunState, SandboxState, WaitsFor, load
from ringfence_agents.schema import runs
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.prepared import Prepared
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros
from ringfence_tools.errors import LeaseLost
from ringfence_tools.gate_context import Guard
from ringfence_tools.ledger import CallState
from ringfence_tools.schema import calls

RELEASE_LEASE_S = 120
"""How long keeping the files of a run that waits may take; that lease is not renewed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to move one run until `lease_until`, as long as it is renewed."""

    run: RunId
    worker: str
    fence: int


IS_HELD = and_(
    runs.c.id == bindparam("in_run"), runs.c.fence == bindparam("in_fence"), runs.c.worker == bindparam("in_worker")
)
"""For an update of a run by its holder: where it touches no row, the lease is `lost`. As good as a guard, and first."""


def in_order(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition of an update of several runs: the rows are taken by id before any of them is changed.

    Run ids are lower-case letters and digits, which Python and every collation of a database put in the same order.
    """
    return runs.c.id.in_(select(runs.c.id).where(*conditions).order_by(runs.c.id).with_for_update())


_HELD = Prepared(select(runs.c.id).where(IS_HELD).with_for_update())


def held_by(lease: Lease) -> dict[str, str | int]:
    """What `IS_HELD` compares with."""
    return {"in_run": lease.run, "in_fence": lease.fence, "in_worker": lease.worker}


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"run {lease.run}: {lease.worker} no longer holds it (fence {lease.fence})")


def guard_of(lease: Lease) -> Guard:
    """Raises `LeaseLost` unless the lease still stands; on PostgreSQL it also keeps a claim waiting until commit."""
    parameters = held_by(lease)

    def guard(tx: Transaction) -> None:
        if _HELD.first(tx.connection, parameters) is None:
            raise lost(lease)

    return guard


_MAY_START = Prepared(
    select(runs.c.request, runs.c.requested_by, runs.c.request_reason).where(IS_HELD).with_for_update()
)


def start_guard_of(lease: Lease) -> Guard:
    """`guard_of` for what begins something new: raises `RunStopping` too, from the moment a person asked for it."""
    parameters = held_by(lease)

    def guard(tx: Transaction) -> None:
        row = _MAY_START.first(tx.connection, parameters)
        if row is None:
            raise lost(lease)
        if row.request:
            raise RunStopping(lease.run, request=row.request, by=row.requested_by, reason=row.request_reason)

    return guard


def claim(tx: Transaction, run: RunId, worker: str, *, lease_s: int, is_forced: bool = False) -> RunRecord:
    """Take the run and return it as it stands now, its fence raised by one.

    Takes what is queued, what a dead worker left, and what is parked; a run that a person paused only where
    `is_forced` (the person resumes it). Raises `RunNotFound`, `RunHeld`, `RunEnded`.
    """
    now = micros(tx.now)
    free = or_(runs.c.worker == "", runs.c.lease_until <= now)
    open_states = [RunState.QUEUED.value, RunState.RUNNING.value, RunState.PARKED.value]
    conditions = [runs.c.id == run, runs.c.state.in_(open_states), free]
    if not is_forced:
        conditions.append(runs.c.waits_for != WaitsFor.PAUSE.value)
    taken = tx.connection.execute(
        update(runs)
        .where(and_(*conditions))
        .values(
            state=RunState.RUNNING.value,
            waits_for=WaitsFor.NOTHING.value,
            wake_at=None,
            detail="",
            worker=worker,
            lease_until=now + lease_s * 1_000_000,
            fence=runs.c.fence + 1,
            moved_at=now,
            started_at=func.coalesce(runs.c.started_at, now),
        )
    ).rowcount
    record = load(tx.connection, run)
    if not taken:
        raise _refusal(record)
    tx.record(_moved(record, f"worker:{worker}", {"state": RunState.RUNNING.value, "worker": worker}))
    return record


def _refusal(record: RunRecord) -> RunHeld | RunEnded:
    if record.state.is_end:
        return RunEnded(f"run {record.id} is {record.state.value}; open a new one")
    if record.waits_for is WaitsFor.PAUSE:
        return RunHeld(f"run {record.id} is paused; `ringfence runs resume {record.id}` goes on")
    return RunHeld(f"run {record.id} is held by {record.worker}; it is free once that worker ends or its lease does")


def _moved(record: RunRecord, actor: str, data: dict[str, JsonValue]) -> Event:
    return Event(
        Kind.RUN_STATE,
        actor,
        {**data, "fence": record.fence},
        run=record.id,
        on_behalf_of=record.person,
    )


def renew(tx: Transaction, elapsed_ms: Mapping[Lease, int], *, lease_s: int) -> frozenset[Lease]:
    """Renew leases and count the wall time that passed on each; return those that are lost."""
    until = micros(tx.now) + lease_s * 1_000_000
    lost = []
    for lease, elapsed in sorted(elapsed_ms.items(), key=lambda item: item[0].run):
        if not _RENEW.change(tx.connection, {**held_by(lease), "until": until, "elapsed": elapsed}):
            lost.append(lease)
    return frozenset(lost)


_RENEW = Prepared(
    update(runs)
    .where(IS_HELD)
    .values(lease_until=bindparam("until"), active_ms=runs.c.active_ms + bindparam("elapsed"))
)


def park(
    tx: Transaction,
    lease: Lease,
    waits_for: WaitsFor,
    *,
    detail: str,
    wake_at_us: int | None = None,
    active_ms: int = 0,
    failures: int = 0,
) -> RunState:
    """Let go of the run: it waits, and holds no worker. `NOTHING` puts it back in the queue. Raises `LeaseLost`.

    What a person asked meanwhile wins: a pause parks it as paused, a cancel queues it to be closed.
    """
    guard_of(lease)(tx)
    record = load(tx.connection, lease.run)
    if record.request == Request.PAUSE and record.closing is None:
        waits_for, detail, wake_at_us = (
            WaitsFor.PAUSE,
            f"paused by {record.requested_by}: {record.request_reason}",
            None,
        )
    elif record.request.is_end and waits_for is not WaitsFor.PAUSE:
        waits_for, wake_at_us = WaitsFor.NOTHING, None
    state = RunState.PARKED if waits_for is not WaitsFor.NOTHING else RunState.QUEUED
    tx.connection.execute(
        update(runs)
        .where(runs.c.id == lease.run)
        .values(
            state=state.value,
            waits_for=waits_for.value,
            wake_at=wake_at_us,
            detail=detail,
            worker="",
            lease_until=0,
            request="" if record.request == Request.PAUSE else record.request,
            failures=failures,
            moved_at=micros(tx.now),
            active_ms=runs.c.active_ms + active_ms,
        )
    )
    data: dict[str, JsonValue] = {"state": state.value, "waits_for": waits_for.value, "detail": detail}
    tx.record(_moved(record, f"worker:{lease.worker}", data))
    return state


def claim_waiting(tx: Transaction, run: RunId, worker: str, *, lease_s: int) -> RunRecord | None:
    """Hold a run that waits, to keep its files and remove its sandbox; it goes on waiting. None where it does not wait,
    somebody holds it, it has no sandbox, or one of its calls has begun without an outcome: only the sandbox knows it.
    """
    now = micros(tx.now)
    has_begun = exists().where(calls.c.run == runs.c.id, calls.c.state == CallState.INTENT.value)
    waits = and_(
        runs.c.id == run,
        runs.c.state == RunState.PARKED.value,
        runs.c.sandbox_state == SandboxState.READY.value,
        or_(runs.c.worker == "", runs.c.lease_until <= now),
        ~has_begun,
    )
    held = {"worker": worker, "lease_until": now + lease_s * 1_000_000, "fence": runs.c.fence + 1}
    if not tx.connection.execute(update(runs).where(waits).values(held)).rowcount:
        return None
    return load(tx.connection, run)


def let_go(tx: Transaction, lease: Lease) -> None:
    """Give back what `claim_waiting` took. A vote may have queued the run meanwhile."""
    values = {"worker": "", "lease_until": 0, "moved_at": micros(tx.now)}
    tx.connection.execute(update(runs).where(IS_HELD).values(values), held_by(lease))
    tx.announce()


def set_closing(tx: Transaction, lease: Lease, closing: Closing) -> None:
    """Decide how the run ends; the first decision stands. Raises `LeaseLost`."""
    guard_of(lease)(tx)
    tx.connection.execute(
        update(runs).where(runs.c.id == lease.run, runs.c.closing == "").values(closing=closing.to_json())
    )


def free_dead(tx: Transaction, worker: str) -> int:
    """End the leases of a worker that is known to be dead, so that its runs need not wait for their expiry.

    Only for a worker whose process the caller has seen ended; returns how many runs are free now.
    """
    held = and_(runs.c.worker == worker, runs.c.lease_until > 0)
    return tx.connection.execute(update(runs).where(in_order(held)).values(lease_until=0)).rowcount


def shorten(tx: Transaction, *, lease_s: int) -> int:
    """Let no lease end later than one taken now would; returns how many did, after a clock that jumped back.

    They are shortened, not ended: a living holder renews in time, and only a dead one's runs get free. A run that
    waits, or that a vote has queued since, is held by whoever keeps its files, for `RELEASE_LEASE_S`.
    """
    now = micros(tx.now)
    running, waiting = (now + longest_s * 1_000_000 for longest_s in (lease_s, max(lease_s, RELEASE_LEASE_S)))
    longest = case((runs.c.state == RunState.RUNNING.value, running), else_=waiting)
    held = and_(runs.c.worker != "", runs.c.lease_until > longest)
    return tx.connection.execute(update(runs).where(in_order(held)).values(lease_until=longest)).rowcount


def holders(connection: Connection) -> frozenset[str]:
    """The names of workers that runs are held by, whether their leases still stand or not."""
    held = select(runs.c.worker).where(runs.c.worker != "", runs.c.lease_until > 0).distinct()
    return frozenset(row.worker for row in connection.execute(held))

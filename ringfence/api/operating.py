"""What an operator sees, and the switch that stops a team or everything."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ringfence.api.house import House
from ringfence.auth.identity import Identity, Reach
from ringfence_agents import control
from ringfence_agents.errors import RunEnded
from ringfence_agents.runs import RunState, SandboxState
from ringfence_agents.schema import runs
from ringfence_audit.port import Transaction
from ringfence_audit.tree import TreeReader
from ringfence_tools.calls import RunId

OPEN_STATES = tuple(state.value for state in RunState if not state.is_end)
STOPPED_AT_ONCE = 1_000
"""Runs that one transaction cancels; more are cancelled by further ones."""


@dataclass(frozen=True, slots=True)
class HeldSandbox:
    id: str
    run: str
    team: str
    state: str
    worker: str


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker that holds runs now. `late_s`: how long ago its oldest lease ran out, 0 for none."""

    name: str
    runs: int
    late_s: int


@dataclass(frozen=True, slots=True)
class Operations:
    states: dict[str, int]
    workers: tuple[WorkerLine, ...]
    sandboxes: tuple[HeldSandbox, ...]
    oldest_queued_at: int | None
    entries: int
    free_bytes: int
    news_late_s: float
    streams: int


def operations(connection: Connection, house: House) -> Operations:
    states = connection.execute(select(runs.c.state, func.count().label("total")).group_by(runs.c.state))
    queued = select(func.min(runs.c.created_at)).where(runs.c.state == RunState.QUEUED.value)
    return Operations(
        states={row.state: row.total for row in states},
        workers=_workers(connection, house.now_us()),
        sandboxes=sandboxes(connection, Reach(is_everywhere=True)),
        oldest_queued_at=connection.execute(queued).scalar(),
        entries=TreeReader(connection).size(),
        free_bytes=shutil.disk_usage(house.settings.home).free,
        news_late_s=max(time.monotonic() - house.feed.looked_at, 0.0),
        streams=house.feed.open_streams,
    )


def sandboxes(connection: Connection, reach: Reach) -> tuple[HeldSandbox, ...]:
    """Sandboxes that have not been released."""
    query = select(runs.c.sandbox_id, runs.c.id, runs.c.team, runs.c.sandbox_state, runs.c.worker).where(
        runs.c.sandbox_state.in_([SandboxState.CREATING.value, SandboxState.READY.value]),
        runs.c.state.in_(OPEN_STATES),
    )
    return tuple(
        HeldSandbox(row.sandbox_id, row.id, row.team, row.sandbox_state, row.worker)
        for row in connection.execute(query.order_by(runs.c.created_at).limit(500))
        if row.team in reach
    )


def stop(tx: Transaction, identity: Identity, *, team: str | None, reason: str) -> list[str]:
    """Cancel every open run of a team, or all. Returns the runs; called again until it returns none."""
    query = select(runs.c.id).where(runs.c.state.in_(OPEN_STATES), runs.c.request != "cancel")
    if team is not None:
        query = query.where(runs.c.team == team)
    stopped = []
    for row in tx.connection.execute(query.order_by(runs.c.id).limit(STOPPED_AT_ONCE)).all():
        try:
            control.cancel(tx, RunId(row.id), by=identity.principal, reason=reason)
        except RunEnded:
            continue
        stopped.append(str(row.id))
    return stopped


async def stop_all(house: House, identity: Identity, *, team: str | None, reason: str) -> list[str]:
    stopped: list[str] = []
    while more := await house.store.write(lambda tx: stop(tx, identity, team=team, reason=reason)):
        stopped += more
    return stopped


def _workers(connection: Connection, now_us: int) -> tuple[WorkerLine, ...]:
    query = (
        select(runs.c.worker, func.count().label("total"), func.min(runs.c.lease_until).label("until"))
        .where(runs.c.worker != "", runs.c.state == RunState.RUNNING.value)
        .group_by(runs.c.worker)
        .order_by(runs.c.worker)
    )
    return tuple(
        WorkerLine(row.worker, row.total, max((now_us - row.until) // 1_000_000, 0))
        for row in connection.execute(query)
    )

"""Letting go of a run that waits: its sandbox is suspended, its lease given back, and the tables say why it waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from operator import add
from typing import assert_never

from ringfence_agents.drive import Drive
from ringfence_agents.errors import ModelUnavailable
from ringfence_agents.leases import park
from ringfence_agents.runs import RunState, WaitsFor
from ringfence_agents.switch import Stop, StopKind, Until
from ringfence_agents.todo import Next, todo
from ringfence_audit.port import Transaction
from ringfence_tools.budget import next_month
from ringfence_tools.clock import micros
from ringfence_tools.escalations import open_ones
from ringfence_tools.progress import RunMoved


async def park_for(drive: Drive, stop: Stop) -> RunState:
    """Park a run that was told to stop and is not over."""
    if stop.kind is StopKind.DRAIN:
        return await _park(drive, WaitsFor.NOTHING, detail=stop.reason)
    if stop.kind is StopKind.BUDGET:
        return await _park_for_budget(drive, stop)
    return await _park(drive, WaitsFor.PAUSE, detail=f"paused by {stop.by}: {stop.reason}")


async def try_later(drive: Drive, error: Exception) -> RunState:
    """Park until something outside may be better; after too many tries until a person looks at it."""
    limits = drive.equipment.limits
    failures = drive.record.failures + 1
    detail = f"{type(error).__name__}: {error}"[:1000]
    if failures > limits.retries:
        return await _park(drive, WaitsFor.PAUSE, detail=f"gave up after {failures} tries: {detail}", failures=failures)
    wish_s = error.retry_after_s if isinstance(error, ModelUnavailable) else 0
    delay_s = max(limits.retry_base_s * 2 ** (failures - 1), int(wish_s))
    return await _park(drive, WaitsFor.TIME, detail=detail, wake=_after(delay_s), failures=failures)


async def park_for_people(drive: Drive) -> RunState | None:
    """Park until a vote or the first expiry. A vote that came meanwhile is seen here, in the same transaction."""
    await drive.holder.suspend()
    record = drive.record
    elapsed = drive.stopwatch.take_ms()

    def work(tx: Transaction) -> tuple[RunState, str] | None:
        drive.context.guard(tx)
        now_us = micros(tx.now)
        if todo(tx.connection, record, now_us).next is not Next.END:
            return None
        asked = open_ones(tx.connection, now_us, run=drive.run)
        detail = "waits for " + (", ".join(f"E-{one.id}" for one in asked) or "people")
        wake_at = min((one.expires_at for one in asked), default=None)
        return park(tx, drive.lease, WaitsFor.PEOPLE, detail=detail, wake_at_us=wake_at, active_ms=elapsed), detail

    parked = await drive.store.write(work)
    if parked is None:
        drive.stopwatch.give_back_ms(elapsed)
        return None
    drive.context.progress(RunMoved(drive.run, parked[0].value, parked[1]))
    return parked[0]


async def _park_for_budget(drive: Drive, stop: Stop) -> RunState:
    match stop.until:
        case Until.SETTLED:
            wake = _after(drive.equipment.limits.budget_retry_s)
            return await _park(drive, WaitsFor.TIME, detail=stop.reason, wake=wake)
        case Until.MONTH:
            return await _park(drive, WaitsFor.BUDGET, detail=stop.reason, wake=next_month)
        case Until.RAISED:
            return await _park(drive, WaitsFor.BUDGET, detail=stop.reason)
        case _:
            assert_never(stop.until)


def _after(seconds: float) -> Callable[[datetime], datetime]:
    return partial(add, timedelta(seconds=seconds))


async def _park(
    drive: Drive,
    waits_for: WaitsFor,
    *,
    detail: str,
    wake: Callable[[datetime], datetime] | None = None,
    failures: int = 0,
) -> RunState:
    """`wake` tells from the database's clock when the run goes on by itself; without it somebody has to act."""
    await drive.holder.suspend()
    elapsed = drive.stopwatch.take_ms()

    def work(tx: Transaction) -> RunState:
        wake_at = None if wake is None else micros(wake(tx.now))
        return park(
            tx,
            drive.lease,
            waits_for,
            detail=detail,
            wake_at_us=wake_at,
            active_ms=elapsed,
            failures=failures,
        )

    state = await drive.store.write(work)
    drive.context.progress(RunMoved(drive.run, state.value, detail))
    return state

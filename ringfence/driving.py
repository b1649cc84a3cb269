"""Drives one run in this process until it ends or only a person's resume can move it.

A run that parks for people goes on by itself once they have decided, here or elsewhere. Ctrl-C parks it; a second one
leaves at once, and the run's lease then ends by itself.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from ringfence.exits import Exit
from ringfence.session import now_us
from ringfence.wiring import Workshop
from ringfence_agents import control
from ringfence_agents.runs import RunRecord, RunState, WaitsFor, load
from ringfence_agents.schema import runs
from ringfence_agents.switch import Stop, StopKind
from ringfence_tools import escalations
from ringfence_tools.calls import RunId
from ringfence_tools.escalations import Escalation
from ringfence_tools.progress import Progress

if TYPE_CHECKING:
    from ringfence_agents.runner import Runner

POLL_S = 0.25
"""How often a waiting run looks whether people have decided: two small reads."""

TRIES_HERE = 3
"""How often a run whose model or sandbox is away is tried again before whoever watches gets the terminal back."""

Decide = Callable[[Escalation], Awaitable[None]]
"""Puts a card to the person at the terminal. Returns when it is decided, has expired, or the person leaves it."""

EXITS = {
    RunState.FINISHED: Exit.FINISHED,
    RunState.FAILED: Exit.FAILED,
    RunState.BLOCKED: Exit.BLOCKED,
    RunState.EXHAUSTED: Exit.BUDGET,
    RunState.CANCELLED: Exit.CANCELLED,
}


def exit_of(record: RunRecord) -> Exit:
    """The exit code that stands for the state of a run."""
    if record.state is RunState.PARKED and record.waits_for is WaitsFor.BUDGET:
        return Exit.BUDGET
    if record.state is RunState.PARKED and record.waits_for is WaitsFor.TIME:
        return Exit.UNAVAILABLE
    return EXITS.get(record.state, Exit.WAITING)


@dataclass
class _Interrupt:
    """Set by the first Ctrl-C or SIGTERM."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    kind: StopKind = StopKind.PARK


async def drive_here(
    workshop: Workshop,
    run: RunId,
    *,
    by: str,
    progress: Progress,
    decide: Decide | None = None,
    is_forced: bool = False,
    is_patient: bool = False,
) -> RunRecord:
    """Move the run as far as it goes; return it as it stands then. `by` is the person's principal.

    `is_patient` goes on trying for as long as the runner does; without it, `TRIES_HERE` times. Raises what
    `Runner.drive` raises.
    """
    runner = workshop.runner(progress)
    interrupt = _Interrupt()
    async with _listening(interrupt, runner, run, by):
        while True:
            await runner.drive(run, is_forced=is_forced)
            record = await workshop.store.read(lambda connection: load(connection, run))
            if not goes_on(record, is_patient=is_patient) or interrupt.event.is_set():
                return record
            await _wait(workshop, record, interrupt, decide)
            if interrupt.event.is_set():
                return await _leave(workshop, run, interrupt, by)


def goes_on(record: RunRecord, *, is_patient: bool) -> bool:
    if record.waits_for is WaitsFor.TIME and record.failures >= TRIES_HERE and not is_patient:
        return False
    return not record.state.is_end and record.waits_for in (WaitsFor.PEOPLE, WaitsFor.TIME, WaitsFor.NOTHING)


async def _wait(workshop: Workshop, record: RunRecord, interrupt: _Interrupt, decide: Decide | None) -> None:
    """Until the run can move, or Ctrl-C."""
    asking = asyncio.ensure_future(_ask_all(workshop, record.id, decide)) if decide is not None else None
    try:
        while not interrupt.event.is_set():
            if await workshop.store.read(lambda connection: _can_move(connection, record.id)):
                return
            try:
                await asyncio.wait_for(interrupt.event.wait(), POLL_S)
            except TimeoutError:
                continue
    finally:
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _ask_all(workshop: Workshop, run: RunId, decide: Decide) -> None:
    """Put each open card of the run to the person, one after another."""
    for waiting in await workshop.store.read(lambda connection: escalations.open_ones(connection, now_us(), run=run)):
        await decide(waiting)


async def _leave(workshop: Workshop, run: RunId, interrupt: _Interrupt, by: str) -> RunRecord:
    """Ctrl-C while nothing was driven: the run stays parked until someone resumes it."""
    if interrupt.kind is StopKind.PARK:
        await workshop.store.write(lambda tx: control.pause(tx, run, by=by, reason="Ctrl-C at the terminal"))
    return await workshop.store.read(lambda connection: load(connection, run))


@asynccontextmanager
async def _listening(interrupt: _Interrupt, runner: Runner, run: RunId, by: str) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        interrupt.kind = StopKind.PARK if number is signal.SIGINT else StopKind.DRAIN
        interrupt.event.set()
        reason = "Ctrl-C at the terminal" if number is signal.SIGINT else "its process was told to end"
        runner.stop(run, Stop(interrupt.kind, by, reason))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _can_move(connection: Connection, run: RunId) -> bool:
    """A vote or a person queued it, or what it waited for (an expiry, a pause before the next try) is over."""
    row = connection.execute(select(runs.c.state, runs.c.wake_at).where(runs.c.id == run)).one()
    return row.state != RunState.PARKED.value or (row.wake_at is not None and row.wake_at <= now_us())

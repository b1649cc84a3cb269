"""After a stop: whatever no process drives is ended here, so that a stop needs no worker to be true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ringfence.wiring import Workshop
from ringfence_agents.errors import RunEnded, RunHeld
from ringfence_agents.runs import load
from ringfence_tools.calls import RunId
from ringfence_tools.errors import LeaseLost
from ringfence_tools.progress import ignore

if TYPE_CHECKING:
    from ringfence_agents.runner import Runner

AT_ONCE = 8
WITHIN_S = 60.0
LOOK_S = 0.2


async def end_here(
    workshop: Workshop,
    runs: Sequence[RunId],
    *,
    within_s: float = WITHIN_S,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[RunId, ...]:
    """Close stopped runs that nobody holds, wait for those that somebody does; return what has not ended in time."""
    runner = workshop.runner(ignore)
    deadline = clock() + within_s
    places = asyncio.Semaphore(AT_ONCE)

    async def end(run: RunId) -> RunId | None:
        async with places:
            while clock() < deadline:
                if await _is_ended(workshop, runner, run):
                    return None
                await asyncio.sleep(LOOK_S)
        return run

    left = await asyncio.gather(*(end(run) for run in runs))
    return tuple(run for run in left if run is not None)


async def _is_ended(workshop: Workshop, runner: Runner, run: RunId) -> bool:
    record = await workshop.store.read(lambda connection: load(connection, run))
    if record.state.is_end:
        return True
    try:
        return (await runner.drive(run, is_forced=True)).is_end
    except (RunHeld, LeaseLost):
        return False  # a worker has it, and has been told
    except RunEnded:
        return True

"""A worker in this process: it takes runs from the queue and moves them, until it is told to stop.

`ringfence worker` is this and nothing else; `ringfence serve` runs it beside the API. Any number may work on one
database; what each takes is settled by leases, and how many runs may go on at once by `workers.yaml`.
"""

from __future__ import annotations

import asyncio

from ringfence.wiring import Workshop
from ringfence.workplan import WorkPlan, read_plan
from ringfence_agents.worker import Pace, Worker
from ringfence_tools.progress import Progress, ignore


async def work(
    workshop: Workshop, *, stop: asyncio.Event, plan: WorkPlan | None = None, progress: Progress = ignore
) -> None:
    """Drive runs until `stop` is set; then let each reach its next step and go back into the queue, and return.

    A database that is away is waited for. Raises `Mistake` where `workers.yaml` cannot be used.
    """
    workshop.fills_pool = True
    plan = plan or read_plan(workshop.settings.config)
    worker = Worker(
        workshop.store,
        workshop.runner(progress),
        pace=Pace(at_once=plan.at_once, drain_s=plan.drain_s, release_after_s=plan.release_after_s),
        limits=plan.limits,
        progress=progress,
        news=workshop.store.wakeups,
    )

    async def drain() -> None:
        await stop.wait()
        worker.drain()

    draining = asyncio.create_task(drain())
    try:
        await worker.run()
    finally:
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)

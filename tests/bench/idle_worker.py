"""A worker over a state folder with nothing to do: how soon it is there and how much memory it takes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence_agents.ports import Equipment
from ringfence_agents.roster import present
from ringfence_agents.runner import Runner
from ringfence_agents.runs import RunRecord
from ringfence_agents.worker import Pace, Worker
from ringfence_tools.clock import micros

SWEEPS_S = 3.0


async def idle(home: Path, began: float) -> None:
    async def equip(record: RunRecord) -> Equipment:
        raise AssertionError(f"{record.id} was not to be taken")

    with open_store(Settings(home=home, config=home / "config")) as store:
        runner = Runner(store, equip, worker="idle")
        worker = Worker(store, runner, pace=Pace(look_s=0.2, sweep_s=0.5), news=store.wakeups)
        working = asyncio.create_task(worker.run())
        while not await store.read(lambda c: present(c, micros(datetime.now(UTC)))):  # noqa: ASYNC110 - tables
            await asyncio.sleep(0.01)
        ready_s = time.monotonic() - began
        cpu = time.process_time()
        await asyncio.sleep(SWEEPS_S)
        busy = (time.process_time() - cpu) / SWEEPS_S
        worker.drain()
        await working
    status = Path("/proc/self/status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    sys.stdout.write(json.dumps({"ready_s": ready_s, "resident_mb": resident_kb / 1024, "busy": busy}) + "\n")


if __name__ == "__main__":
    asyncio.run(idle(Path(sys.argv[1]), time.monotonic()))

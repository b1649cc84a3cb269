"""Back-pressure: how many questions to models, and starts of sandboxes, one process has in hand at once.

Hundreds of runs that go on together neither flood an endpoint nor start hundreds of processes in one moment; what is
over the limit waits its turn, and a run that waits so still answers a stop at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ringfence_agents.ports import Limits


@dataclass(frozen=True, slots=True)
class Pressure:
    """One for all runs of a runner."""

    questions: asyncio.Semaphore
    starts: asyncio.Semaphore

    @classmethod
    def of(cls, limits: Limits) -> Pressure:
        return cls(asyncio.Semaphore(limits.questions_at_once), asyncio.Semaphore(limits.starts_at_once))

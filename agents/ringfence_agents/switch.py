"""How a run is told to stop while it goes on: one switch per lease, thrown at most once.

A request to the model is cut off at once, since nothing depends on it. Tool calls get a grace to end by themselves;
then they are cancelled, which ends their whole tree, and are settled from the sandbox's word afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class StopKind(StrEnum):
    PARK = "park"
    """A person at the terminal stops it; it is paused until resumed."""
    CANCEL = "cancel"
    PRESERVE = "preserve"
    """Cancel once everything inside has been stopped and its files are kept."""
    DRAIN = "drain"
    """The worker goes away; another takes the run on."""
    BUDGET = "budget"
    """A budget is used up; the run waits with its work kept."""
    LOST = "lost"
    """The lease is gone: write nothing more."""


class Until(StrEnum):
    """When a run that stopped for a budget can go on."""

    RAISED = "raised"
    """A person gives it more."""
    MONTH = "month"
    """The next month begins, or a person gives it more."""
    SETTLED = "settled"
    """Other runs of the budget have what is left in hand: soon."""


@dataclass(frozen=True, slots=True)
class Stop:
    kind: StopKind
    by: str
    reason: str
    until: Until = Until.RAISED


class Switch:
    """Thrown by anyone on the event loop; looked at by the graph between steps."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self._questions: set[asyncio.Task[object]] = set()
        self._calls: set[asyncio.Task[object]] = set()

    def throw(self, stop: Stop, *, grace_s: float) -> None:
        """Stop at the next step; end calls that still run after the grace. The first stop stands, but LOST wins."""
        if self.stop is not None and stop.kind is not StopKind.LOST:
            return
        self.stop = stop
        _cancel(self._questions)
        if grace_s <= 0:
            _cancel(self._calls)
        else:
            asyncio.get_running_loop().call_later(grace_s, _cancel, self._calls)

    def end_calls(self) -> None:
        """End the calls that still run, before their grace is over."""
        _cancel(self._calls)

    async def question(self, work: Coroutine[object, object, T]) -> T | None:
        """Wait for a model's answer; None where the switch was thrown first."""
        return await self._until_stopped(work, self._questions)

    async def call(self, work: Coroutine[object, object, T]) -> T | None:
        """Wait for a tool call; None where the switch was thrown and the grace ended first."""
        return await self._until_stopped(work, self._calls)

    async def _until_stopped(self, work: Coroutine[object, object, T], group: set[asyncio.Task[object]]) -> T | None:
        if self.stop is not None:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work)
        group.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if self.stop is None or (waiting is not None and waiting.cancelling()):
                raise
            return None
        finally:
            group.discard(task)


def _cancel(tasks: set[asyncio.Task[object]]) -> None:
    for task in tuple(tasks):
        task.cancel()

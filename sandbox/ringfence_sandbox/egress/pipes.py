"""Moves bytes both ways until both ends are done, one breaks, or nothing moves any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from ringfence_sandbox.egress.streams import Stream


async def pipe(inside: Stream, outside: Stream, *, idle_s: float) -> None:
    """Join two streams. Ends when both directions have ended. Raises `OSError` (also `TimeoutError`: idle)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(idle_s) as idle:

        def touch() -> None:
            idle.reschedule(loop.time() + idle_s)

        await both(_one_way(inside, outside, touch), _one_way(outside, inside, touch))


async def _one_way(source: Stream, sink: Stream, touch: Callable[[], None]) -> None:
    while data := await source.receive():
        touch()
        await sink.send(data)
        await asyncio.sleep(0)  # a fast source and a fast sink never wait: others must have their turn
    await sink.send_eof()


async def both(first: Coroutine[None, None, None], second: Coroutine[None, None, None]) -> None:
    """Run two to the end; when one fails the other is cancelled and the failure raised as it is."""
    tasks = (asyncio.create_task(first), asyncio.create_task(second))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for failure in failed:
        if failure is not None:
            raise failure

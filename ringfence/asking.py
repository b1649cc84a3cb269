"""Asking the person at the terminal without stopping the event loop: votes, expiries and Ctrl-C are seen meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable


async def ask_line(prompt: str) -> str | None:
    """One line from standard input, or None at its end (Ctrl-D). Safe to cancel. Needs a terminal."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def is_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    sys.stdout.write(prompt)
    sys.stdout.flush()
    loop.add_reader(descriptor, is_ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
    # The terminal is line-buffered by the kernel: once it is readable, a whole line is there.
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


async def ask_until(prompt: str, is_over: Callable[[], Awaitable[bool]], *, every_s: float = 0.5) -> str | None:
    """`ask_line`, given up (None) once `is_over` says so. Checked now and then, by the loop's clock."""
    question = asyncio.ensure_future(ask_line(prompt))
    try:
        while True:
            done, _ = await asyncio.wait({question}, timeout=every_s)
            if done:
                return question.result()
            if await is_over():
                sys.stdout.write("\n")
                return None
    finally:
        question.cancel()
        await asyncio.gather(question, return_exceptions=True)

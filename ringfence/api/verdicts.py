"""The verdict of the last verification of the log, as every page shows it.

Verifying reads the whole log and takes its time, so it runs in a process of its own; what is shown says when it was.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ringfence.itself import itself
from ringfence.settings import Settings

WITHIN_S = 1800.0


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """`grade` as in `ringfence_audit.verify`, or `unknown` where verification could not be carried out. `unanchored`
    are the entries that somebody who holds the log's key could have changed without being found."""

    grade: str
    text: str
    size: int
    at: datetime
    unanchored: int = 0
    is_complete: bool = True

    @property
    def is_good(self) -> bool:
        return self.is_complete and self.grade not in ("broken", "unknown")


Check = Callable[[], Awaitable[LogVerdict]]


class Verdicts:
    """Keeps the newest verdict; two askers at once share one verification."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._running: asyncio.Task[LogVerdict] | None = None
        self.last: LogVerdict | None = None

    async def refresh(self) -> LogVerdict:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(self._running)

    async def keep(self, every_s: float) -> None:
        """Verify now and then again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(every_s)

    async def _run(self) -> LogVerdict:
        self.last = await self._check()
        return self.last


def check_in_process(settings: Settings) -> Check:
    """`ringfence audit verify` over this state folder."""

    async def check() -> LogVerdict:
        process = await asyncio.create_subprocess_exec(
            *itself("audit", "verify", "--json"),
            env={**os.environ, "RINGFENCE_HOME": str(settings.home), "RINGFENCE_CONFIG": str(settings.config)},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(WITHIN_S):
                output, _ = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise
        return read_verdict(output)

    return check


def read_verdict(output: bytes) -> LogVerdict:
    at = datetime.now(UTC)
    for line in output.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("type") == "verdict":
            grade, size, unanchored = str(found["grade"]), int(found["size"]), int(found["unanchored"])
            return LogVerdict(grade, str(found["text"]), size, at, unanchored, found["is_complete"] is not False)
    return LogVerdict("unknown", "the log could not be verified", 0, at)

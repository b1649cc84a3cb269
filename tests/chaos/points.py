"""Named points on the path of a tool call at which a process can be ended, from the outside of the code under test.

Every durable step is a transaction, so the points are found by what a transaction records: *before* is inside it, with
nothing committed yet, *after* is once it is on disk. Around the sandbox they lie before and after an action, and within
it, when its effect has begun and may not have ended. At each of them it is the process that is ended, or the
PostgreSQL that it stands on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import Action, Outcome, OutputSink
from ringfence_sandbox.local.ownership import children
from ringfence_sandbox.local.sandbox import LocalSandbox
from ringfence_sandbox.served import ServedSandbox
from tests.fixtures_postgres import kill_server

T = TypeVar("T")

WORKER_POINTS = (
    "before answer", "after answer", "before intent", "after intent", "before wait", "after wait", "before consume",
    "after consume", "before exec", "within exec", "after exec", "server within exec", "before outcome",
    "after outcome", "before move", "after move",
)  # fmt: skip
API_POINTS = ("before vote", "after vote")
DATABASE = "database "
DATABASE_POINTS = (
    "database before answer", "database before intent", "database after intent", "database before consume",
    "database after consume", "database within exec", "database before outcome", "database after outcome",
    "database before move", "database after wait",
)  # fmt: skip
"""PostgreSQL is ended when a worker comes there, and the worker lives on."""
DATABASE_API_POINTS = ("database before vote", "database after vote")
NOWHERE = "nowhere"
QUIET_S = 0.3
WITHIN_S = 0.02
"""How long after its start an action is cut off: its line is written at once, its end comes later."""

NAMES = {
    Kind.EXCHANGE: "answer",
    Kind.INTENT: "intent",
    Kind.ESCALATION: "wait",
    Kind.OUTCOME: "outcome",
    Kind.VOTE: "vote",
    Kind.RUN_STATE: "move",
}


@dataclass
class Fate:
    """Ends (or stops) this process when it comes to its point for the `nth` time; with `database` that server.

    What it ends other than this process is written to `told`, a line each.
    """

    point: str
    nth: int = 1
    number: signal.Signals = signal.SIGKILL
    database: int | None = None
    told: Path | None = None
    seen: int = field(default=0)

    def at(self, point: str) -> None:
        if self.meets(point):
            self.befall()

    def befall(self) -> None:
        if self.database is not None:
            self.tell(DATABASE + self.point)
            kill_server(self.database)
            return
        if self.number == signal.SIGSTOP:
            # Nothing new is begun meanwhile: a process that is stopped while it holds SQLite's lock holds everybody.
            time.sleep(QUIET_S)
        os.kill(os.getpid(), self.number)

    def tell(self, name: str) -> None:
        if self.told is not None:
            append(self.told, name)

    def meets(self, point: str) -> bool:
        if point != self.point:
            return False
        self.seen += 1
        return self.seen == self.nth


def append(path: Path, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


class _Watching:
    """A transaction whose events are seen on their way."""

    def __init__(self, inner: Transaction, seen: list[Kind]) -> None:
        self._inner = inner
        self._seen = seen

    @property
    def connection(self) -> Connection:
        return self._inner.connection

    @property
    def now(self) -> datetime:
        return self._inner.now

    def record(self, event: Event) -> None:
        self._seen.append(event.kind)
        self._inner.record(event)

    def announce(self) -> None:
        self._inner.announce()


def name_of(kinds: list[Kind]) -> str:
    """What a transaction that recorded these is called; "" for one that is no point."""
    if Kind.INTENT in kinds and Kind.SETTLED in kinds:
        return "consume"
    return next((NAMES[kind] for kind in kinds if kind in NAMES), "")


class FatalStore:
    """A store in whose transactions a process meets its fate."""

    def __init__(self, inner: Store, fate: Fate) -> None:
        self._write, self._read = inner.write, inner.read
        self._fate = fate

    async def write(self, work: Callable[[Transaction], T]) -> T:
        seen: list[Kind] = []

        def watched(tx: Transaction) -> T:
            seen.clear()
            result = work(_Watching(tx, seen))
            self._fate.at(f"before {name_of(seen)}")
            return result

        result = await self._write(watched)
        self._fate.at(f"after {name_of(seen)}")
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._read(work)


def make_actions_fatal(fate: Fate) -> None:
    """For the rest of this process, local sandboxes' actions meet its fate too."""
    perform = ServedSandbox.perform

    async def fatal(self: ServedSandbox, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        fate.at("before exec")
        loop = asyncio.get_running_loop()
        if fate.meets("within exec"):
            loop.call_later(WITHIN_S, fate.befall)
        if isinstance(self, LocalSandbox) and fate.meets("server within exec"):
            loop.call_later(WITHIN_S, _kill_server_of, self, fate)
        outcome = await perform(self, action, on_output=on_output)
        fate.at("after exec")
        return outcome

    ServedSandbox.perform = fatal  # type: ignore[method-assign]  # this process exists to be killed


def _kill_server_of(sandbox: LocalSandbox, fate: Fate) -> None:
    fate.tell(fate.point)
    for pid in children(sandbox._process.pid):
        os.kill(pid, signal.SIGKILL)

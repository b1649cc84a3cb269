"""The one thread that applies transactions to the log in groups, and tells the callers once they are durable.

Every write of the product passes here. What queued while the last batch was being committed forms the next one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from ringfence_audit.database import STORAGE_ERRORS, Database
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.log import CHECKPOINT_S, Log, OpenTransaction, Task

_LARGEST_BATCH = 512
_TEND_EVERY = 32
"""Batches between two looks at the database's upkeep."""


@dataclass(slots=True)
class Job:
    """What a caller waits for: a transaction, or (`task` None) a checkpoint over all that is committed."""

    task: Task | None
    # Any: the writer passes results through without looking at them.
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: Exception | None = None


def write_job(work: Callable[[OpenTransaction], object], loop: asyncio.AbstractEventLoop) -> Job:
    return Job(Task(work), loop.create_future(), loop)


def seal_job(loop: asyncio.AbstractEventLoop) -> Job:
    return Job(None, loop.create_future(), loop)


class Writer:
    """Owns the log and its thread. `start`, then `put` from any loop, then `stop`."""

    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="audit-keeper", daemon=True)
        self._due = threading.Event()
        self._closing = threading.Lock()
        self._is_closed = False

    def start(self) -> None:
        self._thread.start()
        self._keeper.start()

    def put(self, job: Job) -> None:
        with self._closing:
            if self._is_closed:
                raise LogUnavailable("the store is closed")
            self._queue.put(job)

    def stop(self) -> None:
        """Finish what was queued, sign a last checkpoint, then end the threads. Safe to repeat."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()
        self._due.set()
        self._keeper.join()

    def _run(self) -> None:
        is_open, batches = True, 0
        while is_open:
            jobs, is_open = self._collect()
            self._work(jobs)
            batches += 1
            if batches % _TEND_EVERY == 0:
                self._due.set()
        if self._log.has_uncovered:
            self._seal_quietly()
        self._log.close()

    def _work(self, jobs: list[Job]) -> None:
        live = [job for job in jobs if not job.future.cancelled()]
        if not live:
            if not jobs and self._log.has_uncovered:
                self._seal_quietly()
            return
        tasks = [job.task for job in live if job.task is not None]
        if tasks:
            self._log.apply(tasks, lambda: self._late(live))
        if len(tasks) < len(live):
            self._seal_for([job for job in live if job.task is None])
        _tell(live)

    def _collect(self) -> tuple[list[Job], bool]:
        """Wait for a job and take all that queued behind it; none where a checkpoint is due first. False where the
        writer is to end afterwards."""
        try:
            item = self._first()
        except Empty:
            return [], True
        jobs: list[Job] = []
        while item is not None:
            jobs.append(item)
            if len(jobs) == _LARGEST_BATCH:
                return jobs, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False

    def _late(self, live: list[Job]) -> list[Task]:
        """What queued while the log waited for its turn joins the batch."""
        late: list[Task] = []
        while len(live) < _LARGEST_BATCH:
            try:
                job = self._queue.get_nowait()
            except Empty:
                break
            if job is None:
                self._queue.put(None)  # the end: nothing can queue behind it
                break
            if not job.future.cancelled():
                live.append(job)
                late += [job.task] if job.task is not None else []
        return late

    def _first(self) -> Job | None:
        if not self._log.has_uncovered:
            return self._queue.get()
        return self._queue.get(timeout=CHECKPOINT_S)

    def _seal_for(self, jobs: list[Job]) -> None:
        try:
            note = self._log.seal()
        except LogUnavailable as error:
            for job in jobs:
                job.error = error
        else:
            for job in jobs:
                job.result = note

    def _seal_quietly(self) -> None:
        """A checkpoint that could not be stored leaves entries uncovered, which verify counts; it is tried again with
        the next batch, so nobody need be told here."""
        with suppress(LogUnavailable):
            self._log.seal()

    def _keep(self) -> None:
        """Upkeep beside the writer. A failure here costs space, not safety; the next round tries again."""
        while self._thread.is_alive():
            self._due.wait()
            self._due.clear()
            with suppress(*STORAGE_ERRORS):
                self._database.tend()


def _tell(jobs: list[Job]) -> None:
    """One wake-up per loop, however many of its jobs are done."""
    loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, done in loops.items():
        with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_settle, done)


def _settle(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        answer = job.task or job
        if answer.error is not None:
            job.future.set_exception(answer.error)
        else:
            job.future.set_result(answer.result)

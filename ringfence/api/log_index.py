"""The index of the log beside a server: built while nobody waits, asked in a thread of its own.

It says where to look; what is answered is read from the evidence. Entries that it does not hold yet are looked through
one by one, newest first, so that an answer is never older than its question. Without it (a first build under way, a
file that cannot be read) that is all there is, in bounded pages, and the page says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from ringfence.searching import open_index
from ringfence.settings import Settings
from ringfence_audit.errors import LogUnavailable
from ringfence_audit.index import Index, IndexDamaged
from ringfence_audit.store import SqlStore

T = TypeVar("T")
CHUNK = 1_000
"""Entries that one step indexes: some hundred milliseconds in which requests share the processor."""
LOOK_S = 0.5
AGAIN_S = 60.0
_LOG = logging.getLogger("ringfence.api")


class LogIndex:
    """`run` it in a task; `read` asks. Closed by `close`."""

    def __init__(self, settings: Settings, store: SqlStore) -> None:
        self._settings = settings
        self._store = store
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="log-index")
        self._held = contextlib.ExitStack()
        self._index: Index | None = None

    async def run(self) -> None:
        """Keep the index up with the log until cancelled. An index that cannot be written is tried again later."""
        while True:
            try:
                with open_index(self._settings, self._store) as index:
                    await self._keep_up(index)
            except IndexDamaged as error:
                _LOG.warning("%s", error)
            await asyncio.sleep(AGAIN_S)

    async def _keep_up(self, index: Index) -> None:
        def step(connection: Connection) -> int:
            return index.catch_up(connection, limit=CHUNK)

        while True:
            done, began = 0, time.monotonic()
            with contextlib.suppress(LogUnavailable):
                done = await self._store.read(step)
            # While much is to be built, half of the time belongs to the requests.
            await asyncio.sleep(time.monotonic() - began if done == CHUNK else LOOK_S)

    async def read(self, work: Callable[[Connection, Index | None], T]) -> T:
        """`work` on a connection to the log and on the index, None where it cannot be opened."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, self._read, work)

    def _read(self, work: Callable[[Connection, Index | None], T]) -> T:
        try:
            return self._store.read_now(lambda connection: work(connection, self._opened()))
        except IndexDamaged as error:
            _LOG.warning("%s", error)
            self._held.close()
            self._index = None
            return self._store.read_now(lambda connection: work(connection, None))

    def _opened(self) -> Index | None:
        if self._index is None and self._settings.index_file.exists():
            self._index = self._held.enter_context(open_index(self._settings, self._store))
        return self._index

    def close(self) -> None:
        """Safe to repeat. Waits for the question under way."""
        self._asking.shutdown()
        self._held.close()
        self._index = None


def walk_back(top: int, floor: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges [start, end) of at most `size` positions from below `top` down to `floor`, the highest first."""
    end = top
    while end > floor:
        start = max(end - size, floor)
        yield start, end
        end = start

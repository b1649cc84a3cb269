"""Wake-ups: a process hears at once that another one committed something to be done, a vote above all.

Say it in the transaction that makes it true (`Transaction.announce`), hear it with `SqlStore.wakeups()`:

    async with store.wakeups() as news:
        while True:
            await news.wait(timeout_s=30)
            ...  # look

It is said wherever a run becomes ready for a worker (`agents: control`, `runs.open_run`) or a person asks something of
one that is held (pause, cancel); a worker hears it beside `Worker.wake`, the keeper beside its look at requests.

An announcement says only *look again*: what there is to do stands in the tables. On PostgreSQL it is NOTIFY in the
announcing transaction; on SQLite a counter in the file, read when the file's write-ahead log was written to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from ringfence_audit.file_watch import FileWatch

CHANNEL = "ringfence_news"
_COALESCE_S = 0.01
"""A busy log is written to thousands of times a second; the counter is not read for each of them."""
_NET_S = 1.0
"""How often the counter is read where the system gives no watch on the folder."""
_AGAIN_S = 1.0


@asynccontextmanager
async def file_wakeups(path: Path, counter: Callable[[], int]) -> AsyncIterator[FileWakeups]:
    """Of the log in this file. `counter` reads how often something was announced; it may block a little."""
    watch = FileWatch(path.parent, path.name)
    try:
        yield FileWakeups(watch, counter, await asyncio.to_thread(counter))
    finally:
        watch.close()


class FileWakeups:
    """See `port.Wakeups`."""

    def __init__(self, watch: FileWatch, counter: Callable[[], int], seen: int) -> None:
        self._watch = watch
        self._counter = counter
        self._seen = seen

    async def wait(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            count = await asyncio.to_thread(self._counter)
            if count != self._seen:
                self._seen = count
                return True
            left_s = until - loop.time()
            if left_s <= 0:
                return False
            await self._watch.wait(min(left_s, _NET_S))
            await asyncio.sleep(min(left_s, _COALESCE_S))


@asynccontextmanager
async def server_wakeups(address: str) -> AsyncIterator[ServerWakeups]:
    """Of the server at this DSN, on one connection that LISTENs and is opened anew where it breaks."""
    wakeups = ServerWakeups(address)
    await wakeups.connect()
    try:
        yield wakeups
    finally:
        await wakeups.let_go()


class ServerWakeups:
    """See `port.Wakeups`."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Any: the rows of a connection that reads none.
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def wait(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        if self._connection is None and await self.connect():
            return True  # what was announced while nobody listened is not known
        if self._connection is not None:
            try:
                async for _ in self._connection.notifies(timeout=timeout_s, stop_after=1):
                    return True
            except psycopg.Error:
                await self.let_go()
            else:
                return False
        await asyncio.sleep(max(0.0, min(_AGAIN_S, until - loop.time())))
        return False

    async def connect(self) -> bool:
        """Whether it listens now."""
        try:
            self._connection = await psycopg.AsyncConnection.connect(
                self._address, autocommit=True, application_name="ringfence-news", connect_timeout=10
            )
            await self._connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error:
            await self.let_go()
            return False
        return True

    async def let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

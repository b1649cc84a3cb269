"""A TCP port that leads to a Unix socket: how pods of the test cluster reach the tests' PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def relay(host: str, socket: Path) -> Iterator[int]:
    """Listen on `host` until the end, in a thread of its own. Yields the port."""
    loop = asyncio.new_event_loop()
    started: asyncio.Future[int] = loop.create_future()
    ready = threading.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(64 << 10):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(str(socket))
        with suppress(asyncio.CancelledError):  # at the end, and the streams' own callback would tell of it
            await asyncio.gather(carry(reader, outer), carry(inner, writer))

    async def serve() -> None:
        server = await asyncio.start_server(accept, host, 0)
        started.set_result(server.sockets[0].getsockname()[1])
        ready.set()
        with suppress(asyncio.CancelledError):
            await server.serve_forever()
        server.close()

    task = loop.create_task(serve())

    async def end() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def run() -> None:
        loop.run_until_complete(task)
        loop.run_until_complete(end())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10), "the relay did not start"
    try:
        yield started.result()
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)

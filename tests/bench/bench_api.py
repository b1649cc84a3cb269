"""What people wait for: pages over a large store, idle event streams, and an event's way to a page.

Figures are printed; the processor's own time stands beside the wait, since a busy machine changes the latter alone.
`RINGFENCE_BENCH_SCALE=0.1` makes a tenth of the rows. The first request of a page compiles its template.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from sqlalchemy import insert, select

from ringfence.api.app import create_app
from ringfence.api.house import House, Origin
from ringfence.auth import sessions
from ringfence_agents.schema import runs, tasks
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_tools.clock import micros
from tests.integration.api.world import house_at, make_seeded, store_at

SCALE = float(os.environ.get("RINGFENCE_BENCH_SCALE", "1"))
TASKS, ENTRIES, STREAMS = int(100_000 * SCALE), int(1_000_000 * SCALE), 500
PAGES = (
    "/inbox",
    "/inbox/4",
    "/board",
    "/board?lane=2",
    "/audit",
    "/audit/40",
    "/profiles",
    "/operate",
    "/me",
    "/people",
)
API = ("/api/v1/inbox", "/api/v1/tasks?limit=50", "/api/v1/escalations", "/api/v1/grants", "/api/v1/entries?limit=50")


@dataclass(frozen=True)
class Big:
    house: House
    store: SqlStore
    cookie: dict[str, str]


@asynccontextmanager
async def big(folder: Path) -> AsyncIterator[Big]:
    await asyncio.to_thread(make_seeded, folder)
    with store_at(folder) as store:
        house = house_at(folder, store)
        await _fill(store)
        secret = await store.write(lambda tx: sessions.open_session(tx, "eve", how="test", address="127.0.0.1"))
        yield Big(house, store, {house.session_cookie: secret})


async def _fill(store: SqlStore) -> None:
    started = time.perf_counter()
    template = await store.read(lambda c: c.execute(runs.select().limit(1)).mappings().one())

    def add(first: int, count: int, tx: Transaction) -> None:
        now = micros(tx.now)
        states = ("finished", "failed", "cancelled", "finished", "finished")
        tx.connection.execute(
            insert(tasks),
            [
                {"id": f"tb{n}", "text": f"Task {n}", "repository": "https://git.example.org/a/b", "team": "billing",
                 "assigned_by": "ana", "created_at": now - n * 1000}
                for n in range(first, first + count)
            ],
        )  # fmt: skip
        rows = [
            {**template, "id": f"rb{n}", "task": f"tb{n}", "state": states[n % 5], "waits_for": "", "team": "billing",
             "worker": "", "created_at": now - n * 1000}
            for n in range(first, first + count)
        ]  # fmt: skip
        tx.connection.execute(insert(runs), rows)

    for first in range(0, TASKS, 2_000):
        await store.write(lambda tx, first=first: add(first, 2_000, tx))  # type: ignore[misc]  # bound now

    def log(first: int, tx: Transaction) -> None:
        for n in range(first, first + 2_000):
            data: dict[str, JsonValue] = {
                "tool": "shell",
                "decision": {"effect": "allow", "rules": ["inside"]},
                "host": f"h{n % 97}.example",
            }
            tx.record(Event(Kind.INTENT, f"agent:rb{n % 5000}", data, f"rb{n % 5000}", f"rb{n % 5000}/1/{n}"))

    for first in range(0, ENTRIES, 2_000):
        await store.write(lambda tx, first=first: log(first, tx))  # type: ignore[misc]  # bound now
    print(f"\nfilled {TASKS} tasks and {ENTRIES} entries in {time.perf_counter() - started:.0f} s")


@pytest.mark.bench
async def test_pages_over_a_large_store(tmp_path: Path) -> None:
    async with big(tmp_path) as world:
        transport = httpx.ASGITransport(create_app(world.house))
        async with httpx.AsyncClient(
            transport=transport, base_url=world.house.origin.text, cookies=world.cookie
        ) as eve:
            for path in (*PAGES, *API):
                took, used = [], []
                for _ in range(20):
                    started, before = time.perf_counter(), time.process_time()
                    answer = await eve.get(path)
                    took.append((time.perf_counter() - started) * 1000)
                    used.append((time.process_time() - before) * 1000)
                    assert answer.status_code in (200, 403), (path, answer.status_code)
                p95 = statistics.quantiles(took, n=20)[-1]
                cpu = statistics.quantiles(used, n=20)[-1]
                print(
                    f"{path:<28} p50 {statistics.median(took):7.1f} ms   p95 {p95:7.1f} ms   "
                    f"of which at work p95 {cpu:6.1f} ms   {answer.status_code}"
                )


@pytest.mark.bench
async def test_idle_streams_and_the_way_of_an_event(tmp_path: Path) -> None:
    await asyncio.to_thread(make_seeded, tmp_path)
    with store_at(tmp_path) as store:
        house = house_at(tmp_path, store)
        secret = await store.write(lambda tx: sessions.open_session(tx, "cleo", how="test", address="127.0.0.1"))
        config = uvicorn.Config(create_app(house), port=0, log_config=None, access_log=False)
        server = uvicorn.Server(config)
        feed = asyncio.create_task(house.feed.run())
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 uvicorn offers no event
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        object.__setattr__(house, "origin", Origin("http", "127.0.0.1", port))
        head = (
            f"GET /api/v1/inbox/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Cookie: {house.session_cookie}={secret}\r\n\r\n"
        ).encode()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        streams = []
        for _ in range(STREAMS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            await reader.readuntil(b"retry: 2000")
            await reader.readuntil(b"\n\n")
            streams.append((reader, writer))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
        before, started = time.process_time(), time.perf_counter()
        await asyncio.sleep(10)
        share = (time.process_time() - before) / (time.perf_counter() - started)
        print(f"\n{STREAMS} idle streams: {share:.1%} of one core, {grown:.0f} MB (client ends included)")
        took = []
        for n in range(30):
            data = {"escalation": 4, "n": n}
            await store.write(lambda tx, data=data: tx.record(Event(Kind.VOTE, "person:ben", data, _run(store))))  # type: ignore[misc]
            durable = time.perf_counter()
            while b"escalation.vote" not in await streams[0][0].readuntil(b"\n\n"):
                pass
            took.append((time.perf_counter() - durable) * 1000)
        print(f"event to page: p50 {statistics.median(took):.0f} ms, p95 {statistics.quantiles(took, n=20)[-1]:.0f} ms")
        house.feed.close()
        server.should_exit = True
        for _, writer in streams:
            writer.close()
        await serving
        feed.cancel()


def _run(store: SqlStore) -> str:
    query = select(runs.c.id).where(runs.c.team == "billing").limit(1)
    return str(store.read_now(lambda c: c.execute(query).scalar_one()))

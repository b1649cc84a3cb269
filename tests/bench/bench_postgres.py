"""PostgreSQL: many writers against unsequenced raw inserts, and governed runs against a bare LangGraph loop.

The server is our own, with fsync on. Ratios are of one run on one machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from ringfence_agents.runs import RunState
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.notes import VerifierKey
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify
from ringfence_tools.calls import RunId
from ringfence_tools.policy import Policy
from ringfence_tools.profile import load_profile
from tests.bench.bench_runs import CALLS, RUNS, TURNS, _answer, bare_loop
from tests.fakes.model import ScriptedModel
from tests.fixtures_postgres import PostgresMissing, PostgresServer, find_binaries, make_database
from tests.integration.agents.house import House

pytestmark = [pytest.mark.bench, pytest.mark.postgres]

WRITERS = 8
SECONDS = 2.0
SIGNER = Signer.generate("bench.example/log")
DATA: dict[str, JsonValue] = {
    "tool": "shell",
    "arguments": {"command": "pytest -x tests/unit/test_total.py"},
    "accesses": [{"family": "files", "resource": "/workspace/tests", "attributes": {}}],
    "decision": {"effect": "allow", "rules": ["inside"], "policy_version": "1"},
    "digest": "0" * 64,
}
RAW = b"x" * 620
"""As large as the entry that the same call becomes."""
Work = Callable[[str, int, int, "Barrier", "Queue[int]"], None]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer.make(find_binaries(), is_synced=True)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def url(server: PostgresServer) -> str:
    return make_database(server.url).render_as_string(hide_password=False)


def _governed(url: str, producers: int, writer: int, start: Barrier, done: Queue[int]) -> None:
    async def produce(store: SqlStore, run: str, until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            data: dict[str, JsonValue] = {**DATA, "n": count}
            event = Event(
                Kind.INTENT, f"agent:{run}", data, run=run, call=f"{run}/{count}/0", on_behalf_of="person:ana"
            )
            await store.write(lambda tx, event=event: tx.record(event))  # type: ignore[misc]  # bound per turn
            count += 1
        return count

    async def work() -> int:
        with SqlStore.open(url, signer=SIGNER) as store:
            await store.write(lambda _: None)
            start.wait()
            until = time.perf_counter() + SECONDS
            return sum(await asyncio.gather(*(produce(store, f"r{writer}n{n}", until) for n in range(producers))))

    done.put(asyncio.run(work()))


def _raw(url: str, batch: int, writer: int, start: Barrier, done: Queue[int]) -> None:
    insert = "INSERT INTO raw (entry) VALUES (%s)"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT 1")
        start.wait()
        until, count = time.perf_counter() + SECONDS, 0
        while time.perf_counter() < until:
            with connection.transaction():
                connection.cursor().executemany(insert, [(RAW,)] * batch)
            count += batch
        done.put(count)


def _rate(work: Work, url: str, each: int, writers: int) -> float:
    context = multiprocessing.get_context("fork")
    start: Barrier = context.Barrier(writers)
    done: Queue[int] = context.Queue()
    processes = [context.Process(target=work, args=(url, each, n, start, done)) for n in range(writers)]
    for process in processes:
        process.start()
    total = sum(done.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return total / SECONDS


@pytest.mark.parametrize(("writers", "producers"), [(1, 1), (1, 32), (WRITERS, 1), (WRITERS, 32)])
def test_writers_against_unsequenced_raw_inserts(url: str, writers: int, producers: int) -> None:
    with SqlStore.open(url, signer=SIGNER) as store:
        store.create_schema()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw (position bigserial PRIMARY KEY, entry bytea)")
    raw, ours = _rate(_raw, url, producers, writers), _rate(_governed, url, producers, writers)
    print(f"\n{writers} writers × {producers} producers: raw {raw:.0f}/s, ours {ours:.0f}/s, ratio {ours / raw:.2f}")
    with SqlStore.open(url, signer=SIGNER) as store:
        key = VerifierKey.of_log(SIGNER.origin, SIGNER.public_key)
        assert store.read_now(lambda connection: verify(connection, key)).is_intact


async def _bare(url: str, *, is_pooled: bool) -> float:
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool = AsyncConnectionPool(url, min_size=1, max_size=RUNS if is_pooled else 1, kwargs=options, open=False)
    async with pool:
        strict = JsonPlusSerializer(allowed_msgpack_modules=None)
        saver = AsyncPostgresSaver(pool, serde=strict)  # type: ignore[arg-type]  # its pool type names a row factory
        await saver.setup()
        compiled = bare_loop().compile(checkpointer=saver)

        async def one(n: int) -> None:
            config: RunnableConfig = {"configurable": {"thread_id": str(n)}, "recursion_limit": 1000}
            await compiled.ainvoke({"turn": 0, "done": 0}, config, durability="sync")

        began = time.perf_counter()
        await asyncio.gather(*(one(n) for n in range(RUNS)))
        return RUNS * TURNS * CALLS / (time.perf_counter() - began)


async def _ours(url: str, folder: Path) -> float:
    house = House.build(folder, url=url)
    house.policy = Policy.compile(load_profile("default"))
    with house.store:
        runs = [await house.open(RunId(f"r{n}")) for n in range(RUNS)]
        runner = house.runner(ScriptedModel([_answer]), progress=lambda _: None)
        began = time.perf_counter()
        states = await asyncio.gather(*(runner.drive(run) for run in runs))
        took = time.perf_counter() - began
        assert set(states) == {RunState.FINISHED}
        return RUNS * TURNS * CALLS / took


async def test_governed_calls_a_second_against_a_bare_loop(server: PostgresServer, tmp_path: Path) -> None:
    def fresh() -> str:
        return make_database(server.url).render_as_string(hide_password=False)

    bare = await _bare(fresh(), is_pooled=False)
    pooled = await _bare(fresh(), is_pooled=True)
    ours = await _ours(fresh(), tmp_path)
    print(
        f"\nbare LangGraph on one connection {bare:.0f} calls/s, on a pool {pooled:.0f}; governed {ours:.0f} calls/s;",
        end=" ",
    )
    print(f"ratio {ours / bare:.2f} and {ours / pooled:.2f} (to be at least 1.5)")

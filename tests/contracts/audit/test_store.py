"""What `port.Store` promises, held by every store: on each kind of database that `database_url` gives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import orjson
import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from ringfence_audit import tables
from ringfence_audit.errors import InvalidEvent, LogUnavailable
from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.merkle import leaf_hash
from ringfence_audit.notes import VerifierKey
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore
from ringfence_audit.verify import verify

_METADATA = MetaData()
ROWS = Table("test_rows", _METADATA, Column("name", String(80), primary_key=True), Column("n", Integer))


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    with SqlStore.open(database_url, signer=Signer.generate("test.example/log")) as store:
        store.create_schema()
        asyncio.run(store.write(lambda tx: _METADATA.create_all(tx.connection)))
        yield store


def names(connection: Connection) -> list[str]:
    return sorted(connection.execute(select(ROWS.c.name)).scalars())


def entries(connection: Connection) -> list[bytes]:
    return list(connection.execute(select(tables.entries.c.entry).order_by(tables.entries.c.position)).scalars())


def add(name: str, run: str = "r1") -> Event:
    return Event(Kind.INTENT, "agent:r1", {"name": name}, run=run)


async def put(store: SqlStore, name: str, run: str = "r1") -> str:
    def work(tx: Transaction) -> str:
        tx.connection.execute(insert(ROWS), {"name": name, "n": 1})
        tx.record(add(name, run))
        return name

    return await store.write(work)


async def test_a_transaction_that_raises_leaves_neither_row_nor_entry(store: SqlStore) -> None:
    def work(tx: Transaction) -> None:
        tx.connection.execute(insert(ROWS), {"name": "x", "n": 1})
        tx.record(add("x"))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await store.write(work)
    assert await store.read(names) == []
    assert await store.read(entries) == []


async def test_an_event_that_has_no_canonical_form_undoes_its_transaction(store: SqlStore) -> None:
    def work(tx: Transaction) -> None:
        tx.connection.execute(insert(ROWS), {"name": "x", "n": 1})
        tx.record(Event(Kind.INTENT, "agent:r1", {"cost": 1.5}))  # type: ignore[dict-item]  # that is the point

    with pytest.raises(InvalidEvent):
        await store.write(work)
    assert await store.read(names) == []


async def test_one_bad_transaction_among_many_is_rolled_back_alone(store: SqlStore) -> None:
    async def attempt(n: int) -> str:
        try:
            return await put(store, f"row{n % 40}")
        except IntegrityError:
            return "refused"

    results = await asyncio.gather(*(attempt(n) for n in range(80)))
    assert results.count("refused") == 40
    assert len(await store.read(names)) == len(await store.read(entries)) == 40


async def test_what_a_transaction_does_after_it_was_ended_from_inside_is_no_row_without_an_entry(
    store: SqlStore,
) -> None:
    is_gathered = threading.Event()

    def ends_it(tx: Transaction) -> None:
        tx.connection.exec_driver_sql("ROLLBACK")  # as SQLite itself does on a full disk

    held = asyncio.ensure_future(store.write(lambda tx: is_gathered.wait()))
    batch = [asyncio.ensure_future(one) for one in (put(store, "before"), store.write(ends_it), put(store, "after"))]
    await asyncio.sleep(0)
    is_gathered.set()
    done = await asyncio.gather(held, *batch, return_exceptions=True)
    assert isinstance(done[2], LogUnavailable)
    there = await store.read(names)
    assert there == sorted(one for one in done if isinstance(one, str))
    assert len(await store.read(entries)) == len(there)
    await put(store, "later")


async def test_a_reader_cannot_write(store: SqlStore) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only"):
        await store.read(lambda connection: connection.execute(insert(ROWS), {"name": "x", "n": 1}))
    assert await store.read(names) == []


async def test_a_closed_store_refuses(store: SqlStore) -> None:
    store.close()
    with pytest.raises(LogUnavailable, match="closed"):
        await put(store, "x")


async def test_what_was_written_is_read_back_with_its_entry(store: SqlStore) -> None:
    assert await put(store, "x") == "x"
    assert await store.read(names) == ["x"]
    body = orjson.loads((await store.read(entries))[0])
    assert body["event"]["data"] == {"name": "x"}
    assert body["stream"]["id"] == "r1"
    assert body["stream"]["n"] == 0
    assert body["stream"]["previous"] is None


async def test_entries_of_a_run_are_chained_in_commit_order(store: SqlStore) -> None:
    await asyncio.gather(*(put(store, f"{run}-{n}", run) for n in range(50) for run in ("a", "b", "c")))
    heads: dict[str, tuple[int, str | None]] = {}
    for raw in await store.read(entries):
        stream = orjson.loads(raw)["stream"]
        assert (stream["n"], stream["previous"]) == heads.get(stream["id"], (0, None))
        heads[stream["id"]] = (stream["n"] + 1, leaf_hash(raw).hex())
    assert {name: n for name, (n, _) in heads.items()} == {"a": 50, "b": 50, "c": 50}


async def test_two_stores_on_one_database_extend_one_log(store: SqlStore, database_url: str) -> None:
    with SqlStore.open(database_url, signer=store.signer) as other:
        for n in range(30):
            await asyncio.gather(put(store, f"s{n}"), put(other, f"o{n}"), put(other, f"p{n}", "r2"))
    await put(store, "last")
    raws = await store.read(entries)
    assert len(raws) == 91
    ns = [orjson.loads(raw)["stream"]["n"] for raw in raws if orjson.loads(raw)["stream"]["id"] == "r1"]
    assert ns == list(range(61))


@pytest.mark.parametrize("count", [3, 5_000])
async def test_what_others_append_meanwhile_is_built_upon(store: SqlStore, database_url: str, count: int) -> None:
    def much(tx: Transaction) -> None:
        for n in range(count):
            tx.record(add(str(n), f"r{n % 3}"))

    await put(store, "before", "r1")
    with SqlStore.open(database_url, signer=store.signer) as other:
        await other.write(much)
        await asyncio.gather(put(store, "known", "r1"), put(store, "new", "r9"))
    await store.checkpoint()
    key = VerifierKey.of_log(store.signer.origin, store.signer.public_key)
    verdict = await store.read(lambda connection: verify(connection, key, is_evidence_only=True))
    assert (verdict.is_intact, verdict.size) == (True, count + 3), verdict.text


async def test_a_cancelled_caller_does_not_disturb_the_others(store: SqlStore) -> None:
    tasks = [asyncio.create_task(put(store, f"n{n}")) for n in range(20)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[3], asyncio.CancelledError)
    assert [r for i, r in enumerate(results) if i != 3] == [f"n{n}" for n in range(20) if n != 3]


def test_one_store_serves_several_event_loops(store: SqlStore) -> None:
    assert asyncio.run(put(store, "first")) == "first"
    assert asyncio.run(put(store, "second")) == "second"

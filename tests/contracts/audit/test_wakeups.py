"""What is announced in a transaction is heard at once by every process, on each kind of database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from ringfence_audit.events import Event, Kind
from ringfence_audit.keys import Signer
from ringfence_audit.port import Transaction
from ringfence_audit.store import SqlStore

SIGNER = Signer.generate("test.example/log")


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    with SqlStore.open(database_url, signer=SIGNER) as store:
        store.create_schema()
        yield store


async def say(store: SqlStore) -> None:
    await store.write(lambda tx: tx.announce())


async def test_what_is_rolled_back_wakes_nobody(store: SqlStore) -> None:
    def work(tx: Transaction) -> None:
        tx.announce()
        raise KeyError("mine")

    async with store.wakeups() as news:
        with pytest.raises(KeyError):
            await store.write(work)
        assert not await news.wait(0.1)


async def test_a_write_that_announces_nothing_wakes_nobody(store: SqlStore) -> None:
    async with store.wakeups() as news:
        await store.write(lambda tx: tx.record(Event(Kind.GAP, "system:test", {"n": 1})))
        assert not await news.wait(0.1)


async def test_what_was_announced_before_is_not_news(store: SqlStore) -> None:
    await say(store)
    async with store.wakeups() as news:
        assert not await news.wait(0.1)


async def test_another_store_is_heard_at_once_and_once(store: SqlStore, database_url: str) -> None:
    with SqlStore.open(database_url, signer=SIGNER) as other:
        async with store.wakeups() as news:
            for _ in range(3):
                waiting = asyncio.create_task(news.wait(30))
                await asyncio.sleep(0)
                began = time.monotonic()
                await say(other)
                assert await waiting
                assert time.monotonic() - began < 10, "heard by the announcement, not by the end of the wait"
            assert not await news.wait(0.1)


async def test_what_is_announced_between_two_waits_is_heard_at_the_next(store: SqlStore) -> None:
    async with store.wakeups() as news:
        await asyncio.gather(*(say(store) for _ in range(5)))
        assert await news.wait(30)


async def test_a_wait_that_is_cancelled_leaves_the_ear_open(store: SqlStore) -> None:
    async with store.wakeups() as news:
        waiting = asyncio.create_task(news.wait(30))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await say(store)
        assert await news.wait(30)


@pytest.mark.postgres
async def test_a_connection_that_was_cut_is_opened_anew_and_may_have_missed_something(postgres_url: str) -> None:
    with SqlStore.open(postgres_url, signer=SIGNER) as store:
        store.create_schema()
        async with store.wakeups() as news:
            await store.write(
                lambda tx: tx.connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ringfence-news'"
                ).all()
            )
            for _ in range(20):
                if await news.wait(1):
                    break
            else:
                pytest.fail("it never listened again")
            await say(store)
            assert await news.wait(30)

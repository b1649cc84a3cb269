"""Transactions that each touch several runs take the rows in one order: beside each other they wait, never in a ring.

The store lets one batch at a time write, which hides an order that is wrong. Here two sessions of their own stand
beside each other, held up by a third at the row that each would take first or last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, Update, create_engine, select, text, update

from ringfence_agents.control import Whose, stop
from ringfence_agents.leases import Lease, claim, free_dead, renew, shorten
from ringfence_agents.schema import runs
from ringfence_audit.events import Event
from ringfence_audit.port import Transaction
from ringfence_tools.calls import RunId
from tests.integration.agents.house import House

pytestmark = pytest.mark.postgres
WITHIN_S = 20.0


@dataclass
class Beside:
    """A transaction that did not wait for the others' turn."""

    connection: Connection
    now: datetime

    def record(self, event: Event) -> None:
        """Not what is looked at here."""

    def announce(self) -> None:
        """Nobody listens."""


@pytest.fixture
def house(tmp_path: Path, emptied_postgres: str) -> Iterator[House]:
    house = House.build(tmp_path, url=emptied_postgres)
    with house.store:
        yield house


@pytest.fixture
def engine(emptied_postgres: str, house: House) -> Iterator[Engine]:
    engine = create_engine(emptied_postgres.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


@contextmanager
def held(engine: Engine, run: str) -> Iterator[None]:
    with engine.begin() as connection:
        connection.execute(select(runs.c.id).where(runs.c.id == run).with_for_update())
        yield


class Sessions:
    """Each piece of work in a session and a thread of its own."""

    def __init__(self, engine: Engine, pool: ThreadPoolExecutor, now: datetime) -> None:
        self._engine = engine
        self._pool = pool
        self._now = now

    def begin(self, work: Callable[[Transaction], object]) -> Future[object]:
        """Start it, and return once it waits for a row that another holds."""
        waiting = self._waiting()
        done = self._pool.submit(self._run, work)
        while self._waiting() == waiting:
            assert not done.done(), "it did not come to wait for anybody"
        return done

    def _run(self, work: Callable[[Transaction], object]) -> object:
        with self._engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '20s'"))
            return work(Beside(connection, self._now))

    def _waiting(self) -> int:
        blocked = text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        with self._engine.connect() as connection:
            return int(connection.execute(blocked).scalar_one())


def shortens(tx: Transaction) -> object:
    return shorten(tx, lease_s=30)


def frees(tx: Transaction) -> object:
    return free_dead(tx, "w1")


def stops(tx: Transaction) -> object:
    return stop(tx, Whose(), by="person:ana", reason="all of it")


@pytest.mark.parametrize("first_written", ["a", "b"])
@pytest.mark.parametrize("sweeps", [shortens, frees, stops])
async def test_renewals_beside_a_sweep_over_all_leases_wait_and_never_in_a_ring(
    house: House, engine: Engine, sweeps: Callable[[Transaction], object], first_written: str
) -> None:
    leases = {}
    for name in sorted("ab", reverse=first_written == "b"):
        await house.open(RunId(name))
    for name in "ba":  # the order in which the worker took them, which must not be that of the rows
        record = await house.store.write(partial(claim, run=RunId(name), worker="w1", lease_s=30))
        leases[Lease(RunId(name), "w1", record.fence)] = 7
    await _rewrite(house, first_written)
    past = house.clock.now - timedelta(days=1)  # the clock jumped back: both leases are too long
    with ThreadPoolExecutor(2) as pool:
        sessions = Sessions(engine, pool, past)
        with held(engine, first_written):
            sweep = sessions.begin(sweeps)
            renewal = sessions.begin(lambda tx: renew(tx, leases, lease_s=30))
        sweep.result(WITHIN_S)
        assert renewal.result(WITHIN_S) == frozenset()
    assert (await house.record(RunId("a"))).active_ms == (await house.record(RunId("b"))).active_ms == 7


async def _rewrite(house: House, first: str) -> None:
    """Both rows are written anew, so that they lie in the table in this order, whatever became of them before."""
    for name in sorted("ab", reverse=first == "b"):
        touched = update(runs).where(runs.c.id == name).values(moved_at=runs.c.moved_at)
        await house.store.write(partial(_execute, statement=touched))


def _execute(tx: Transaction, statement: Update) -> None:
    tx.connection.execute(statement)

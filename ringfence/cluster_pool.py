"""The book of prepared namespaces, in the database that holds the runs: see `pool_book.PoolBook`."""

from __future__ import annotations

from typing import Final, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from ringfence_agents.schema import runs
from ringfence_audit.events import Event, Kind
from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.kubernetes.pool_book import Bounds, Member
from ringfence_tools.clock import micros

T = TypeVar("T")
SECOND_US: Final = 1_000_000
CLAIM_KNOWN_S: Final = 60

members = Table(
    "cluster_pool",
    runs.metadata,
    Column("namespace", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("shape", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("version", Text, nullable=False, default=""),
    Column("pod_uid", Text, nullable=False, default=""),
    Column("address", Text, nullable=False, default=""),
    Column("seen", Text, nullable=False, default=""),
    Column("sandbox", Text, nullable=False, default=""),
    Index("ix_cluster_pool_shape", "instance", "shape", "state", "since"),
)
"""`state`: `preparing`, `ready`, `claimed` or `retiring`; `since` is when it came into it, in microseconds."""

demand = Table(
    "cluster_demand",
    runs.metadata,
    Column("sandbox", Text, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("shape", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""Each start that asked for a member, whether it got one or not."""


class SqlPoolBook:
    """The book of one installation (`instance`). Any number of processes may use it."""

    def __init__(self, store: Store, instance: str) -> None:
        self._store = store
        self._instance = instance

    async def claim(self, shape: str, sandbox: SandboxId, *, run: str) -> Member | None:
        def work(tx: Transaction) -> Member | None:
            now = micros(tx.now)
            values = {"sandbox": sandbox, "instance": self._instance, "shape": shape, "at": now}
            tx.connection.execute(delete(demand).where(demand.c.sandbox == sandbox))
            tx.connection.execute(insert(demand).values(values))
            while (found := self._oldest(tx.connection, members.c.shape == shape)) is not None:
                taken = tx.connection.execute(
                    update(members)
                    .where(members.c.namespace == found.namespace, members.c.state == "ready")
                    .values(state="claimed", sandbox=sandbox, since=now)
                )
                if taken.rowcount == 1:
                    data = {"action": "claimed", "sandbox": sandbox, "namespace": found.namespace}
                    tx.record(Event(Kind.SANDBOX, "system:pool", data, run))
                    return found
            return None

        return await self._store.write(work)

    def _oldest(self, connection: Connection, condition: ColumnElement[bool]) -> Member | None:
        query = (
            select(members)
            .where(members.c.instance == self._instance, members.c.state == "ready", condition)
            .order_by(members.c.since)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = connection.execute(query).first()
        if row is None:
            return None
        return Member(row.namespace, row.shape, row.version, row.pod_uid, row.address, row.seen)

    async def reserve(self, namespace: str, shape: str, bounds: Bounds) -> bool:
        def work(tx: Transaction) -> bool:
            now = micros(tx.now)
            if self._count(tx.connection, shape, ("preparing", "ready")) >= self._wanted(tx, shape, bounds):
                return False
            values = {"namespace": namespace, "instance": self._instance, "shape": shape, "since": now}
            tx.connection.execute(insert(members).values(**values, state="preparing"))
            return True

        return await self._store.write(work)

    async def enter(self, member: Member) -> None:
        def work(tx: Transaction) -> None:
            tx.connection.execute(
                update(members)
                .where(members.c.namespace == member.namespace, members.c.state == "preparing")
                .values(
                    state="ready",
                    since=micros(tx.now),
                    version=member.version,
                    pod_uid=member.pod_uid,
                    address=member.address,
                    seen=member.seen,
                )
            )

        await self._store.write(work)

    async def retire(self, shape: str, bounds: Bounds) -> str | None:
        def work(tx: Transaction) -> str | None:
            if self._count(tx.connection, shape, ("ready",)) <= self._wanted(tx, shape, bounds):
                return None
            return self._retiring(tx, members.c.shape == shape)

        return await self._store.write(work)

    async def expire(self, bounds: Bounds) -> str | None:
        def work(tx: Transaction) -> str | None:
            return self._retiring(tx, members.c.since < micros(tx.now) - int(bounds.max_age_s * SECOND_US))

        return await self._store.write(work)

    def _retiring(self, tx: Transaction, condition: ColumnElement[bool]) -> str | None:
        found = self._oldest(tx.connection, condition)
        if found is None:
            return None
        tx.connection.execute(
            update(members)
            .where(members.c.namespace == found.namespace, members.c.state == "ready")
            .values(state="retiring", since=micros(tx.now))
        )
        return found.namespace

    async def cut_off(self, *, older_than_s: float) -> frozenset[str]:
        def work(tx: Transaction) -> frozenset[str]:
            before = micros(tx.now) - int(older_than_s * SECOND_US)
            tx.connection.execute(delete(demand).where(demand.c.at < before))
            tx.connection.execute(delete(members).where(members.c.state == "claimed", members.c.since < before))
            return self._names(tx.connection, members.c.state.in_(("preparing", "retiring")), members.c.since < before)

        return await self._store.write(work)

    async def forget(self, namespace: str) -> None:
        gone = delete(members).where(members.c.namespace == namespace)
        await self._store.write(lambda tx: tx.connection.execute(gone))

    async def known(self) -> frozenset[str]:
        def work(tx: Transaction) -> frozenset[str]:
            recently = micros(tx.now) - CLAIM_KNOWN_S * SECOND_US
            standing = members.c.state.in_(("preparing", "ready"))
            return self._names(tx.connection, standing | (members.c.since > recently))

        return await self._store.write(work)

    def _names(self, connection: Connection, *conditions: object) -> frozenset[str]:
        query = select(members.c.namespace).where(members.c.instance == self._instance, *conditions)  # type: ignore[arg-type] # SQLAlchemy's conditions
        return frozenset(str(row.namespace) for row in connection.execute(query))

    def _count(self, connection: Connection, shape: str, states: tuple[str, ...]) -> int:
        query = select(func.count()).where(
            members.c.instance == self._instance, members.c.shape == shape, members.c.state.in_(states)
        )
        return int(connection.execute(query).scalar_one())

    def _wanted(self, tx: Transaction, shape: str, bounds: Bounds) -> int:
        since = micros(tx.now) - int(bounds.window_s * SECOND_US)
        query = select(func.count()).where(
            demand.c.instance == self._instance, demand.c.shape == shape, demand.c.at > since
        )
        asked = int(tx.connection.execute(query).scalar_one())
        return max(bounds.least, min(bounds.most, asked))

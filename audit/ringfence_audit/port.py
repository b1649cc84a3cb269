"""The port through which every other room writes: one transaction holds rows and entries together.

Durability: `Store.write` returns only after the transaction, its rows and its entries are on disk (SQLite: WAL with
synchronous=FULL and group commit; PostgreSQL: commit). Ordering: entries of one run keep the order in which their
transactions committed, and within a transaction the order of `record`. Concurrency: any number of tasks may call
`write`; on SQLite their transactions are applied one after another by one writer and committed in groups, and one
that raises is rolled back alone. Retry: the store does not retry; `LogUnavailable` means that nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from ringfence_audit.events import Event

T = TypeVar("T")


class Transaction(Protocol):
    """Work in progress. Used only inside the function given to `Store.write`, on the thread that runs it."""

    @property
    def connection(self) -> Connection:
        """The open SQLAlchemy connection. Do not commit, roll back or keep it."""

    @property
    def now(self) -> datetime:
        """The database's clock (aware UTC), fixed for this transaction. Expiries are judged by it."""

    def record(self, event: Event) -> None:
        """Add an entry; it becomes durable with this transaction or not at all. Raises `InvalidEvent`."""

    def announce(self) -> None:
        """Once this transaction is durable, wake everybody who waits for news (`Wakeups`)."""


class Wakeups(Protocol):
    """Hears what other transactions, of any process, announced: `SqlStore.wakeups` opens it. Used by one task."""

    async def wait(self, timeout_s: float) -> bool:
        """True as soon as something was announced since the last call, False when the time is over.

        It may be true without need (a connection that was lost might have missed something). While the database is
        away it is False: look again at your own pace.
        """


class Store(Protocol):
    """The one database."""

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction and return its result once durable. What `work` raises is raised here.

        `work` is synchronous, quick, does no I/O of its own, and may be run again from the start: on PostgreSQL when
        another transaction of its group raised. Raises `LogUnavailable` where it could not be committed.
        """

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a read-only connection off the event loop; it sees all that is committed."""

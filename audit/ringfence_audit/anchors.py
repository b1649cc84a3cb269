"""Where checkpoints are kept that the service cannot take back: the port, and what passes through it.

A sink's copy is what makes a log *anchored*: cutting the log back, or writing another history with the right key,
contradicts it. A sink that lets the service rewrite what it holds is no anchor, so each can be put to the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from ringfence_audit.errors import AuditError
from ringfence_audit.port import Transaction
from ringfence_audit.records import anchors


class SinkUnreachable(AuditError):
    """The sink did not answer, or not as it should: nothing was anchored; try again later."""


class SinkRefused(AuditError):
    """The sink says that this checkpoint contradicts what it holds: somebody wrote another history. Stop and look."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A signed checkpoint on its way to a sink, and the means to prove growth from what the sink knows."""

    origin: str
    size: int
    note: str
    consistency: Callable[[int], Sequence[bytes]]
    """Old size → the path of a consistency proof to `size`. Raises `InvalidExport`."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One attempt to rewrite a sink. `is_refused` is how it should be."""

    name: str
    is_refused: bool
    detail: str


class Sink(Protocol):
    """Keeps checkpoints. `publish` is safe to repeat; calls block, and end within the sink's own time limit."""

    @property
    def name(self) -> str: ...

    def publish(self, offer: Offer) -> str:
        """Keep the checkpoint for good; returns the note as it is kept, with cosignatures. Durable on return.

        Raises `SinkUnreachable` and `SinkRefused`.
        """

    def fetch(self, origin: str) -> Sequence[str]:
        """Notes that the sink holds of this log, the newest last. Raises `SinkUnreachable`."""

    def probe(self, origin: str) -> Sequence[Probe]:
        """Try what the service must not be able to do, leaving things as they were. Raises `SinkUnreachable`."""


def remember(tx: Transaction, sink: str, size: int, note: str) -> None:
    """Keep our own copy of what was anchored, from which exports prove consistency."""
    values = {"sink": sink, "size": size, "note": note, "anchored_at": int(tx.now.timestamp() * 1_000_000)}
    insert = sqlite_insert if tx.connection.dialect.name == "sqlite" else postgres_insert
    statement = insert(anchors).values(**values)
    updated = statement.on_conflict_do_update(index_elements=["sink", "size"], set_={"note": note})
    tx.connection.execute(updated)


def remembered(connection: Connection, sink: str) -> list[str]:
    """Our own copies of what went to a sink, the newest last."""
    found = select(anchors.c.note).where(anchors.c.sink == sink).order_by(anchors.c.size)
    return list(connection.execute(found).scalars())


def anchored_size(connection: Connection) -> int:
    """How many entries the newest checkpoint covers that any sink took, by our own copies."""
    return int(connection.execute(select(func.max(anchors.c.size))).scalar() or 0)

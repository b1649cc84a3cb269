"""The roster of workers: who has been seen of late, so that a run that waits can say whether anyone will come.

Told by each worker at its sweep. It decides nothing: a run is free when its lease says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from ringfence_agents.schema import workers
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros, moment

SEEN_WITHIN_S = 15
FORGOTTEN_AFTER_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Seen:
    """One worker as it last told of itself. Times are aware UTC."""

    name: str
    started_at: datetime
    seen_at: datetime
    at_once: int
    driving: int


def sign_in(tx: Transaction, name: str, *, at_once: int, driving: int) -> None:
    """This worker is here. Safe to repeat; forgets those that have been away for a day."""
    now = micros(tx.now)
    values = {"seen_at": now, "at_once": at_once, "driving": driving}
    if not tx.connection.execute(update(workers).where(workers.c.name == name).values(**values)).rowcount:
        tx.connection.execute(insert(workers).values(name=name, started_at=now, **values))
        long_ago = now - FORGOTTEN_AFTER_S * 1_000_000
        tx.connection.execute(delete(workers).where(workers.c.seen_at < long_ago))


def sign_out(tx: Transaction, name: str) -> None:
    """This worker goes away on purpose."""
    tx.connection.execute(delete(workers).where(workers.c.name == name))


def present(connection: Connection, now_us: int) -> tuple[Seen, ...]:
    """The workers that have been seen within `SEEN_WITHIN_S`."""
    recent = workers.c.seen_at > now_us - SEEN_WITHIN_S * 1_000_000
    query = select(workers).where(recent).order_by(workers.c.name)
    return tuple(
        Seen(row.name, moment(row.started_at), moment(row.seen_at), row.at_once, row.driving)
        for row in connection.execute(query)
    )

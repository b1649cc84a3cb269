"""Makes and upgrades the tables: one process at a time, in one transaction, so that a failure leaves all as it was.

A fresh database gets every table at once and is marked with the newest version; an older one walks through the
migrations. Tests hold that both ways end in the same tables.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection, insert

from ringfence.database.tables import metadata, versions
from ringfence.database.version import HEAD, Standing, refusal, standing, version_of
from ringfence_audit.store import SqlStore


def make_ready(store: SqlStore, *, may_upgrade: bool) -> None:
    """Make missing tables; upgrade older ones where that is allowed, else say what to do. Raises `Mistake`.

    Cheap where nothing is to be done. Safe against other processes, also such as do the same.
    """
    if store.read_now(standing) is not Standing.CURRENT:
        store.alter(partial(_ready, may_upgrade=may_upgrade))


def upgrade(store: SqlStore) -> tuple[str | None, str]:
    """Bring the tables to the newest version; return the version before and after. Raises `Mistake`."""
    before = store.read_now(version_of)
    make_ready(store, may_upgrade=True)
    return before, HEAD


def _ready(connection: Connection, *, may_upgrade: bool) -> None:
    found = standing(connection)
    if found is Standing.CURRENT:
        return  # another process was first
    if found is Standing.EMPTY:
        metadata.create_all(connection)
        connection.execute(insert(versions), {"version_num": HEAD})
    elif found is Standing.OLDER and may_upgrade:
        migrate(connection)
    else:
        raise refusal(found)


def migrate(connection: Connection, *, target: str = "head") -> None:
    """Walk through the migrations inside the caller's transaction."""
    from alembic import command

    from ringfence.database.scripts import configuration

    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, target)

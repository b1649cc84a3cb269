"""Which version the tables of a database have, and whether this release can work with them.

Kept apart from Alembic, which costs a third of a second to import: every command asks this, few have to upgrade.
"""

from __future__ import annotations

from enum import Enum

from sqlalchemy import Connection, inspect, select

from ringfence.database.tables import metadata, versions
from ringfence.errors import Mistake

KNOWN = ("0001", "0002", "0003", "0004", "0005")
"""The migrations of this release, oldest first."""
HEAD = KNOWN[-1]


class Standing(Enum):
    """How the tables of a database relate to this release."""

    EMPTY = "empty"
    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"
    UNMARKED = "unmarked"
    """Tables of ours without a version: made before there were any, or by something else."""


def version_of(connection: Connection) -> str | None:
    """The version of the tables, or None where none is marked."""
    if not inspect(connection).has_table(versions.name):
        return None
    found: str | None = connection.execute(select(versions.c.version_num)).scalar()
    return found


def standing(connection: Connection) -> Standing:
    """How the tables of this database relate to this release."""
    version = version_of(connection)
    if version == HEAD:
        return Standing.CURRENT
    if version is not None:
        return Standing.OLDER if version in KNOWN else Standing.NEWER
    is_ours = set(inspect(connection).get_table_names()) & (set(metadata.tables) - {versions.name})
    return Standing.UNMARKED if is_ours else Standing.EMPTY


def refusal(found: Standing) -> Mistake:
    """The line for a database that this release must not touch as it is."""
    if found is Standing.NEWER:
        return Mistake(
            "the database was made by a newer Ringfence than this one", fix="Upgrade Ringfence; nothing was changed"
        )
    if found is Standing.UNMARKED:
        return Mistake(
            "the database holds tables of Ringfence without a version, from before its first release",
            fix="Export what you need with the Ringfence that made it, then point RINGFENCE_HOME or "
            "RINGFENCE_DATABASE_URL at an empty one",
        )
    return Mistake(
        "the database is older than this Ringfence", fix="Back it up, stop its workers, then: ringfence db upgrade"
    )

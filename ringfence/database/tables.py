"""Every table of the product in one metadata: importing this module makes each room add its own."""

from __future__ import annotations

from sqlalchemy import Column, PrimaryKeyConstraint, String, Table

# Each imported for the tables that it adds.
import ringfence.api.schema
import ringfence.auth.schema
import ringfence.cluster_addresses
import ringfence.cluster_pool
import ringfence.notify.schema  # noqa: F401
import ringfence_agents.schema  # noqa: F401
import ringfence_audit.blobs
import ringfence_audit.records
import ringfence_audit.tables  # noqa: F401
import ringfence_tools.profile_versions
import ringfence_tools.schema  # noqa: F401
from ringfence_audit.schema import metadata

__all__ = ["metadata", "versions"]

versions = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, so that a fresh database is marked in the transaction that makes it."""

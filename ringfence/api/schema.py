"""The tables of the API and the console: requests that were answered once, and which findings a person has opened."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text

from ringfence_audit.schema import metadata

answered_requests = Table(
    "answered_requests",
    metadata,
    Column("person", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request_sha256", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("answered_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("person", "key"),
)
Index("ix_answered_requests_at", answered_requests.c.answered_at)

opened_findings = Table(
    "opened_findings",
    metadata,
    Column("escalation", BigInteger, nullable=False),
    Column("person", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("finding", Integer, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("escalation", "person", "digest", "finding"),
)

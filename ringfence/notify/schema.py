"""The table of notifications: one row for each card and route, so that nobody is told twice or forgotten."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text

from ringfence_audit.schema import metadata

notifications = Table(
    "notifications",
    metadata,
    Column("escalation", BigInteger, nullable=False),
    Column("route", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Column("error", Text, nullable=False, default=""),
    PrimaryKeyConstraint("escalation", "route"),
)
Index("ix_notifications_due", notifications.c.state, notifications.c.due_at)

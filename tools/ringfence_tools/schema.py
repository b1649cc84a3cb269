"""The tables of the gate: calls (the ledger), escalations, votes, denials, grants, budgets.

They are the state: what a run may do next is read from here, at the start, after a crash and after a vote alike.
JSON columns hold text that this room wrote. Times are microseconds since the epoch, by the database's clock.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, PrimaryKeyConstraint, Table, Text, text

from ringfence_audit.schema import metadata

calls = Table(
    "calls",
    metadata,
    Column("run", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
    Column("model_call_id", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments_text", Text, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("digest", Text, nullable=False, default=""),
    Column("sealed", Text, nullable=False, default="{}"),
    Column("sandbox", Text, nullable=False, default=""),
    Column("state", Text, nullable=False),
    Column("is_read_only", Integer, nullable=False),
    Column("escalation", BigInteger),
    Column("result_status", Text),
    Column("result_text", Text),
    Column("result_data", Text),
    PrimaryKeyConstraint("run", "turn", "idx"),
)
Index("ix_calls_unsettled", calls.c.run, calls.c.state, sqlite_where=text("state <> 'done'"))

escalations = Table(
    "escalations",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("run", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("matter", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("policy_version", Text, nullable=False),
    Column("requester", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("accesses", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("card", Text, nullable=False),
    Column("width", Text),
    Column("answer", Text),
    Column("opened_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Column("team", Text, nullable=False, default="", server_default=""),
    Column("rank", Integer, nullable=False, default=1, server_default="1"),
    Column("four_eyes", Integer, nullable=False, default=0, server_default="0"),
)
Index("ix_escalations_run_matter", escalations.c.run, escalations.c.matter)
"""`rank` is the order in which cards are shown: 0 with findings, 1 without. `team`, `rank` and `four_eyes` repeat what
run, card and terms say, so that lists can be asked for by them."""
Index("ix_escalations_open", escalations.c.expires_at, sqlite_where=text("state = 'open'"))
Index(
    "ix_escalations_waiting",
    escalations.c.rank,
    escalations.c.expires_at,
    escalations.c.id,
    sqlite_where=text("state = 'open'"),
    postgresql_where=text("state = 'open'"),
)
Index("ix_escalations_matter_opened", escalations.c.matter, escalations.c.opened_at)
Index("ix_escalations_state", escalations.c.state, escalations.c.id)
Index("ix_escalations_team", escalations.c.team, escalations.c.id)
Index("ix_escalations_team_state", escalations.c.team, escalations.c.state, escalations.c.id)
Index("ix_escalations_team_opened", escalations.c.team, escalations.c.opened_at)

asked_groups = Table(
    "asked_groups",
    metadata,
    Column("escalation", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    PrimaryKeyConstraint("escalation", "name"),
)
"""The groups that an escalation's terms name: who sees it among what waits for them. Terms alone decide."""

votes = Table(
    "votes",
    metadata,
    Column("escalation", BigInteger, nullable=False),
    Column("person", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("width", Text),
    Column("note", Text, nullable=False),
    Column("voted_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("escalation", "person"),
)

denials = Table(
    "denials",
    metadata,
    Column("run", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("escalation", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    PrimaryKeyConstraint("run", "resource"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run", Text, nullable=False),
    Column("call", Text, nullable=False, default=""),
    Column("tool", Text, nullable=False),
    Column("accesses", Text, nullable=False),
    Column("width", Text, nullable=False),
    Column("uses_left", Integer),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("revoked_by", Text),
    Column("given_by", Text, nullable=False),
    Column("escalation", BigInteger, nullable=False),
)
Index("ix_grants_run", grants.c.run)

budgets = Table(
    "budgets",
    metadata,
    Column("scope", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("cap", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False, default=0),
    Column("spent", BigInteger, nullable=False, default=0),
    Column("warn_percent", Integer, nullable=False, default=80, server_default="80"),
    PrimaryKeyConstraint("scope", "unit"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("holder", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("holder", "scope", "unit"),
    ForeignKeyConstraint(["scope", "unit"], ["budgets.scope", "budgets.unit"]),
)

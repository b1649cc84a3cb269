"""The tables of runs: tasks, runs, messages and what people have said to an agent.

With the ledger they are the whole state of a run; the graph holds a cursor and nothing else. Times are microseconds
since the epoch by the database's clock, JSON columns hold text that this room wrote.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, PrimaryKeyConstraint, Table, Text, text

from ringfence_audit.schema import metadata

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("text", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("team", Text, nullable=False, default=""),
    Column("assigned_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("waits_for", Text, nullable=False, default=""),
    Column("wake_at", BigInteger),
    Column("profile", Text, nullable=False),
    Column("profile_version", Text, nullable=False),
    Column("profile_digest", Text, nullable=False),
    Column("profile_document", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("team", Text, nullable=False, default=""),
    Column("priority", Integer, nullable=False, default=0),
    Column("agent", Text, nullable=False),
    Column("on_behalf_of", Text, nullable=False),
    Column("base_commit", Text, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("worker", Text, nullable=False, default=""),
    Column("lease_until", BigInteger, nullable=False, default=0),
    Column("fence", BigInteger, nullable=False, default=0),
    Column("turn", Integer, nullable=False, default=0),
    Column("collected_turn", Integer, nullable=False, default=-1),
    Column("next_seq", Integer, nullable=False, default=0),
    Column("idle_answers", Integer, nullable=False, default=0),
    Column("recent", Text, nullable=False, default="[]"),
    Column("bookmark", Text, nullable=False, default=""),
    Column("closing", Text, nullable=False, default=""),
    Column("sandbox_id", Text, nullable=False, default=""),
    Column("sandbox_generation", Integer, nullable=False, default=0),
    Column("sandbox_state", Text, nullable=False, default="none"),
    Column("sandbox_releases", Integer, nullable=False, default=0, server_default="0"),
    Column("request", Text, nullable=False, default=""),
    Column("requested_by", Text, nullable=False, default=""),
    Column("request_reason", Text, nullable=False, default=""),
    Column("failures", Integer, nullable=False, default=0),
    Column("moved_at", BigInteger, nullable=False, default=0, server_default="0"),
    Column("active_ms", BigInteger, nullable=False, default=0),
    Column("wall_cap_ms", BigInteger),
    Column("input_tokens", BigInteger, nullable=False, default=0),
    Column("output_tokens", BigInteger, nullable=False, default=0),
    Column("cost_micro_usd", BigInteger, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("result", Text, nullable=False, default=""),
    ForeignKeyConstraint(["task"], ["tasks.id"]),
)
Index("ix_runs_state_wake", runs.c.state, runs.c.wake_at)
Index("ix_runs_worker", runs.c.worker, sqlite_where=text("worker <> ''"), postgresql_where=text("worker <> ''"))
Index("ix_runs_task", runs.c.task)
Index("ix_runs_created", runs.c.created_at, runs.c.id)
Index("ix_runs_state_created", runs.c.state, runs.c.created_at, runs.c.id)
Index("ix_runs_team_created", runs.c.team, runs.c.created_at, runs.c.id)
Index("ix_runs_team_state_created", runs.c.team, runs.c.state, runs.c.created_at, runs.c.id)

messages = Table(
    "messages",
    metadata,
    Column("run", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("run", "seq"),
    ForeignKeyConstraint(["run"], ["runs.id"]),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("run", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("posted_at", BigInteger, nullable=False),
    Column("delivered_seq", Integer),
    ForeignKeyConstraint(["run"], ["runs.id"]),
)
Index(
    "ix_inbox_pending",
    inbox.c.run,
    sqlite_where=text("delivered_seq IS NULL"),
    postgresql_where=text("delivered_seq IS NULL"),
)

steps = Table(
    "steps",
    metadata,
    Column("run", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("taken_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("run", "turn"),
    ForeignKeyConstraint(["run"], ["runs.id"]),
)

kept_files = Table(
    "kept_files",
    metadata,
    Column("run", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("kept_at", BigInteger, nullable=False),
    ForeignKeyConstraint(["run"], ["runs.id"]),
)
"""The archive of a run whose sandbox was released while it waits."""

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("at_once", Integer, nullable=False),
    Column("driving", Integer, nullable=False),
)
"""Which workers there are, for people who ask why a run waits. Never a ground for moving a run: leases are."""

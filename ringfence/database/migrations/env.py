"""Alembic's entry: runs the migrations on the connection that it is handed, inside that one's transaction."""

from __future__ import annotations

from alembic import context

from ringfence.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=context.config.attributes.get("is_altering", True),
    transaction_per_migration=False,
)
context.run_migrations()

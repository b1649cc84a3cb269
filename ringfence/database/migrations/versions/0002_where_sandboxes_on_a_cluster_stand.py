"""Where sandboxes on a cluster stand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cluster_addresses",
        sa.Column("sandbox", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sandbox", name=op.f("pk_cluster_addresses")),
    )
    op.create_index("ix_cluster_addresses_address", "cluster_addresses", ["instance", "address"], unique=False)

"""What retention keeps of what a producer counted, and how far people's count has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_counts",
        sa.Column("producer", sa.String(length=200), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("producer", name=op.f("pk_audit_counts")),
    )
    op.add_column("audit_pruned", sa.Column("producer", sa.String(length=200), nullable=True))
    op.add_column("audit_pruned", sa.Column("number", sa.BigInteger(), nullable=True))
    op.add_column("audit_pruned", sa.Column("mark", sa.LargeBinary(), nullable=True))

"""Cards in lists: team, order and groups as columns, so that a list is asked for and not looked through."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPEN = sa.text("state = 'open'")


def upgrade() -> None:
    op.create_table(
        "asked_groups",
        sa.Column("escalation", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("escalation", "name", name=op.f("pk_asked_groups")),
    )
    op.add_column("escalations", sa.Column("team", sa.Text(), server_default="", nullable=False))
    op.add_column("escalations", sa.Column("rank", sa.Integer(), server_default="1", nullable=False))
    op.add_column("escalations", sa.Column("four_eyes", sa.Integer(), server_default="0", nullable=False))
    _tell_what_was_said()
    op.create_index(
        "ix_escalations_waiting",
        "escalations",
        ["rank", "expires_at", "id"],
        unique=False,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    for name, columns in (
        ("ix_escalations_matter_opened", ["matter", "opened_at"]),
        ("ix_escalations_state", ["state", "id"]),
        ("ix_escalations_team", ["team", "id"]),
        ("ix_escalations_team_opened", ["team", "opened_at"]),
        ("ix_escalations_team_state", ["team", "state", "id"]),
    ):
        op.create_index(name, "escalations", columns, unique=False)


def _tell_what_was_said() -> None:
    """The new columns of the cards that there are: the team of each, the rest of those that still wait."""
    connection = op.get_bind()
    of_run = "(SELECT runs.team FROM runs WHERE runs.id = escalations.run)"
    connection.execute(sa.text(f"UPDATE escalations SET team = coalesce({of_run}, '')"))  # noqa: S608 our own words
    waiting = connection.execute(sa.text("SELECT id, terms, card FROM escalations WHERE state = 'open'")).all()
    for row in waiting:
        terms, card = json.loads(row.terms), json.loads(row.card)
        values = {"id": row.id, "rank": 0 if card.get("findings") else 1, "eyes": int(terms.get("four_eyes", False))}
        connection.execute(sa.text("UPDATE escalations SET rank = :rank, four_eyes = :eyes WHERE id = :id"), values)
        for name in sorted({*terms.get("any_of", ()), *terms.get("all_of", ())}):
            asked = {"id": row.id, "name": name}
            connection.execute(sa.text("INSERT INTO asked_groups (escalation, name) VALUES (:id, :name)"), asked)

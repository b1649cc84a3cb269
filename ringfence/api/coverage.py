"""What a grant would have saved: which of the past week's cards of the team it would have answered. Pure reading."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from ringfence.api.reading import Waiting
from ringfence_tools.calls import GrantId
from ringfence_tools.grants import Grant, accesses_from_json
from ringfence_tools.schema import escalations as table

WEEK_US = 7 * 24 * 3600 * 1_000_000
LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Coverage:
    """`covered` of `asked` cards of the past week, this one included; `examples` are numbers of some of them.

    `is_cut`: there were more in that week, and only the newest were looked at.
    """

    covered: int
    asked: int
    examples: tuple[int, ...]
    is_cut: bool


def coverage_of(connection: Connection, waiting: Waiting, now_us: int) -> Coverage:
    """As if the task's grant that this card offers had stood all week, for every task of the team."""
    found = waiting.escalation
    grant = Grant(
        id=GrantId(""),
        run=found.key.run,
        call="",
        tool=found.tool,
        accesses=found.accesses,
        width="task",
        uses_left=None,
        expires_at=now_us + 1,
        revoked_at=None,
        given_by="",
        escalation=found.id,
    )
    query = (
        select(table.c.id, table.c.accesses)
        .where(table.c.team == waiting.team, table.c.opened_at >= now_us - WEEK_US, table.c.kind == "call")
        .order_by(table.c.opened_at.desc())
        .limit(LOOKED_AT + 1)
    )
    rows = connection.execute(query).all()
    asked = [(row.id, accesses_from_json(row.accesses)) for row in rows[:LOOKED_AT]]
    covered = [number for number, held in asked if held and all(grant.covers(access) for access in held)]
    examples = tuple(sorted(covered, reverse=True)[:5])
    return Coverage(len(covered), len(asked), examples, is_cut=len(rows) > LOOKED_AT)

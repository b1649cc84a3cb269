"""What a grant would have saved: which of the past week's cards of the team it would have answered. Pure reading."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from ringfence.api.reading import Waiting
from ringfence_agents.schema import runs
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId, GrantId
from ringfence_tools.grants import Grant
from ringfence_tools.schema import escalations as table

WEEK_US = 7 * 24 * 3600 * 1_000_000
LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Coverage:
    """`covered` of `asked` cards of the past week, this one included; `examples` are numbers of some of them."""

    covered: int
    asked: int
    examples: tuple[int, ...]


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
        select(table.c.id)
        .join(runs, runs.c.id == table.c.run)
        .where(table.c.opened_at >= now_us - WEEK_US, table.c.kind == "call", runs.c.team == waiting.team)
        .order_by(table.c.id.desc())
        .limit(LOOKED_AT)
    )
    ids = [EscalationId(row.id) for row in connection.execute(query)]
    asked = escalations.by_ids(connection, ids)
    covered = [one.id for one in asked if one.accesses and all(grant.covers(access) for access in one.accesses)]
    return Coverage(len(covered), len(asked), tuple(sorted(covered, reverse=True)[:5]))

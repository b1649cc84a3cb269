"""What waits for the agent's next question: words of people, and whether budgets meter it.

Read in the transaction that collects a turn, so that thinking needs no read of its own; read by itself where a run is
taken up between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, exists, or_, select

from ringfence_agents.conversation import MessageRow, Role
from ringfence_agents.runs import RunRecord
from ringfence_agents.schema import inbox
from ringfence_audit.prepared import Prepared
from ringfence_tools.budget import Unit
from ringfence_tools.schema import budgets

_IS_METERED = or_(budgets.c.unit == Unit.TOKENS.value, budgets.c.unit == Unit.MICRO_USD.value)


@dataclass(frozen=True, slots=True)
class Letter:
    id: int
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Pending:
    letters: tuple[Letter, ...]
    is_capped: bool

    def rows(self, record: RunRecord) -> tuple[MessageRow, ...]:
        """The letters as the next messages of the run."""
        return tuple(
            MessageRow(
                record.id,
                record.next_seq + index,
                record.turn,
                Role.PERSON,
                {"author": letter.author, "content": letter.text},
            )
            for index, letter in enumerate(self.letters)
        )


_LETTERS = Prepared(
    select(inbox.c.id, inbox.c.author, inbox.c.text)
    .where(inbox.c.run == bindparam("in_run"), inbox.c.delivered_seq.is_(None))
    .order_by(inbox.c.id)
)
_LOOK = Prepared(
    select(
        exists().where(inbox.c.run == bindparam("in_run"), inbox.c.delivered_seq.is_(None)).label("has_letters"),
        exists().where(budgets.c.scope == bindparam("in_scope"), _IS_METERED).label("is_capped"),
    )
)
_IS_CAPPED = Prepared(select(exists().where(budgets.c.scope == bindparam("in_scope"), _IS_METERED).label("is_capped")))


def pending_of(connection: Connection, record: RunRecord, scopes: Sequence[str]) -> Pending:
    """`scopes` are the run's budget scopes, its own first."""
    has_letters, is_capped = _LOOK.all(connection, {"in_run": record.id, "in_scope": scopes[0]})[0]
    letters = _LETTERS.all(connection, {"in_run": record.id}) if has_letters else []
    capped = bool(is_capped) or any(_IS_CAPPED.all(connection, {"in_scope": scope})[0][0] for scope in scopes[1:])
    return Pending(tuple(Letter(row.id, row.author, row.text) for row in letters), capped)

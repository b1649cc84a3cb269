"""What a run does next, computed from the tables: one place for start, crash, vote and deploy alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from sqlalchemy import Connection

from ringfence_agents.runs import RunRecord
from ringfence_tools.calls import CallKey
from ringfence_tools.ledger import CallRow, CallState, calls_of_turn, startable


class Next(StrEnum):
    THINK = "think"
    CALL = "call"
    COLLECT = "collect"
    END = "end"
    """The run is closing, waits, or was told to stop."""


@dataclass(frozen=True, slots=True)
class Todo:
    next: Next
    start: tuple[CallKey, ...] = ()
    rows: tuple[CallRow, ...] = ()
    """The calls of the turn, where all have their results."""


def first_start(proposed: Sequence[CallRow]) -> tuple[CallKey, ...]:
    """What `ledger.startable` says of calls that were proposed just now: the reads in front, or the first write."""
    reads = tuple(row.key for row in takewhile(lambda row: row.is_read_only, proposed))
    return reads or tuple(row.key for row in proposed[:1])


def todo(connection: Connection, record: RunRecord, now_us: int) -> Todo:
    """`record` is the run as the same connection sees it, or as its lease holder knows it."""
    if record.closing is not None:
        return Todo(Next.END)
    if record.collected_turn == record.turn:
        return Todo(Next.THINK)
    rows = calls_of_turn(connection, record.id, record.turn)
    if all(row.state is CallState.DONE for row in rows):
        return Todo(Next.COLLECT, rows=rows)
    start = startable(connection, record.id, record.turn, now_us)
    return Todo(Next.CALL, start) if start else Todo(Next.END)

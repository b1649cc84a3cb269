"""The ledger: one row a tool call, from the model's proposal to its stored result.

new → (waiting →) intent → done. A row moves only inside a transaction that also holds its entry. An edit by a
reviewer makes a new revision of the row, back at *new*. Reading it answers what a run may do next.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_audit.prepared import Prepared
from ringfence_tools.calls import CallKey, EscalationId, ResultStatus, RunId, ToolResult
from ringfence_tools.schema import calls, escalations


class CallState(StrEnum):
    NEW = "new"
    WAITING = "waiting"
    INTENT = "intent"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the model asked for, as it came: `arguments_text` is its raw JSON text, which may be anything."""

    model_call_id: str
    tool: str
    arguments_text: str


@dataclass(frozen=True, slots=True)
class CallRow:
    key: CallKey
    revision: int
    model_call_id: str
    tool: str
    arguments_text: str
    nonce: str
    digest: str
    sealed: Mapping[str, str]
    sandbox: str
    """The sandbox that the intent was written for, or "" where it needs none."""
    state: CallState
    is_read_only: bool
    escalation: EscalationId | None
    result: ToolResult | None


def new_nonce() -> str:
    return secrets.token_hex(16)


def propose(
    tx: Transaction,
    run: RunId,
    turn: int,
    proposals: Sequence[Proposal],
    *,
    is_read_only: Callable[[str], bool],
) -> tuple[CallRow, ...]:
    """Store the calls of one answer of the model, in its order. `is_read_only` tells by a tool's name."""
    rows = tuple(
        CallRow(
            CallKey(run, turn, index),
            revision=0,
            model_call_id=proposal.model_call_id,
            tool=proposal.tool,
            arguments_text=proposal.arguments_text,
            nonce=new_nonce(),
            digest="",
            sealed={},
            sandbox="",
            state=CallState.NEW,
            is_read_only=is_read_only(proposal.tool),
            escalation=None,
            result=None,
        )
        for index, proposal in enumerate(proposals)
    )
    if rows:
        _PROPOSE.many(tx.connection, [_columns(row) for row in rows])
    return rows


def _columns(row: CallRow) -> dict[str, str | int]:
    """A new call as its row is stored."""
    return {
        "run": row.key.run,
        "turn": row.key.turn,
        "idx": row.key.index,
        "revision": row.revision,
        "model_call_id": row.model_call_id,
        "tool": row.tool,
        "arguments_text": row.arguments_text,
        "nonce": row.nonce,
        "digest": row.digest,
        "sealed": "{}",
        "sandbox": row.sandbox,
        "state": row.state.value,
        "is_read_only": int(row.is_read_only),
    }


_BY_KEY = Prepared(
    select(calls).where(
        calls.c.run == bindparam("in_run"), calls.c.turn == bindparam("in_turn"), calls.c.idx == bindparam("in_idx")
    )
)
_OF_TURN = Prepared(
    select(calls).where(calls.c.run == bindparam("in_run"), calls.c.turn == bindparam("in_turn")).order_by(calls.c.idx)
)
_PROPOSE = Prepared(
    insert(calls),
    columns=(
        *("run", "turn", "idx", "revision", "model_call_id", "tool", "arguments_text", "nonce"),
        *("digest", "sealed", "sandbox", "state", "is_read_only"),
    ),
)


def call(connection: Connection, key: CallKey) -> CallRow | None:
    row = _BY_KEY.first(connection, {"in_run": key.run, "in_turn": key.turn, "in_idx": key.index})
    return None if row is None else _call_row(row)


def calls_of_turn(connection: Connection, run: RunId, turn: int) -> tuple[CallRow, ...]:
    """The calls of one turn in the model's order."""
    return tuple(_call_row(row) for row in _OF_TURN.all(connection, {"in_run": run, "in_turn": turn}))


def calls_between(connection: Connection, run: RunId, first: int, last: int) -> tuple[CallRow, ...]:
    """The calls of the turns first ≤ turn ≤ last, in the model's order."""
    where = (calls.c.run == run) & (calls.c.turn >= first) & (calls.c.turn <= last)
    query = select(calls).where(where).order_by(calls.c.turn, calls.c.idx)
    return tuple(_call_row(row) for row in connection.execute(query))


def unsettled(connection: Connection, run: RunId) -> tuple[CallRow, ...]:
    """Every call of a run without a result: a sandbox is not released while one of them is at *intent*."""
    query = select(calls).where(calls.c.run == run, calls.c.state != CallState.DONE.value)
    return tuple(_call_row(row) for row in connection.execute(query.order_by(calls.c.turn, calls.c.idx)))


def startable(connection: Connection, run: RunId, turn: int, now_us: int) -> tuple[CallKey, ...]:
    """Which calls of the turn may be stepped now, by the order of the turn.

    Calls run in the model's order; only read-only ones overlap, with each other; behind a waiting call only read-only
    ones start. A waiting call appears once its escalation is settled or has expired.
    """
    rows = calls_of_turn(connection, run, turn)
    waiting = {row.escalation for row in rows if row.state is CallState.WAITING and row.escalation is not None}
    due = _due(connection, waiting, now_us) if waiting else frozenset()
    chosen: list[CallKey] = []
    is_write_ahead = is_wait_ahead = False
    for row in rows:
        if row.state is CallState.DONE:
            continue
        if row.state is CallState.WAITING and row.escalation not in due:
            is_wait_ahead = True
            continue
        if is_write_ahead:
            break
        if row.is_read_only:
            chosen.append(row.key)
        elif not chosen and not is_wait_ahead:
            chosen.append(row.key)
            is_write_ahead = True
        else:
            break
    return tuple(chosen)


def _due(connection: Connection, waiting: set[EscalationId], now_us: int) -> frozenset[EscalationId]:
    query = select(escalations.c.id).where(
        escalations.c.id.in_(waiting),
        (escalations.c.state != "open") | (escalations.c.expires_at <= now_us),
    )
    return frozenset(EscalationId(row.id) for row in connection.execute(query))


_MOVE = update(calls).where(
    calls.c.run == bindparam("in_run"),
    calls.c.turn == bindparam("in_turn"),
    calls.c.idx == bindparam("in_idx"),
    calls.c.revision == bindparam("in_revision"),
    calls.c.state == bindparam("in_state"),
)
_TO_INTENT = Prepared(
    _MOVE.values(
        state=CallState.INTENT.value,
        digest=bindparam("to_digest"),
        sealed=bindparam("to_sealed"),
        sandbox=bindparam("to_sandbox"),
    )
)
_TO_WAITING = Prepared(
    _MOVE.values(
        state=CallState.WAITING.value,
        digest=bindparam("to_digest"),
        sealed=bindparam("to_sealed"),
        escalation=bindparam("to_escalation"),
    )
)
_TO_DONE = Prepared(
    _MOVE.values(
        state=CallState.DONE.value,
        result_status=bindparam("to_status"),
        result_text=bindparam("to_text"),
        result_data=bindparam("to_data"),
    )
)


class CallMoved(Exception):
    """The row is no longer where we read it: another step took it on. Read it again."""


def to_intent(tx: Transaction, row: CallRow, *, digest: str, sealed: Mapping[str, str], sandbox: str) -> None:
    values = {"to_digest": digest, "to_sealed": json.dumps(dict(sealed)), "to_sandbox": sandbox}
    _apply(tx, _TO_INTENT, row, values)


def to_waiting(
    tx: Transaction, row: CallRow, *, digest: str, sealed: Mapping[str, str], escalation: EscalationId
) -> None:
    values: dict[str, str | int] = {
        "to_digest": digest,
        "to_sealed": json.dumps(dict(sealed)),
        "to_escalation": escalation,
    }
    _apply(tx, _TO_WAITING, row, values)


def to_done(tx: Transaction, row: CallRow, result: ToolResult) -> None:
    values = {
        "to_status": result.status.value,
        "to_text": result.text,
        "to_data": json.dumps(_plain(result.data), ensure_ascii=False),
    }
    _apply(tx, _TO_DONE, row, values)


def revise(tx: Transaction, key: CallKey, *, revision: int, arguments_text: str) -> None:
    """Put a waiting call back to *new* with other arguments, as a reviewer's edit does. Raises `CallMoved`."""
    changed = tx.connection.execute(
        update(calls)
        .where(
            calls.c.run == key.run,
            calls.c.turn == key.turn,
            calls.c.idx == key.index,
            calls.c.revision == revision,
            calls.c.state == CallState.WAITING.value,
        )
        .values(
            state=CallState.NEW.value,
            revision=revision + 1,
            arguments_text=arguments_text,
            nonce=new_nonce(),
            digest="",
            sealed="{}",
            escalation=None,
        )
    )
    if not changed.rowcount:
        raise CallMoved(str(key))


def reconsider(tx: Transaction, row: CallRow) -> None:
    """Put a call whose intent did nothing back to *new*, as a new revision. Raises `CallMoved`."""
    where = (calls.c.run == row.key.run) & (calls.c.turn == row.key.turn) & (calls.c.idx == row.key.index)
    where &= (calls.c.revision == row.revision) & (calls.c.state == CallState.INTENT.value)
    changed = tx.connection.execute(
        update(calls)
        .where(where)
        .values(
            state=CallState.NEW.value,
            revision=row.revision + 1,
            nonce=new_nonce(),
            digest="",
            sealed="{}",
            escalation=None,
        )
    )
    if not changed.rowcount:
        raise CallMoved(str(row.key))


def _apply(tx: Transaction, statement: Prepared, row: CallRow, values: Mapping[str, str | int]) -> None:
    where = {
        "in_run": row.key.run,
        "in_turn": row.key.turn,
        "in_idx": row.key.index,
        "in_revision": row.revision,
        "in_state": row.state.value,
    }
    if not statement.change(tx.connection, {**where, **values}):
        raise CallMoved(str(row.key))


def _call_row(row: Row[tuple[object, ...]]) -> CallRow:
    result = None
    if row.state == CallState.DONE.value:
        result = ToolResult(ResultStatus(row.result_status), row.result_text, json.loads(row.result_data))
    return CallRow(
        key=CallKey(RunId(row.run), row.turn, row.idx),
        revision=row.revision,
        model_call_id=row.model_call_id,
        tool=row.tool,
        arguments_text=row.arguments_text,
        nonce=row.nonce,
        digest=row.digest,
        sealed=json.loads(row.sealed),
        sandbox=row.sandbox,
        state=CallState(row.state),
        is_read_only=bool(row.is_read_only),
        escalation=None if row.escalation is None else EscalationId(row.escalation),
        result=result,
    )


def _plain(value: JsonValue) -> JsonValue:
    """Mappings and sequences of any kind as dicts and lists, which `json` can write."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value

"""collect: the results of a turn go into the conversation, in the order of its calls, once all are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, update

from ringfence_agents.conversation import MessageRow, Role, append_rows, echo_ids, tool_body
from ringfence_agents.drive import Drive
from ringfence_agents.leases import IS_HELD, held_by, lost
from ringfence_agents.loops import LoopVerdict, judge_loop
from ringfence_agents.model import ModelCall, SeenResult, storable
from ringfence_agents.pending import Pending, pending_of
from ringfence_agents.runs import Closing, RunRecord, RunState
from ringfence_agents.schema import runs
from ringfence_agents.switch import Stop, StopKind
from ringfence_agents.todo import Next, Todo, todo
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from ringfence_audit.prepared import Prepared
from ringfence_tools.calls import ResultStatus, ToolResult
from ringfence_tools.clock import micros
from ringfence_tools.ledger import CallRow

NUDGE_LOOP = (
    "You have made the same call several times in a row and nothing changed. Try something else, ask a person with "
    "`ask_human`, or call `finish` and say what stands in the way."
)
SUMMARY_LIMIT_CHARS = 8_000


async def collect(drive: Drive) -> Todo:
    """Store the results where all are there, and say what is next. Raises `LeaseLost`, `LogUnavailable`."""
    record, limits = drive.record, drive.equipment.limits

    def work(tx: Transaction) -> _Collected:
        now_us = micros(tx.now)
        next_todo = todo(tx.connection, record, now_us)
        if next_todo.next is not Next.COLLECT:
            return _Collected(next_todo, (), [], record, None)
        rows = next_todo.rows
        is_loop = judge_loop(record.recent, nudge_at=limits.loop_nudge, end_at=limits.loop_end) is LoopVerdict.NUDGE
        said = _said(record, rows, is_loop=is_loop)
        closing = _closing(record, rows)
        after = record.moved(
            collected_turn=record.turn, next_seq=record.next_seq + len(said), closing=closing or record.closing
        )
        if not _COLLECTED.change(tx.connection, {**_columns(after), **held_by(drive.lease), "at": now_us}):
            raise lost(drive.lease)
        append_rows(tx.connection, said)
        pending = pending_of(tx.connection, after, drive.context.scopes)
        return _Collected(Todo(Next.THINK if after.closing is None else Next.END), rows, said, after, pending)

    done = await drive.store.write(work)
    drive.record, drive.pending = done.after, done.pending
    drive.view.add(done.said)
    if done.rows:
        drive.last_results = seen(done.rows)
        _stop_at_budget(drive, done.rows)
        if any(row.sandbox and not row.is_read_only for row in done.rows):
            drive.holder.keep_step(done.after.turn)
    return done.todo


@dataclass(frozen=True, slots=True)
class _Collected:
    todo: Todo
    rows: tuple[CallRow, ...]
    said: list[MessageRow]
    after: RunRecord
    pending: Pending | None


_COLLECTED = Prepared(
    update(runs)
    .where(IS_HELD)
    .values(
        collected_turn=bindparam("to_turn"),
        next_seq=bindparam("to_seq"),
        closing=bindparam("to_closing"),
        moved_at=bindparam("at"),
    )
)


def _columns(after: RunRecord) -> Mapping[str, str | int]:
    closing = after.closing.to_json() if after.closing else ""
    return {"to_turn": after.turn, "to_seq": after.next_seq, "to_closing": closing}


def _stop_at_budget(drive: Drive, rows: Sequence[CallRow]) -> None:
    """A call that no budget was left for parks the run: the agent, who is told, could do nothing more either."""
    for row in rows:
        if row.result is not None and row.result.status is ResultStatus.BUDGET:
            drive.switch.throw(Stop(StopKind.BUDGET, "system:budget", row.result.text), grace_s=0)


def seen(rows: Sequence[CallRow]) -> tuple[SeenResult, ...]:
    """Results as the agent is about to see them."""
    return tuple(
        SeenResult(row.key, row.tool, row.result.status, row.result.text, row.result.data)
        for row in rows
        if row.result is not None
    )


def _said(record: RunRecord, rows: Sequence[CallRow], *, is_loop: bool) -> list[MessageRow]:
    if record.turn == record.first_turn:
        return _setup_report(record, rows)
    calls = [ModelCall(row.model_call_id, row.tool, row.arguments_text) for row in rows]
    said = [
        MessageRow(
            record.id,
            record.next_seq + index,
            record.turn,
            Role.TOOL,
            tool_body(echo_id=echo, tool=row.tool, status=result.status.value, text=shown_text(row, result)),
        )
        for index, (echo, row) in enumerate(zip(echo_ids(calls, turn=record.turn), rows, strict=True))
        if (result := row.result) is not None
    ]
    if is_loop:
        seq = record.next_seq + len(said)
        said.append(MessageRow(record.id, seq, record.turn, Role.USER, {"content": NUDGE_LOOP}))
    return said


def shown_text(row: CallRow, result: ToolResult) -> str:
    """What the agent reads. An empty text would look like a fault of the endpoint, so it says how the call ended."""
    text = storable(result.text) or f"({result.status.value}, no output)"
    return f"[a reviewer changed the arguments; what ran: {row.arguments_text}]\n{text}" if row.revision else text


def _setup_report(record: RunRecord, rows: Sequence[CallRow]) -> list[MessageRow]:
    if not rows:
        return []
    lines = [f"{row.arguments_text}: {row.result.status.value}" for row in rows if row.result is not None]
    body: dict[str, JsonValue] = {"content": "The workspace was prepared with these commands:\n" + "\n".join(lines)}
    return [MessageRow(record.id, record.next_seq, record.turn, Role.USER, body)]


def _closing(record: RunRecord, rows: Sequence[CallRow]) -> Closing | None:
    """Whether these results end the run: a failed setup, a `finish`, or one call too many after a denial."""
    for row in rows:
        if row.result is None:
            continue
        if record.turn == record.first_turn and row.result.status is not ResultStatus.OK:
            text = row.result.text[-1000:]
            return Closing(RunState.FAILED, f"setup {row.arguments_text} ended {row.result.status.value}: {text}")
        if row.result.data.get("blocked"):
            return Closing(RunState.BLOCKED, str(row.result.data["blocked"])[:1000])
    finishes = [row.result.data["finish"] for row in rows if row.result is not None and "finish" in row.result.data]
    finish = finishes[-1] if finishes else None
    if not isinstance(finish, Mapping):
        return None
    state = RunState.FINISHED if finish.get("status") == "success" else RunState.FAILED
    return Closing(state, str(finish.get("summary", ""))[:SUMMARY_LIMIT_CHARS])

"""What happens before the model is asked: words of people delivered, the context made to fit, budgets reserved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import update

from ringfence_agents.compaction import Compaction, View, plan, tokens_under
from ringfence_agents.conversation import MessageRow, Role, append_rows
from ringfence_agents.drive import Drive
from ringfence_agents.errors import ContextTooLong
from ringfence_agents.leases import set_closing
from ringfence_agents.model import ToolSchema
from ringfence_agents.pending import Pending, pending_of
from ringfence_agents.runs import Closing, RunState
from ringfence_agents.schema import inbox, runs
from ringfence_agents.switch import Stop, StopKind, Until
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.budget import Exceeded, Unit, reserve, run_scope
from ringfence_tools.calls import RunId

MARGIN_TOKENS = 256
LEAST_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that is ready to be put, its budget reserved."""

    tools: Sequence[ToolSchema]
    max_output_tokens: int
    request_sha256: str
    message_count: int
    last_seq: int
    is_reserved: bool


def exchange_holder(run: RunId, turn: int) -> str:
    """Under which name an exchange holds its reservation."""
    return f"{run}/{turn}/exchange"


async def prepare(drive: Drive, *, limit_percent: int) -> Asked | None:
    """Make the next question ready; None where the run ends or parks instead (`drive` says which).

    Raises `ContextTooLong` where even the barest view does not fit.
    """
    record, model = drive.record, drive.equipment.model
    if record.turn >= drive.equipment.limits.turns:
        await end(drive, Closing(RunState.EXHAUSTED, f"{record.turn} turns are used up"))
        return None
    scopes, offer = drive.context.scopes, drive.offer
    pending, drive.pending = drive.pending, None
    if pending is None:
        pending = await drive.store.read(lambda connection: pending_of(connection, record, scopes))
    tools, tools_tokens = offer.tools, offer.tokens
    room = (model.window_tokens - model.max_output_tokens - tools_tokens - MARGIN_TOKENS) * limit_percent // 100
    rows, compaction = _made_to_fit(drive, pending.rows(record), room)
    max_output = model.max_output_tokens
    if rows or pending.is_capped:
        tokens = tools_tokens + (tokens_under(drive.view, compaction) if compaction else drive.view.tokens)
        outcome = await _write(drive, pending, rows, scopes=scopes, input_tokens=tokens)
        if isinstance(outcome, Exceeded):
            _stop_for(drive, outcome)
            return None
        max_output = outcome
    shown = drive.view.messages
    digest = hashlib.sha256(orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Asked(tools, max_output, digest, len(shown), drive.record.next_seq - 1, pending.is_capped)


async def end(drive: Drive, closing: Closing) -> None:
    """Decide how the run ends, durably."""
    await drive.store.write(lambda tx: set_closing(tx, drive.lease, closing))
    drive.record = drive.record.moved(closing=drive.record.closing or closing)


def _made_to_fit(drive: Drive, rows: Sequence[MessageRow], room: int) -> tuple[list[MessageRow], Compaction | None]:
    """The rows to be stored before the question, and the compaction among them."""
    view = drive.view
    if rows:
        view = View()
        view.add([*drive.view.rows, *rows])
    how = plan(view, room)
    if how is None:
        return list(rows), None
    if tokens_under(view, how) > room:
        raise ContextTooLong(
            f"run {drive.run}: task and rules alone need more than the {room} tokens that the model's window leaves"
        )
    record = drive.record
    row = MessageRow(record.id, record.next_seq + len(rows), record.turn, Role.COMPACTION, how.to_body())
    return [*rows, row], how


async def _write(
    drive: Drive, pending: Pending, rows: list[MessageRow], *, scopes: Sequence[str], input_tokens: int
) -> int | Exceeded:
    """Store rows and reserve; return the output tokens that the budget leaves room for."""
    record, model = drive.record, drive.equipment.model
    holder = exchange_holder(record.id, record.turn + 1)
    event = _compaction_event(drive, rows, input_tokens) if rows and rows[-1].role is Role.COMPACTION else None

    def work(tx: Transaction) -> int | Exceeded:
        drive.context.guard(tx)
        if rows:
            append_rows(tx.connection, rows)
            values = {"next_seq": record.next_seq + len(rows)}
            tx.connection.execute(update(runs).where(runs.c.id == record.id).values(**values))
        for letter, row in zip(pending.letters, rows, strict=False):
            tx.connection.execute(update(inbox).where(inbox.c.id == letter.id).values(delivered_seq=row.seq))
        if event is not None:
            tx.record(event)
        if not pending.is_capped:
            return model.max_output_tokens
        return _reserve(tx, drive, scopes, holder=holder, input_tokens=input_tokens)

    outcome = await drive.store.write(work)
    drive.record = record.moved(next_seq=record.next_seq + len(rows))
    drive.view.add(rows)
    return outcome


def _reserve(tx: Transaction, drive: Drive, scopes: Sequence[str], *, holder: str, input_tokens: int) -> int | Exceeded:
    """Reserve for the longest answer that the budgets still allow, down to a least one."""
    model = drive.equipment.model
    output = model.max_output_tokens
    while True:
        cost = -(-(input_tokens * model.prices.input + output * model.prices.output) // 1_000_000)
        amounts = {Unit.TOKENS: input_tokens + output, Unit.MICRO_USD: cost}
        refused = reserve(tx, scopes, amounts, holder=holder)
        if refused is None:
            return output
        if output <= LEAST_OUTPUT_TOKENS:
            return refused
        output = max(output // 2, LEAST_OUTPUT_TOKENS)


def _stop_for(drive: Drive, exceeded: Exceeded) -> None:
    """Park the run with its work kept, until the budget has room."""
    if exceeded.is_in_flight:
        until = Until.SETTLED
    else:
        until = Until.RAISED if exceeded.scope == run_scope(drive.run) else Until.MONTH
    drive.switch.throw(Stop(StopKind.BUDGET, "system:budget", str(exceeded), until), grace_s=0)


def _compaction_event(drive: Drive, rows: Sequence[MessageRow], after_tokens: int) -> Event:
    record = drive.record
    how = Compaction.from_body(rows[-1].body)
    data: dict[str, JsonValue] = {
        "turn": record.turn,
        "seq": rows[-1].seq,
        "tokens_before": drive.view.tokens,
        "tokens_after": after_tokens,
        "elided": len(how.elided),
        "dropped_through_turn": how.dropped_through,
        "trim_chars": how.trim_chars,
    }
    return Event(Kind.COMPACTION, record.agent, data, run=record.id, on_behalf_of=record.person)

"""think: one question to the model, and its answer stored with the calls it asks for.

First step on the path of a tool call. Before the question: people's words are delivered, the context is made to fit,
tokens and money are reserved (`asking`). After it: assistant message, exchange entry, ledger rows and settled budget
are one transaction, so that an answer is either whole in the tables or was never had; one that is there is never
asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import bindparam, update

from ringfence_agents.asking import Asked, exchange_holder, prepare
from ringfence_agents.conversation import MessageRow, Role, append_rows, assistant_body
from ringfence_agents.drive import Drive
from ringfence_agents.errors import ContextTooLong, ModelUnavailable
from ringfence_agents.leases import IS_HELD, held_by, lost
from ringfence_agents.loops import KEPT_SIGNATURES, LoopVerdict, judge_loop, signature
from ringfence_agents.model import Answer, ModelCall, ModelRequest, seal
from ringfence_agents.ports import Limits
from ringfence_agents.runs import Closing, RunRecord, RunState
from ringfence_agents.schema import runs
from ringfence_agents.todo import Next, Todo, first_start
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_audit.prepared import Prepared
from ringfence_tools.budget import Mark, Unit, settle
from ringfence_tools.clock import micros
from ringfence_tools.ledger import CallRow, Proposal, propose
from ringfence_tools.progress import Exchanged, RunMoved, Thought

CONTEXT_TRIES = 4
SHRINK_PERCENT = 60
SUMMARY_LIMIT_CHARS = 8_000
TOKENS_LIMIT = 1 << 40

NUDGE_NO_CALL = (
    "You answered without a tool call, so nothing was done. If the task is complete, or cannot be completed, call "
    "`finish`; otherwise go on with the next tool call."
)
NUDGE_EMPTY = "Your answer was empty. Go on with a tool call, or call `finish` if the task is complete."
NUDGE_CUT = "Your answer was cut off at the output limit. Answer more briefly, in smaller tool calls."


async def think(drive: Drive) -> Todo:
    """Ask, store, and say what is next. Raises `ModelError`, `LeaseLost`, `LogUnavailable`."""
    asked = await _ask(drive)
    if asked is None:
        return Todo(Next.END)
    request, answer = asked
    stored = await _store(drive, request, answer)
    usage = answer.usage
    drive.context.progress(
        Exchanged(drive.run, drive.record.turn, usage.input_tokens, usage.output_tokens, _cost(drive, answer))
    )
    return stored


async def _ask(drive: Drive) -> tuple[Asked, Answer] | None:
    """The question and its answer, or None where the run has to stop first."""
    limit_percent = 100
    for attempt in range(CONTEXT_TRIES):
        asked = await prepare(drive, limit_percent=limit_percent)
        if asked is None:
            return None
        try:
            answer = await drive.switch.question(_answer(drive, _request(drive, asked)))
        except ContextTooLong:
            if attempt == CONTEXT_TRIES - 1:
                raise
            limit_percent = limit_percent * SHRINK_PERCENT // 100
            continue
        return None if answer is None else (asked, _bounded(seal(answer)))
    return None


async def _answer(drive: Drive, request: ModelRequest) -> Answer:
    """The model's answer, once it is this run's turn to ask."""
    limit_s = drive.equipment.limits.model_s
    async with drive.pressure.questions:
        try:
            async with asyncio.timeout(limit_s):
                return await drive.equipment.model.answer(request, _watch(drive))
        except TimeoutError as error:
            raise ModelUnavailable(f"{drive.equipment.model.name} gave no answer within {limit_s:g} s") from error


def _request(drive: Drive, asked: Asked) -> ModelRequest:
    return ModelRequest(
        run=drive.run,
        turn=drive.record.turn + 1,
        messages=drive.view.messages,
        tools=asked.tools,
        max_output_tokens=asked.max_output_tokens,
        last_results=drive.last_results,
        bookmark=drive.record.bookmark,
    )


def _watch(drive: Drive) -> _Watcher:
    return _Watcher(drive)


@dataclass(frozen=True, slots=True)
class _Watcher:
    drive: Drive

    def __call__(self, delta: str) -> None:
        self.drive.context.progress(Thought(self.drive.run, delta))


def _bounded(answer: Answer) -> Answer:
    usage = answer.usage
    return replace(
        answer,
        usage=replace(
            usage,
            input_tokens=min(max(usage.input_tokens, 0), TOKENS_LIMIT),
            output_tokens=min(max(usage.output_tokens, 0), TOKENS_LIMIT),
            cached_tokens=min(max(usage.cached_tokens, 0), TOKENS_LIMIT),
        ),
    )


def _cost(drive: Drive, answer: Answer) -> int:
    return drive.equipment.model.prices.cost_micro_usd(answer.usage)


@dataclass(frozen=True, slots=True)
class _Move:
    """How the answer moves the run: what is said to the agent at once, how it ends, what counts on."""

    calls: tuple[ModelCall, ...]
    nudge: str
    closing: Closing | None
    idle_answers: int
    recent: tuple[str, ...]


def judge(record: RunRecord, answer: Answer, limits: Limits) -> _Move:
    """What an answer means for the run. Pure."""
    if answer.tool_calls:
        recent = (*record.recent, signature(answer.tool_calls))[-KEPT_SIGNATURES:]
        verdict = judge_loop(recent, nudge_at=limits.loop_nudge, end_at=limits.loop_end)
        if verdict is LoopVerdict.END:
            closing = Closing(RunState.FAILED, "the agent repeated the same call over and over; it was stopped")
            return _Move((), "", closing, 0, recent)
        return _Move(answer.tool_calls, "", None, 0, recent)
    idle = record.idle_answers + 1
    text = answer.content.strip()
    is_cut = answer.finish_reason == "length" or answer.is_cut
    if text and not is_cut and idle > 1:
        closing = Closing(RunState.FINISHED, f"(ended without `finish`) {text[:SUMMARY_LIMIT_CHARS]}")
        return _Move((), "", closing, idle, record.recent)
    if idle >= limits.idle_answers:
        closing = Closing(RunState.FAILED, f"the model gave no tool call in {idle} answers")
        return _Move((), "", closing, idle, record.recent)
    nudge = NUDGE_CUT if is_cut else NUDGE_NO_CALL if text else NUDGE_EMPTY
    return _Move((), nudge, None, idle, record.recent)


async def _store(drive: Drive, asked: Asked, answer: Answer) -> Todo:
    record, model = drive.record, drive.equipment.model
    move = judge(record, answer, drive.equipment.limits)
    turn = record.turn + 1
    rows = _rows(record, answer, move)
    cost = _cost(drive, answer)
    after = record.moved(
        turn=turn,
        collected_turn=record.collected_turn if move.calls else turn,
        next_seq=record.next_seq + len(rows),
        idle_answers=move.idle_answers,
        recent=move.recent,
        bookmark=answer.bookmark,
        closing=move.closing,
        input_tokens=record.input_tokens + answer.usage.input_tokens,
        output_tokens=record.output_tokens + answer.usage.output_tokens,
        cost_micro_usd=record.cost_micro_usd + cost,
    )
    event = Event(
        Kind.EXCHANGE,
        record.agent,
        _exchange(asked, answer, turn=turn, cost=cost, model=model.name),
        run=record.id,
        on_behalf_of=record.person,
    )
    proposals = [Proposal(call.id, call.name, call.arguments_text) for call in move.calls]
    used = {Unit.TOKENS: answer.usage.input_tokens + answer.usage.output_tokens, Unit.MICRO_USD: cost}

    columns, held = _columns(after), held_by(drive.lease)
    marks: list[Mark] = []

    def work(tx: Transaction) -> tuple[CallRow, ...]:
        if not _ANSWERED.change(tx.connection, {**columns, **held, "at": micros(tx.now)}):
            raise lost(drive.lease)
        append_rows(tx.connection, rows)
        tx.record(event)
        marks[:] = settle(tx, exchange_holder(record.id, turn), used) if asked.is_reserved else ()
        if not proposals:
            return ()
        return propose(tx, record.id, turn, proposals, is_read_only=drive.equipment.toolbox.is_read_only)

    proposed = await drive.store.write(work)
    drive.proposed = {row.key: row for row in proposed}
    drive.record = after
    drive.view.add(rows)
    for mark in marks:
        said = f"{mark.percent} % of the {mark.unit} of {mark.scope} are used: {mark.spent} of {mark.cap}"
        drive.context.progress(RunMoved(drive.run, "running", said))
    if move.closing is not None:
        return Todo(Next.END)
    return Todo(Next.CALL, first_start(proposed)) if move.calls else Todo(Next.THINK)


def _rows(record: RunRecord, answer: Answer, move: _Move) -> list[MessageRow]:
    turn = record.turn + 1
    body = assistant_body(answer.content, move.calls, turn=turn)
    rows = [MessageRow(record.id, record.next_seq, turn, Role.ASSISTANT, body)]
    if move.nudge:
        rows.append(MessageRow(record.id, record.next_seq + 1, turn, Role.USER, {"content": move.nudge}))
    return rows


_ANSWERED = Prepared(
    update(runs)
    .where(IS_HELD)
    .values(
        turn=bindparam("to_turn"),
        collected_turn=bindparam("to_collected"),
        next_seq=bindparam("to_seq"),
        idle_answers=bindparam("to_idle"),
        recent=bindparam("to_recent"),
        bookmark=bindparam("to_bookmark"),
        closing=bindparam("to_closing"),
        input_tokens=bindparam("to_input"),
        output_tokens=bindparam("to_output"),
        cost_micro_usd=bindparam("to_cost"),
        failures=0,
        moved_at=bindparam("at"),
    )
)


def _columns(after: RunRecord) -> Mapping[str, str | int]:
    return {
        "to_turn": after.turn,
        "to_collected": after.collected_turn,
        "to_seq": after.next_seq,
        "to_idle": after.idle_answers,
        "to_recent": "[" + ",".join(f'"{item}"' for item in after.recent) + "]",
        "to_bookmark": after.bookmark,
        "to_closing": after.closing.to_json() if after.closing else "",
        "to_input": after.input_tokens,
        "to_output": after.output_tokens,
        "to_cost": after.cost_micro_usd,
    }


def _exchange(asked: Asked, answer: Answer, *, turn: int, cost: int, model: str) -> dict[str, JsonValue]:
    usage = answer.usage
    calls: Sequence[JsonValue] = [
        {"id": call.id, "name": call.name, "arguments": call.arguments_text} for call in answer.tool_calls
    ]
    return {
        "turn": turn,
        "model": model,
        "answered_by": answer.model,
        "request": {
            "sha256": asked.request_sha256,
            "messages": asked.message_count,
            "last_seq": asked.last_seq,
            "max_output_tokens": asked.max_output_tokens,
        },
        "answer": {"content": answer.content, "tool_calls": calls},
        "finish_reason": answer.finish_reason,
        "usage": {
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "cached": usage.cached_tokens,
            "is_estimated": usage.is_estimated,
        },
        "cost_micro_usd": cost,
        "attempts": answer.attempts,
        "dropped_calls": answer.dropped_calls,
        "is_cut": answer.is_cut,
    }

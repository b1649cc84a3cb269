"""A retry or a fork: a new run that begins where another stood after one of its steps.

It has an identity of its own, a sandbox of its own with that step's files, the conversation up to there, the same
pinned profile, and a budget of its own with the same caps. Grants, denials and votes stay with the run they were given
to. Turns go on counting, so that a step is called the same in both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import func, insert, select

from ringfence_agents.control import record_control
from ringfence_agents.errors import RunHeld, StepNotKept
from ringfence_agents.runs import RunRecord, RunState, load, setup_calls
from ringfence_agents.schema import inbox, messages, runs
from ringfence_agents.steps import Step, last_step, steps_of, store_step
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.budget import open_budget, run_scope, usage
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros
from ringfence_tools.ledger import propose
from ringfence_tools.schema import calls


@dataclass(frozen=True, slots=True)
class Branch:
    """What a person asks for. `step` is a turn of `source`; `run` a fresh id; `by` a person's principal.

    `is_retry`: another attempt in place of the source, which must have ended. `word` is told to the agent. `workspace`
    is where the new run's bundle lies, `setup` the profile's setup commands, which run again over the step's files.
    """

    source: RunId
    step: int
    run: RunId
    by: str
    reason: str
    workspace: Mapping[str, str]
    setup: tuple[str, ...] = ()
    is_retry: bool = False
    word: str = ""


def files_at(tx: Transaction, record: RunRecord, step: int) -> Step | None:
    """The files of `record` after turn `step`; None where nothing had been changed by then. Raises `StepNotKept`."""
    if not 0 <= step <= record.collected_turn:
        raise StepNotKept(
            f"run {record.id} has no step {step}; it has 0 to {max(record.collected_turn, 0)}"
            if record.collected_turn >= 0
            else f"run {record.id} has made no step yet"
        )
    kept = last_step(tx.connection, record.id, turn=step)
    changed = tx.connection.execute(
        select(func.max(calls.c.turn)).where(
            calls.c.run == record.id, calls.c.turn <= step, calls.c.is_read_only == 0, calls.c.sandbox != ""
        )
    ).scalar()
    if changed is not None and (kept is None or kept.turn < changed):
        have = ", ".join(str(one.turn) for one in steps_of(tx.connection, record.id)) or "none"
        raise StepNotKept(
            f"the files of step {step} of run {record.id} were not kept; those of these steps were: {have}"
        )
    return kept


def branch(tx: Transaction, wanted: Branch, *, is_read_only: Callable[[str], bool]) -> RunId:
    """Store the new run, queued. Raises `RunNotFound`, `StepNotKept`, and `RunHeld` for a retry of what goes on."""
    record = load(tx.connection, wanted.source)
    if wanted.is_retry and not record.state.is_end:
        raise RunHeld(f"run {record.id} is {record.state.value}: stop it first, or fork it")
    kept = files_at(tx, record, wanted.step)
    now = micros(tx.now)
    words = _words_through(tx, record.id, wanted.step)
    next_seq = int(words[-1]["seq"]) + 1
    tx.connection.execute(insert(runs).values(_row(record, wanted, next_seq=next_seq, now=now)))
    tx.connection.execute(insert(messages), [{"run": wanted.run, **row} for row in words])
    if kept is not None:
        store_step(tx, wanted.run, kept)
    caps = {unit: one.cap for unit, one in usage(tx.connection, run_scope(record.id)).items()}
    open_budget(tx, run_scope(wanted.run), caps)
    propose(tx, wanted.run, wanted.step, setup_calls(wanted.setup), is_read_only=is_read_only)
    if wanted.word:
        tx.connection.execute(insert(inbox).values(run=wanted.run, author=wanted.by, text=wanted.word, posted_at=now))
    _record(tx, record, wanted, kept)
    tx.announce()
    return wanted.run


def _words_through(tx: Transaction, source: RunId, step: int) -> list[dict[str, str | int]]:
    """The rows of the conversation up to the end of a step."""
    wanted = select(messages).where(messages.c.run == source, messages.c.turn <= step).order_by(messages.c.seq)
    return [
        {"seq": row.seq, "turn": row.turn, "role": row.role, "body": row.body} for row in tx.connection.execute(wanted)
    ]


def _row(record: RunRecord, wanted: Branch, *, next_seq: int, now: int) -> dict[str, str | int | None]:
    return {
        "id": wanted.run,
        "task": record.task,
        "state": RunState.QUEUED.value,
        "profile": record.profile,
        "profile_version": record.profile_version,
        "profile_digest": record.profile_digest,
        "profile_document": record.profile_document,
        "model": record.model,
        "team": record.team,
        "priority": record.priority,
        "agent": f"agent:{wanted.run}",
        "on_behalf_of": wanted.by.removeprefix("person:"),
        "base_commit": record.base_commit,
        "workspace": json.dumps({**wanted.workspace, "first_turn": str(wanted.step)}),
        "turn": wanted.step,
        "collected_turn": wanted.step - 1,
        "next_seq": next_seq,
        "bookmark": record.bookmark if wanted.step == record.turn else "",
        "wall_cap_ms": record.wall_cap_ms,
        "created_at": now,
    }


def _record(tx: Transaction, record: RunRecord, wanted: Branch, kept: Step | None) -> None:
    how = "retry" if wanted.is_retry else "fork"
    origin: dict[str, JsonValue] = {
        "how": how,
        "run": record.id,
        "step": wanted.step,
        "files_sha256": kept.files.sha256 if kept else "",
        "reason": wanted.reason,
    }
    opened: dict[str, JsonValue] = {
        "task": record.task,
        "text": record.task_text,
        "repository": record.repository,
        "base_commit": record.base_commit,
        "agent": f"agent:{wanted.run}",
        "team": record.team,
        "profile": {"name": record.profile, "version": record.profile_version, "digest": record.profile_digest},
        "model": record.model,
        "setup": list(wanted.setup),
        "from": origin,
    }
    tx.record(Event(Kind.RUN_OPENED, wanted.by, opened, run=wanted.run, on_behalf_of=wanted.by))
    record_control(
        tx, record, wanted.by, {"action": how, "step": wanted.step, "to": wanted.run, "reason": wanted.reason}
    )

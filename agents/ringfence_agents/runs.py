"""Runs as they stand in the tables: their states, one row as a value, and how a task and its run are opened.

Before the path of a tool call: whoever assigns a task calls `open_run` inside one transaction. Who may move a run
afterwards is in `leases`, what people may ask of it in `control`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from sqlalchemy import Connection, Row, bindparam, insert, select

from ringfence_agents.errors import RunNotFound
from ringfence_agents.schema import messages, runs, tasks
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.budget import Unit, open_budget, run_scope
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros, moment
from ringfence_tools.ledger import Proposal, propose

TaskId = NewType("TaskId", str)


class RunState(StrEnum):
    QUEUED = "queued"
    """Wants a worker."""
    RUNNING = "running"
    """A worker holds its lease, or held it and died."""
    PARKED = "parked"
    """Waits and holds nothing; `waits_for` says for what."""
    FINISHED = "finished"
    FAILED = "failed"
    BLOCKED = "blocked"
    """Ended because it kept trying what it may not do, or could not go on without it."""
    EXHAUSTED = "exhausted"
    """Ended at a budget's cap."""
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        return self not in (RunState.QUEUED, RunState.RUNNING, RunState.PARKED)


class WaitsFor(StrEnum):
    NOTHING = ""
    PEOPLE = "people"
    """An escalation is open; a vote or its expiry wakes the run."""
    PAUSE = "pause"
    """A person paused it; only a person wakes it."""
    BUDGET = "budget"
    """A shared budget is used up; a person raises it and resumes the run."""
    TIME = "time"
    """Something outside was not ready; it tries again at `wake_at`."""


class Request(StrEnum):
    """What a person asked of a run that a worker holds; the worker sees it within a second."""

    NOTHING = ""
    PAUSE = "pause"
    CANCEL = "cancel"
    PRESERVE = "preserve"
    """Cancel, but seal the workspace before anything is killed."""

    @property
    def is_end(self) -> bool:
        return self in (Request.CANCEL, Request.PRESERVE)


class SandboxState(StrEnum):
    NONE = "none"
    CREATING = "creating"
    """The id is taken; whether it was built to the end is not known. Never attached to: destroyed and made anew."""
    READY = "ready"
    KEPT = "kept"
    """It was released while the run waits; its files are kept as an archive and come back with the next sandbox."""
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Closing:
    """How a run is about to end. Stored before the patch is made, so that a crash goes on with closing."""

    state: RunState
    summary: str

    def to_json(self) -> str:
        return json.dumps({"state": self.state.value, "summary": self.summary}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Closing:
        data = json.loads(text)
        return cls(RunState(data["state"]), str(data["summary"]))


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One row of `runs` with its task. Times are aware UTC, or None where it has not happened."""

    id: RunId
    task: TaskId
    task_text: str
    repository: str
    state: RunState
    detail: str
    waits_for: WaitsFor
    profile: str
    profile_version: str
    profile_digest: str
    profile_document: str
    model: str
    team: str
    priority: int
    agent: str
    on_behalf_of: str
    """The person who assigned the task, without prefix."""
    base_commit: str
    workspace: Mapping[str, str]
    worker: str
    fence: int
    turn: int
    collected_turn: int
    next_seq: int
    idle_answers: int
    recent: tuple[str, ...]
    bookmark: str
    closing: Closing | None
    sandbox_id: str
    sandbox_generation: int
    sandbox_state: SandboxState
    sandbox_releases: int
    """How many sandboxes were given up on purpose, their files kept."""
    request: Request
    requested_by: str
    request_reason: str
    failures: int
    active_ms: int
    wall_cap_ms: int | None
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    result: Mapping[str, JsonValue]

    def moved(self, **changes: object) -> RunRecord:
        """A copy with other values. `dataclasses.replace` does the same ten times slower, twice a turn."""
        copy = object.__new__(RunRecord)
        for name in RunRecord.__slots__:
            object.__setattr__(copy, name, changes[name] if name in changes else getattr(self, name))
        return copy

    @property
    def person(self) -> str:
        return f"person:{self.on_behalf_of}"

    @property
    def first_turn(self) -> int:
        """The turn of the setup commands: 0, or the step of another run with which this one began."""
        return int(self.workspace.get("first_turn", "0"))


@dataclass(frozen=True, slots=True)
class NewRun:
    """All that a person decides when a task is assigned. `run` and `task` are fresh ids, made by the caller.

    `run` is 1 to 24 lower-case letters and digits, a letter first, so that sandbox names can be made from it.
    `assigned_by` is a person's name, with or without the prefix of its principal. `workspace` is what the caller's
    `Equipment` needs to find the bundle again (a path, a branch). `setup` are the profile's setup commands, run as
    gated shell calls of turn 0.
    `caps` are the run's own budget.
    """

    run: RunId
    task: TaskId
    text: str
    repository: str
    assigned_by: str
    profile: str
    profile_version: str
    profile_digest: str
    profile_document: str
    model: str
    base_commit: str
    system_prompt: str
    workspace: Mapping[str, str] = field(default_factory=dict)
    team: str = ""
    priority: int = 0
    setup: tuple[str, ...] = ()
    caps: Mapping[Unit, int] = field(default_factory=dict)


def open_run(tx: Transaction, new: NewRun, *, is_read_only: Callable[[str], bool]) -> RunId:
    """Store a task and its run, queued, with its first messages, its budget and its setup calls, and the entry."""
    now = micros(tx.now)
    name = new.assigned_by.removeprefix("person:")
    tx.connection.execute(
        insert(tasks).values(
            id=new.task,
            text=new.text,
            repository=new.repository,
            team=new.team,
            assigned_by=name,
            created_at=now,
        )
    )
    agent = f"agent:{new.run}"
    tx.connection.execute(
        insert(runs).values(
            id=new.run,
            task=new.task,
            state=RunState.QUEUED.value,
            profile=new.profile,
            profile_version=new.profile_version,
            profile_digest=new.profile_digest,
            profile_document=new.profile_document,
            model=new.model,
            team=new.team,
            priority=new.priority,
            agent=agent,
            on_behalf_of=name,
            base_commit=new.base_commit,
            workspace=json.dumps(dict(new.workspace)),
            next_seq=2,
            wall_cap_ms=new.caps.get(Unit.WALL_MS),
            created_at=now,
        )
    )
    tx.connection.execute(
        insert(messages),
        [
            _message(new.run, 0, role="system", content=new.system_prompt),
            _message(new.run, 1, role="user", content=new.text),
        ],
    )
    if new.caps:
        open_budget(tx, run_scope(new.run), new.caps)
    tx.announce()
    propose(tx, new.run, 0, setup_calls(new.setup), is_read_only=is_read_only)
    person = f"person:{name}"
    tx.record(Event(Kind.RUN_OPENED, person, _opened(new, agent), run=new.run, on_behalf_of=person))
    return new.run


def _message(run: RunId, seq: int, *, role: str, content: str) -> dict[str, str | int]:
    return {
        "run": run,
        "seq": seq,
        "turn": 0,
        "role": role,
        "body": json.dumps({"content": content}, ensure_ascii=False),
    }


def setup_calls(commands: Sequence[str]) -> list[Proposal]:
    """A profile's setup commands as the calls of the run's first turn."""
    return [
        Proposal(f"setup-{index}", "shell", json.dumps({"command": command}, ensure_ascii=False))
        for index, command in enumerate(commands)
    ]


def _opened(new: NewRun, agent: str) -> dict[str, JsonValue]:
    return {
        "task": new.task,
        "text": new.text,
        "repository": new.repository,
        "base_commit": new.base_commit,
        "agent": agent,
        "team": new.team,
        "profile": {"name": new.profile, "version": new.profile_version, "digest": new.profile_digest},
        "model": new.model,
        "system_prompt": new.system_prompt,
        "setup": list(new.setup),
        "budget": {unit.value: cap for unit, cap in new.caps.items()},
    }


_JOINED = select(runs, tasks.c.text.label("task_text"), tasks.c.repository).join(tasks, tasks.c.id == runs.c.task)
_BY_ID = _JOINED.where(runs.c.id == bindparam("in_run"))


def load(connection: Connection, run: RunId) -> RunRecord:
    """The run as it stands. Raises `RunNotFound`."""
    row = connection.execute(_BY_ID, {"in_run": run}).first()
    if row is None:
        raise RunNotFound(f"no run {run}; `ringfence runs list` shows those there are")
    return _record(row)


def list_runs(
    connection: Connection, *, states: Sequence[RunState] = (), team: str = "", limit: int = 50
) -> tuple[RunRecord, ...]:
    """The latest runs, newest first."""
    query = _JOINED.order_by(runs.c.created_at.desc(), runs.c.id).limit(limit)
    if states:
        query = query.where(runs.c.state.in_([state.value for state in states]))
    if team:
        query = query.where(runs.c.team == team)
    return tuple(_record(row) for row in connection.execute(query))


def _record(row: Row[tuple[object, ...]]) -> RunRecord:
    return RunRecord(
        id=RunId(row.id),
        task=TaskId(row.task),
        task_text=row.task_text,
        repository=row.repository,
        state=RunState(row.state),
        detail=row.detail,
        waits_for=WaitsFor(row.waits_for),
        profile=row.profile,
        profile_version=row.profile_version,
        profile_digest=row.profile_digest,
        profile_document=row.profile_document,
        model=row.model,
        team=row.team,
        priority=row.priority,
        agent=row.agent,
        on_behalf_of=row.on_behalf_of,
        base_commit=row.base_commit,
        workspace=json.loads(row.workspace),
        worker=row.worker,
        fence=row.fence,
        turn=row.turn,
        collected_turn=row.collected_turn,
        next_seq=row.next_seq,
        idle_answers=row.idle_answers,
        recent=tuple(json.loads(row.recent)),
        bookmark=row.bookmark,
        closing=Closing.from_json(row.closing) if row.closing else None,
        sandbox_id=row.sandbox_id,
        sandbox_generation=row.sandbox_generation,
        sandbox_state=SandboxState(row.sandbox_state),
        sandbox_releases=row.sandbox_releases,
        request=Request(row.request),
        requested_by=row.requested_by,
        request_reason=row.request_reason,
        failures=row.failures,
        active_ms=row.active_ms,
        wall_cap_ms=row.wall_cap_ms,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost_micro_usd=row.cost_micro_usd,
        created_at=moment(row.created_at),
        started_at=None if row.started_at is None else moment(row.started_at),
        ended_at=None if row.ended_at is None else moment(row.ended_at),
        result=json.loads(row.result) if row.result else {},
    )

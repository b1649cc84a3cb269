"""What the gate is told and what it answers: the run a call belongs to, and how far a step took it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from sqlalchemy import Connection

from ringfence_audit.port import Transaction
from ringfence_sandbox.contract import Sandbox
from ringfence_tools.calls import Access, CallKey, Decision, EscalationId, RunId, ToolResult
from ringfence_tools.progress import Progress

Guard: TypeAlias = Callable[[Transaction], None]
"""Raises `LeaseLost` unless this worker still holds the run. Called first in every transaction that writes."""


class Decider(Protocol):
    """The policy, as the gate needs it."""

    @property
    def version(self) -> str: ...

    def decide(self, tool: str, accesses: tuple[Access, ...]) -> Decision: ...


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a reviewer is told of the task behind a call."""

    text: str = ""
    repository: str = ""
    commit: str = ""
    profile: str = ""


def _says_nothing(_: Connection, __: CallKey) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What the gate must know of the run whose call it handles. Built by the agents room, one per lease."""

    run: RunId
    agent: str
    """The agent's principal, `agent:RUN`."""
    on_behalf_of: str
    """The person who assigned the task, without prefix."""
    fence: int
    guard: Guard
    sandbox: Callable[[], Awaitable[Sandbox]]
    """Gives the run's live sandbox, started or resumed when first asked for."""
    progress: Progress
    scopes: tuple[str, ...] = ()
    """Budget scopes of the run; its own alone where none are named."""
    task: TaskFacts = TaskFacts()
    is_ending: bool = False
    """The run is over: what became of an intent is found out, and nothing that never started starts any more."""
    says: Callable[[Connection, CallKey], str] = _says_nothing
    """The agent's own words of the call's turn. Hostile."""
    may_start: Guard | None = None
    """The guard of what begins something new, where it is stricter: it also refuses a run that was told to stop."""
    team: str = ""
    """The team that the run belongs to: a reviewer's groups count where they hold for it."""

    @property
    def person(self) -> str:
        return f"person:{self.on_behalf_of}"

    @property
    def starting(self) -> Guard:
        """Called first in every transaction that may let something new begin."""
        return self.may_start or self.guard


@dataclass(frozen=True, slots=True)
class Settled:
    """The call has its result, stored."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class Waiting:
    """The call waits for people."""

    escalation: EscalationId


Step: TypeAlias = Settled | Waiting

"""What a watcher is told while a run goes on. Never truth: the log is. A watcher must not block or raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ringfence_tools.calls import CallKey, Decision, EscalationId, RunId, ToolResult


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the model's text, as it streams. Hostile text: escape it before showing."""

    run: RunId
    delta: str


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One exchange with the model is stored."""

    run: RunId
    turn: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int


@dataclass(frozen=True, slots=True)
class CallDecided:
    key: CallKey
    tool: str
    summary: str
    """One bounded line that says what is called with what. Hostile text."""
    decision: Decision | None
    """None where the call was invalid and never reached the policy."""
    escalation: EscalationId | None = None


@dataclass(frozen=True, slots=True)
class CallOutput:
    key: CallKey
    data: bytes


@dataclass(frozen=True, slots=True)
class CallSettled:
    key: CallKey
    tool: str
    result: ToolResult


@dataclass(frozen=True, slots=True)
class RunMoved:
    """The run entered a state or a phase within one (`sandbox starting`, `setup`, `waiting for E-12`)."""

    run: RunId
    state: str
    detail: str = ""


ProgressEvent: TypeAlias = Thought | Exchanged | CallDecided | CallOutput | CallSettled | RunMoved
Progress: TypeAlias = Callable[[ProgressEvent], None]


def ignore(_: ProgressEvent) -> None:
    """The watcher of a run that nobody watches."""

"""The gate: the only door between an agent's tool call and any effect.

validate → digest → reserve budget → decide → durable entry → act → outcome entry. (Being filled in; the signatures
below are what the agents room builds on.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from ringfence_audit.port import Transaction
from ringfence_sandbox.contract import Sandbox
from ringfence_tools.calls import CallKey, EscalationId, RunId, ToolResult
from ringfence_tools.progress import Progress

Guard: TypeAlias = Callable[[Transaction], None]
"""Raises `LeaseLost` unless this worker still holds the run. Called first in every transaction that writes."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What the gate must know of the run whose call it handles. Built by the agents room, one per lease."""

    run: RunId
    agent: str
    on_behalf_of: str
    fence: int
    guard: Guard
    sandbox: Callable[[], Awaitable[Sandbox]]
    """Gives the run's live sandbox, started or resumed when first asked for."""
    progress: Progress


@dataclass(frozen=True, slots=True)
class Settled:
    """The call has its result, stored."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class Waiting:
    """The call waits for people."""

    escalation: EscalationId


Step: TypeAlias = Settled | Waiting


class Gate:
    """One per profile version and store."""

    async def step(self, key: CallKey, context: RunContext) -> Step:
        """Take one call as far as it goes now. Safe to repeat at any point, also after a crash."""
        raise NotImplementedError

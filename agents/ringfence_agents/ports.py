"""What the agents room needs from below, and what a profile gives a run: so that wiring hands over one value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ringfence_agents.model import Model, ToolSchema
from ringfence_agents.runs import RunRecord
from ringfence_sandbox.contract import Backend, Bundle, EgressGatekeeper, SandboxId, SandboxSpec
from ringfence_tools.calls import CallKey
from ringfence_tools.gate_context import RunContext, Step
from ringfence_tools.ledger import CallRow


class Door(Protocol):
    """The gate as a run uses it."""

    async def step(self, key: CallKey, context: RunContext, *, seen: CallRow | None = None) -> Step: ...


class Tools(Protocol):
    """The toolbox as a run uses it."""

    def schemas(self) -> Sequence[ToolSchema]: ...

    def is_read_only(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a run that are not a budget. Times in seconds."""

    lease_s: int = 30
    watch_s: float = 0.5
    questions_at_once: int = 64
    """Questions to models that one process has open; the same for all its runs, as is the next."""
    starts_at_once: int = 8
    model_s: float = 1_800.0
    turns: int = 1_000
    idle_answers: int = 3
    loop_nudge: int = 4
    loop_end: int = 8
    stop_grace_s: float = 5.0
    closing_s: float = 300.0
    sandbox_start_s: float = 300.0
    sandbox_losses: int = 3
    budget_retry_s: int = 5
    retry_base_s: int = 15
    retries: int = 6


@dataclass(frozen=True, slots=True)
class Equipment:
    """What the profile of a run gives it. Built by wiring for a `RunRecord`, again at every lease.

    `spec` and `bundle` describe the run's sandbox and its repository; `egress` is the gatekeeper of its network, or
    None where it has none. `scopes` are budgets beside the run's own (`team:NAME:YYYY-MM`).
    """

    gate: Door
    model: Model
    toolbox: Tools
    backend: Backend
    spec: Callable[[RunRecord, SandboxId], SandboxSpec]
    bundle: Callable[[RunRecord], Bundle]
    artifacts: Path
    egress: Callable[[RunRecord], EgressGatekeeper | None] = field(default=lambda _: None)
    scopes: Callable[[RunRecord], tuple[str, ...]] = field(default=lambda _: ())
    limits: Limits = field(default_factory=Limits)


Equip = Callable[[RunRecord], Awaitable[Equipment]]

"""What one lease on a run works with: the record as last written, the view of its messages, the switch, the gate.

Rebuilt from the tables whenever a run is taken up. `record` is replaced, never changed, after each transaction of
this lease; nobody else writes a leased run, so it is what the tables hold (a person's request and words aside, which
are read anew).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from ringfence_agents.compaction import View
from ringfence_agents.leases import Lease
from ringfence_agents.model import SeenResult, ToolSchema, estimate_tokens
from ringfence_agents.pending import Pending
from ringfence_agents.ports import Equipment, Tools
from ringfence_agents.pressure import Pressure
from ringfence_agents.runs import RunRecord
from ringfence_agents.sandboxes import SandboxHolder
from ringfence_agents.switch import Switch
from ringfence_audit.port import Store
from ringfence_tools.calls import CallKey, RunId
from ringfence_tools.gate_context import RunContext
from ringfence_tools.ledger import CallRow


@dataclass
class Stopwatch:
    """Wall time of this lease that the tables do not hold yet."""

    clock: Callable[[], float] = time.monotonic
    _since: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def peek_ms(self) -> int:
        return int((self.clock() - self._since) * 1000)

    def take_ms(self) -> int:
        """Milliseconds since the last take; they are the caller's to write."""
        now = self.clock()
        elapsed = int((now - self._since) * 1000)
        self._since += elapsed / 1000
        return elapsed

    def give_back_ms(self, elapsed_ms: int) -> None:
        """They could not be written after all."""
        self._since -= elapsed_ms / 1000


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools as the model is offered them, and about how many tokens that takes. Made once a lease."""

    tools: Sequence[ToolSchema]
    tokens: int

    @classmethod
    def of(cls, tools: Tools) -> Offer:
        schemas = tools.schemas()
        return cls(schemas, estimate_tokens(orjson.dumps(schemas).decode()))


@dataclass
class Drive:
    """One lease at work. Used by the tasks of one run on one event loop."""

    store: Store
    lease: Lease
    record: RunRecord
    equipment: Equipment
    context: RunContext
    switch: Switch
    stopwatch: Stopwatch
    holder: SandboxHolder
    offer: Offer
    pressure: Pressure
    view: View = field(default_factory=View)
    last_results: tuple[SeenResult, ...] = ()
    pending: Pending | None = None
    """What the last transaction saw waiting for the next question; None where it must be read."""
    proposed: Mapping[CallKey, CallRow] = field(default_factory=dict)
    """The calls of the last answer as they were stored; the gate reads anew what has moved since."""
    sealing: asyncio.Task[None] | None = None
    """The seal of a run that was stopped with its files to be preserved, once it has begun."""
    active_ms: int = 0
    """Wall time that the tables hold."""

    @property
    def run(self) -> RunId:
        return self.lease.run

"""Delivery is a gated call: its digest covers patch, base commit, remote and branch.

A person delivers, after the run; agents are never offered this tool. It goes through the same gate, ledger and log:
paths that the profile wants looked at are put to people before anything is applied.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from sqlalchemy import Connection, func, select

from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import Sandbox
from ringfence_sandbox.errors import SandboxGone
from ringfence_tools import ledger
from ringfence_tools.calls import Access, CallKey, Family, ResultStatus, RunId, ToolResult
from ringfence_tools.gate import Gate
from ringfence_tools.gate_context import Decider, RunContext, Step, TaskFacts
from ringfence_tools.ledger import CallState, Proposal
from ringfence_tools.people import Directory
from ringfence_tools.progress import ignore
from ringfence_tools.schema import calls
from ringfence_tools.toolbox import Arguments, ControlTool, Toolbox

FIRST_TURN = 1_000_000
"""Deliveries have turns of their own, above any turn of an agent."""

Apply = Callable[[], Awaitable[str]]
"""Applies the patch and says where; repeating it on a tree that has it changes nothing. Raises `DeliveryFailed`."""


class DeliveryFailed(Exception):
    """The patch was not applied; the text says why and what to do."""


class DeliverArguments(Arguments):
    patch_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    base_commit: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")]
    remote: Annotated[str, Field(max_length=2000)]
    branch: Annotated[str, Field(max_length=1000)]
    paths: Annotated[list[str], Field(max_length=10_000)]


class Deliver(ControlTool[DeliverArguments]):
    name: ClassVar[str] = "deliver"
    description: ClassVar[str] = "Apply the run's patch where its task came from."
    arguments = DeliverArguments

    def __init__(self, apply: Apply) -> None:
        self._apply = apply

    def accesses(self, arguments: DeliverArguments) -> tuple[Access, ...]:
        return tuple(Access(Family.DELIVER, path) for path in arguments.paths)

    def summary(self, arguments: DeliverArguments) -> str:
        return f"{len(arguments.paths)} files to {arguments.remote} {arguments.branch}"

    async def control(self, arguments: DeliverArguments) -> ToolResult:
        try:
            where = await self._apply()
        except DeliveryFailed as error:
            return ToolResult(ResultStatus.FAILED, str(error))
        return ToolResult(ResultStatus.OK, where, {"patch_sha256": arguments.patch_sha256, "where": where})


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a person wants delivered."""

    run: RunId
    person: str
    patch_sha256: str
    base_commit: str
    remote: str
    branch: str
    paths: Sequence[str]
    task: TaskFacts
    team: str = ""


async def deliver(store: Store, policy: Decider, directory: Directory, delivery: Delivery, apply: Apply) -> Step:
    """Step the delivery of these bytes to this place: settled, or waiting for people. Call again after they decided."""
    toolbox = Toolbox((Deliver(apply),))
    arguments = json.dumps(
        {
            "patch_sha256": delivery.patch_sha256,
            "base_commit": delivery.base_commit,
            "remote": delivery.remote,
            "branch": delivery.branch,
            "paths": list(delivery.paths),
        }
    )
    key = await store.write(lambda tx: _call_for(tx, delivery.run, arguments))
    context = RunContext(
        run=delivery.run,
        agent=f"person:{delivery.person}",
        on_behalf_of=delivery.person,
        fence=0,
        guard=_no_lease,
        sandbox=_no_sandbox,
        progress=ignore,
        scopes=(f"delivery:{delivery.run}",),
        task=delivery.task,
        team=delivery.team,
    )
    return await Gate(store, policy, toolbox, directory).step(key, context)


def _call_for(tx: Transaction, run: RunId, arguments: str) -> CallKey:
    """The unsettled delivery of exactly this, or a new call."""
    pending = select(calls.c.turn).where(
        calls.c.run == run,
        calls.c.turn >= FIRST_TURN,
        calls.c.state != CallState.DONE.value,
        calls.c.arguments_text == arguments,
    )
    found = tx.connection.execute(pending).first()
    if found is not None:
        return CallKey(run, found.turn, 0)
    turn = _next_turn(tx.connection, run)
    (row,) = ledger.propose(tx, run, turn, [Proposal("person", "deliver", arguments)], is_read_only=lambda _: False)
    return row.key


def _next_turn(connection: Connection, run: RunId) -> int:
    newest = connection.execute(select(func.max(calls.c.turn)).where(calls.c.run == run)).scalar()
    return max(FIRST_TURN, (newest or 0) + 1)


def _no_lease(_: Transaction) -> None:
    """A finished run has no worker; the row's conditional update keeps two deliveries apart."""


async def _no_sandbox() -> Sandbox:
    raise SandboxGone("a delivery has no sandbox")

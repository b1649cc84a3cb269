"""Acting: the one place from which a tool reaches a sandbox. Part of the gate; nothing else may use it.

A fresh intent acts. One found after a crash first asks the sandbox what became of the call, and acts only where the
sandbox says that it never started.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ringfence_audit.port import Store, Transaction
from ringfence_sandbox.contract import CallId, Ending, Mount, Outcome, Recall
from ringfence_sandbox.errors import SandboxGone
from ringfence_tools import cluster_grants, grants
from ringfence_tools.calls import Access, Family, ResultStatus, ToolResult
from ringfence_tools.clock import micros
from ringfence_tools.digest import call_nonce
from ringfence_tools.gate_context import RunContext
from ringfence_tools.ledger import CallRow
from ringfence_tools.progress import CallOutput
from ringfence_tools.toolbox import (
    Acting,
    Arguments,
    ControlTool,
    OutsideTool,
    ReadTool,
    SandboxTool,
    Tool,
    ToolRefusal,
)

ENDED = "The run was ended before this call began; it was not run."


class Effects:
    """Carries out intents that are durable already."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def carry_out(
        self,
        row: CallRow,
        context: RunContext,
        *,
        tool: Tool[Arguments],
        arguments: Arguments,
        accesses: tuple[Access, ...],
        is_fresh: bool,
    ) -> tuple[ToolResult, bool]:
        """Act exactly once; the flag says whether the sandbox keeps an outcome to acknowledge."""
        if context.is_ending and not isinstance(tool, SandboxTool):
            raise ToolRefusal(ENDED)
        match tool:
            case ControlTool():
                if _shows_paths(accesses):
                    await self._show_granted(context)
                return await tool.control(arguments), False
            case ReadTool():
                if _shows_paths(accesses):
                    await self._show_granted(context)
                sandbox = await context.sandbox()
                async with cluster_grants.standing(self._store, sandbox, row.key, accesses):
                    return await tool.read(arguments, sandbox), False
            case OutsideTool():
                acting = await self._acting(row, context)
                async with cluster_grants.standing(self._store, acting.sandbox, row.key, accesses):
                    return await tool.act(arguments, acting), False
            case SandboxTool():
                outcome = await self._perform(tool, arguments, row, context=context, is_fresh=is_fresh)
                if outcome.ending is Ending.INTERRUPTED:
                    text = "It was started and then interrupted; what it did is unknown. Look before you repeat it."
                    return ToolResult(ResultStatus.UNKNOWN, text), True
                return tool.result(arguments, outcome), True
            case _:
                raise ToolRefusal(f"{row.tool} cannot be run")

    async def _perform(
        self, tool: SandboxTool[Arguments], arguments: Arguments, row: CallRow, *, context: RunContext, is_fresh: bool
    ) -> Outcome:
        sandbox = await context.sandbox()
        call_id = call_id_of(row)
        if sandbox.id != row.sandbox:
            raise SandboxGone(f"{row.sandbox} was replaced by {sandbox.id}")
        if not is_fresh:
            known = await sandbox.recall(call_id)
            if isinstance(known, Outcome):
                return known
            if context.is_ending and known is Recall.NEVER_STARTED:
                raise ToolRefusal(ENDED)
            if known is Recall.RUNNING and not tool.seals:
                raise SandboxGone("a write that is still running cannot be waited for")
        action = await tool.action(arguments, await self._acting(row, context))
        return await sandbox.perform(action, on_output=lambda data: context.progress(CallOutput(row.key, data)))

    async def _acting(self, row: CallRow, context: RunContext) -> Acting:
        sandbox = await context.sandbox()
        is_approved = row.escalation is not None
        return Acting(row.key, call_id_of(row), context.fence, sandbox, row.sealed, is_approved=is_approved)

    async def _show_granted(self, context: RunContext) -> None:
        """Make the host paths of live grants visible inside, read-only, and those of ended ones not."""

        def work(tx: Transaction) -> tuple[str, ...]:
            return grants.granted_paths(tx.connection, context.run, micros(tx.now))

        paths = await self._store.write(work)
        await (await context.sandbox()).remount(tuple(Mount(Path(path), PurePosixPath(path)) for path in paths))


def call_id_of(row: CallRow) -> CallId:
    """The id by which the sandbox knows this revision of the call."""
    return CallId(f"{row.key}/{call_nonce(row.nonce)}")


def _shows_paths(accesses: tuple[Access, ...]) -> bool:
    return any(access.family is Family.FILES and access.attributes.get("outside") for access in accesses)

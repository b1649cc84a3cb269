"""What a call would do outside the sandbox, looked up before it is put to people. Part of the gate; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ringfence_tools.calls import Access, Effect, Family
from ringfence_tools.gate_context import RunContext
from ringfence_tools.toolbox import FORESEEN, Arguments, OutsideTool, ReadTool, Tool


@dataclass(frozen=True, slots=True)
class Foresight:
    """`lines` for the card, safe to show; `sealed` for the digest."""

    lines: tuple[str, ...] = ()
    sealed: Mapping[str, str] = field(default_factory=dict)


async def foresee(
    tool: Tool[Arguments], arguments: Arguments, accesses: tuple[Access, ...], *, effect: Effect, context: RunContext
) -> Foresight:
    """Nothing for calls that stay inside, or that people are not asked about. Raises `ToolRefusal`."""
    if effect is not Effect.ESCALATE or not any(access.family is Family.CLUSTER for access in accesses):
        return Foresight()
    if not isinstance(tool, OutsideTool | ReadTool):
        return Foresight()
    seen = await tool.foresee(arguments, await context.sandbox())
    return Foresight(seen.lines, {FORESEEN: seen.sha256} if seen.sha256 else {})

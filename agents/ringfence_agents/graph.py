"""The graph of a run: a cursor that is re-entered from the tables. No checkpointer.

START computes from the tables what is next: `advance` (collect the results of a turn and think about the next), one
`Send("call", …)` for each call that may start, or the end (parked, closing, told to stop). Every node stores what it
did before it returns; the state that flows between nodes is JSON-plain and may be lost at any point. LangGraph runs the
calls of a step side by side; which may be in one step is the ledger's answer, not the graph's.
"""

from __future__ import annotations

from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from langsmith import tracing_context

from ringfence_agents.collecting import collect
from ringfence_agents.drive import Drive
from ringfence_agents.thinking import think
from ringfence_agents.todo import Next, Todo, todo
from ringfence_tools.calls import CallKey, ResultStatus
from ringfence_tools.clock import micros
from ringfence_tools.gate_context import Settled

RECURSION_LIMIT = 400
"""Steps of one entry. A run that needs more is entered again: nothing is kept in the graph."""


class Cursor(TypedDict):
    """One value: `[next, turn, indexes]`, the indexes those of the calls of the turn that are to be stepped."""

    at: tuple[str, int, list[int]]


class OneCall(TypedDict):
    turn: int
    index: int


STOPPED = Todo(Next.END)

RunGraph = CompiledStateGraph[Cursor, Drive, Cursor, Cursor]


def build_graph() -> RunGraph:
    """One graph serves every run of a process; a run's `Drive` comes as the context of its entry."""
    graph = StateGraph(Cursor, context_schema=Drive)
    graph.add_node("advance", _advance, destinations=("call", END))
    graph.add_node("call", _call)
    graph.add_conditional_edges(START, _enter, ["advance", "call", END])
    graph.add_edge("call", "advance")
    return graph.compile()


async def enter(graph: RunGraph, drive: Drive) -> None:
    """Go as far as the run goes now. What ended it stands in `drive`: closing, the switch, or a wait for people.

    Raises what nodes raise; whatever they had stored by then stands, and entering again goes on from there. What the
    environment asks LangGraph to report elsewhere (`LANGSMITH_TRACING`) is not: it would pass neither gate nor log.
    """
    with tracing_context(enabled=False):
        await _enter_until_it_waits(graph, drive)


async def _enter_until_it_waits(graph: RunGraph, drive: Drive) -> None:
    while drive.switch.stop is None:
        record = drive.record
        start = await drive.store.write(lambda tx: todo(tx.connection, record, micros(tx.now)))  # noqa: B023
        if start.next is Next.END:
            return
        config: RunnableConfig = {"recursion_limit": RECURSION_LIMIT}
        try:
            cursor = await graph.ainvoke(_cursor(drive, start), config, context=drive)
        except GraphRecursionError:
            continue
        if cursor["at"][0] == Next.END.value:
            return


def _cursor(drive: Drive, what: Todo) -> Cursor:
    return {"at": (what.next.value, drive.record.turn, [key.index for key in what.start])}


async def _enter(state: Cursor) -> str | list[Send]:
    """Pure, but a coroutine: LangGraph sends a plain function through a thread each time."""
    return _next(state)


def _next(state: Cursor) -> str | list[Send]:
    step, turn, indexes = state["at"]
    if step == Next.CALL.value:
        return [Send("call", OneCall(turn=turn, index=index)) for index in indexes]
    return END if step == Next.END.value else "advance"


async def _advance(state: Cursor, runtime: Runtime[Drive]) -> Command[str]:
    """A `Command` says where to go with what it stores; a branch would read the state once more to be told."""
    drive = runtime.context
    what = Todo(Next.THINK)
    if state["at"][0] != Next.THINK.value:
        what = STOPPED if drive.switch.stop else await collect(drive)
    if what.next is Next.THINK:
        what = STOPPED if drive.switch.stop else await think(drive)
    cursor = _cursor(drive, what)
    return Command(update=cursor, goto=_next(cursor))


async def _call(state: OneCall, runtime: Runtime[Drive]) -> dict[str, str]:
    drive = runtime.context
    key = CallKey(drive.run, state["turn"], state["index"])
    step = await drive.switch.call(drive.equipment.gate.step(key, drive.context, seen=drive.proposed.get(key)))
    if isinstance(step, Settled) and step.result.status is ResultStatus.UNKNOWN:
        await drive.holder.distrust()
    return {}

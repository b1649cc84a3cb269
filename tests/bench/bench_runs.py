"""20 runs at once, 20 turns of 2 calls: ours, governed, against a bare LangGraph loop on its stock SQLite checkpointer.

Both have an in-process model and trivial tools, and the cursor alone in the state. Ours has gate, Cedar, ledger,
budget, entries and leases in it.
"""

from __future__ import annotations

import asyncio
import operator
import statistics
import time
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from ringfence_agents.model import Answer, ModelRequest
from ringfence_agents.runs import RunState
from ringfence_audit.store import system_clock
from ringfence_tools.calls import RunId
from ringfence_tools.policy import Policy
from ringfence_tools.profile import load_profile
from tests.fakes.model import ScriptedModel, call, finishes, says
from tests.integration.agents.house import House

pytestmark = pytest.mark.bench

RUNS, TURNS, CALLS = 20, 20, 2
PAIRS = 5


def _answer(request: ModelRequest) -> Answer:
    if request.turn > TURNS:
        return finishes()
    calls = [call("read_file", {"path": f"f{request.turn}-{n}"}, id=f"c{n}") for n in range(CALLS)]
    return says("", *calls)


async def ours(folder: Path) -> float:
    house = House.build(folder, real_clock=system_clock)
    house.policy = Policy.compile(load_profile("default"))
    with house.store:
        runs = [await house.open(RunId(f"r{n}")) for n in range(RUNS)]
        runner = house.runner(ScriptedModel([_answer]), progress=lambda _: None)
        began = time.perf_counter()
        states = await asyncio.gather(*(runner.drive(run) for run in runs))
        took = time.perf_counter() - began
        assert set(states) == {RunState.FINISHED}
        return RUNS * TURNS * CALLS / took


class Loop(TypedDict):
    turn: int
    done: Annotated[int, operator.add]


class One(TypedDict):
    turn: int
    index: int


def bare_loop() -> StateGraph[Loop]:
    """Think, two calls, collect; the messages lie outside the state."""
    messages: dict[str, list[str]] = {}

    async def think(state: Loop) -> dict[str, int]:
        messages.setdefault("all", []).append(f"answer {state['turn']}")
        return {"turn": state["turn"] + 1}

    async def tool(state: One) -> dict[str, int]:
        messages["all"].append(f"result {state['index']}")
        return {"done": 1}

    async def collect(state: Loop) -> dict[str, int]:
        return {"turn": state["turn"]}

    def after_think(state: Loop) -> list[Send] | str:
        return END if state["turn"] > TURNS else [Send("tool", One(turn=state["turn"], index=n)) for n in range(CALLS)]

    graph = StateGraph(Loop)
    graph.add_node("think", think)
    graph.add_node("tool", tool)
    graph.add_node("collect", collect)
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", after_think, ["tool", END])
    graph.add_edge("tool", "collect")
    graph.add_edge("collect", "think")
    return graph


async def bare(folder: Path) -> float:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "bare.db")) as saver:
        saver.serde = JsonPlusSerializer(allowed_msgpack_modules=None)
        await saver.setup()
        await saver.conn.execute("PRAGMA synchronous=FULL")
        compiled = bare_loop().compile(checkpointer=saver)

        async def one(n: int) -> None:
            config: RunnableConfig = {"configurable": {"thread_id": str(n)}, "recursion_limit": 1000}
            await compiled.ainvoke({"turn": 0, "done": 0}, config, durability="sync")

        began = time.perf_counter()
        await asyncio.gather(*(one(n) for n in range(RUNS)))
        return RUNS * TURNS * CALLS / (time.perf_counter() - began)


async def test_governed_calls_a_second_against_a_bare_loop(tmp_path: Path) -> None:
    """Pairs, one after the other, so that what else the machine does meanwhile falls on both."""
    ratios = []
    print()
    for pair in range(PAIRS):
        folder = tmp_path / str(pair)
        (folder / "ours").mkdir(parents=True)
        without, governed = await bare(folder), await ours(folder / "ours")
        ratios.append(governed / without)
        print(f"bare LangGraph, stock SQLite saver: {without:.0f} calls/s; governed: {governed:.0f}; {ratios[-1]:.2f}")
    print(f"ratio p50 {statistics.median(ratios):.2f} (to be at least 1.5)")

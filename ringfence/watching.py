"""Watching a run that another process moves: what the log says of it, shown as if it happened here.

Nothing is read but the log and the run's row, so that a watcher sees the same wherever it is, and sees nothing sooner
than it is durable. What streams while a call runs is not in the log: a watcher gets it with the outcome.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection

from ringfence.errors import Mistake
from ringfence_agents.runs import RunRecord, RunState, list_runs, load
from ringfence_audit.events import JsonValue, Kind
from ringfence_audit.facts import Entry
from ringfence_audit.query import Filter, PageRequest, query
from ringfence_audit.store import SqlStore
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import CallKey, Decision, Effect, ResultStatus, RunId, ToolResult
from ringfence_tools.progress import (
    CallDecided,
    CallSettled,
    Exchanged,
    Progress,
    ProgressEvent,
    RunMoved,
    Thought,
)
from ringfence_tools.toolbox import Toolbox, ToolRefusal, parse_arguments

POLL_S = 0.3
PAGE = 500


async def watch(store: SqlStore, run: RunId, show: Progress) -> RunRecord:
    """Show the run from its beginning until it has ended; return it then. Raises `RunNotFound`. Cancel it to leave."""
    toolbox = builtin_toolbox()
    after: int | None = None
    while True:

        def look(connection: Connection) -> tuple[RunRecord, Sequence[Entry]]:
            # The row first: what ended by then has its last entry in the page that is read after it.
            record = load(connection, run)
            page = PageRequest(PAGE, after, oldest_first=True)  # noqa: B023 - called before the loop goes on
            return record, query(connection, Filter(run=run), page).entries

        record, entries = await store.read(look)
        for entry in entries:
            after = entry.position
            for event in events_of(entry, toolbox):
                show(event)
        if entries:
            continue
        if record.state.is_end:
            return record
        await asyncio.sleep(POLL_S)


def newest_open(connection: Connection) -> RunId:
    """The run that was opened last of those that have not ended. Raises `Mistake`."""
    states = tuple(state for state in RunState if not state.is_end)
    found = list_runs(connection, states=states, limit=1)
    if not found:
        raise Mistake("no run is going on", fix="Name one: `ringfence runs list` shows them")
    return found[0].id


def events_of(entry: Entry, toolbox: Toolbox) -> Iterator[ProgressEvent]:
    """What a watcher is told of an entry of a run. Pure; entries of other kinds tell nothing."""
    run, data = RunId(entry.run), entry.data
    match entry.kind:
        case Kind.EXCHANGE:
            content = _text(_mapping(data.get("answer")).get("content"))
            if content:
                yield Thought(run, content)
            usage = _mapping(data.get("usage"))
            spent = (_count(usage.get("input")), _count(usage.get("output")), _count(data.get("cost_micro_usd")))
            yield Exchanged(run, _count(data.get("turn")), *spent)
        case Kind.INTENT | Kind.DECISION:
            tool, arguments = _text(data.get("tool")), _mapping(data.get("arguments"))
            decision = _decision(_mapping(data.get("decision")))
            yield CallDecided(_key(entry), tool, _summary(toolbox, tool, arguments), decision)
        case Kind.OUTCOME:
            status = ResultStatus(_text(data.get("status")))
            if status is ResultStatus.INVALID:
                yield CallDecided(_key(entry), _text(data.get("tool")), _text(data.get("arguments_text"))[:2000], None)
            yield CallSettled(_key(entry), _text(data.get("tool")), ToolResult(status, _text(data.get("text"))))
        case Kind.ESCALATION:
            yield RunMoved(run, "asks", f"E-{data.get('escalation')}: ringfence review show E-{data.get('escalation')}")
        case Kind.SETTLED:
            yield RunMoved(run, "decided", f"E-{data.get('escalation')} {data.get('state')} {data.get('reason') or ''}")
        case Kind.SANDBOX if data.get("action") != "step":
            yield RunMoved(run, "sandbox", _text(data.get("action")))
        case Kind.RUN_STATE:
            yield RunMoved(run, _text(data.get("state")), _text(data.get("detail")))
        case Kind.RUN_CLOSED:
            yield RunMoved(run, _text(data.get("status")), _text(data.get("summary")))
        case _:
            return


def _summary(toolbox: Toolbox, name: str, arguments: Mapping[str, JsonValue]) -> str:
    text = json.dumps(arguments, ensure_ascii=False)
    tool = toolbox.get(name)
    if tool is None:
        return text[:2000]
    try:
        return tool.summary(parse_arguments(tool, text))[:2000]
    except ToolRefusal:
        # What the log holds may be redacted, or a large text that left the entry.
        return text[:2000]


def _decision(data: Mapping[str, JsonValue]) -> Decision:
    rules = data.get("rules")
    return Decision(
        Effect(_text(data.get("effect"))),
        tuple(str(rule) for rule in rules) if isinstance(rules, Sequence) and not isinstance(rules, str) else (),
        _text(data.get("policy_version")),
        _text(data.get("reason")),
        _text(data.get("instead")),
    )


def _key(entry: Entry) -> CallKey:
    run, turn, index = entry.call.rsplit("/", 2)
    return CallKey(RunId(run), int(turn), int(index))


def _text(value: JsonValue) -> str:
    """A text; what left the entry for its size is told as such."""
    if isinstance(value, str):
        return value
    return f"({json.dumps(value)})" if isinstance(value, Mapping) and value else ""


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def _count(value: JsonValue) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0

"""What a run leaves behind, told to a person or a script once it has ended or waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, select

from ringfence.render import Output, Style, money
from ringfence_agents.endings import count_calls, tests_run
from ringfence_agents.runs import RunRecord, RunState, WaitsFor
from ringfence_agents.schema import runs
from ringfence_audit.events import JsonValue
from ringfence_audit.store import SqlStore

_STYLES: Mapping[RunState, Style] = {
    RunState.FINISHED: "good",
    RunState.PARKED: "wait",
    RunState.QUEUED: "wait",
    RunState.RUNNING: "wait",
}
_PATCH_LINES = 60


async def result_of(store: SqlStore, record: RunRecord) -> dict[str, JsonValue]:
    """The last object of `--json`: all that a script needs of a run."""
    import json

    def look(connection: Connection) -> Mapping[str, JsonValue]:
        text = connection.execute(select(runs.c.result).where(runs.c.id == record.id)).scalar_one()
        found: Mapping[str, JsonValue] = json.loads(text) if text else {}
        if record.state.is_end:
            return found
        so_far: dict[str, JsonValue] = {
            "tests": tests_run(connection, record.id),
            "tool_calls": count_calls(connection, record.id),
        }
        return {**found, **so_far}

    stored = await store.read(look)
    patch = stored.get("patch")
    return {
        "type": "result",
        "run_id": record.id,
        "status": record.state.value,
        "summary": stored.get("summary", record.detail),
        "patch": patch.get("path", "") if isinstance(patch, Mapping) and patch.get("size_bytes") else "",
        "tests": stored.get("tests", []),
        "cost_micro_usd": record.cost_micro_usd,
        "tool_calls": stored.get("tool_calls", 0),
        "audit_head": await head_of(store),
    }


async def head_of(store: SqlStore) -> str:
    """`SIZE:ROOT` of the log's newest checkpoint, which is signed now; "" for an empty log."""
    note = await store.checkpoint()
    if note is None:
        return ""
    _, size, root, *_ = note.splitlines()
    return f"{size}:{root}"


def show_result(output: Output, record: RunRecord, result: Mapping[str, JsonValue], *, has_next: bool = True) -> None:
    """The same for people, with the patch and, where the state folder stays (`has_next`), what to do next."""
    output.record(result)
    style = _STYLES.get(record.state, "bad")
    output.line()
    output.line((record.state.value, style), f" · {result['tool_calls']} tool calls · {money(record.cost_micro_usd)}")
    output.block(str(result["summary"]), indent="  ")
    tests = result["tests"]
    if isinstance(tests, Sequence) and not isinstance(tests, str) and tests:
        last = tests[-1]
        if isinstance(last, Mapping):
            passed: tuple[str, Style] = ("passed", "good") if last.get("exit_code") == 0 else ("failed", "bad")
            output.line("tests   ", str(last.get("command", "")), " ", passed)
    _show_patch(output, str(result["patch"]))
    output.line("log     ", (str(result["audit_head"]), "dim"))
    if has_next:
        _show_next(output, record, bool(result["patch"]))


def _show_patch(output: Output, path: str) -> None:
    if not path:
        return
    output.line("patch   ", (path, "name"))
    if output.is_json or not Path(path).is_file():
        return
    lines = Path(path).read_text(errors="replace").splitlines()
    for line in lines[:_PATCH_LINES]:
        style: Style = "good" if line.startswith("+") else "bad" if line.startswith("-") else "dim"
        output.line("  ", (line, style))
    if len(lines) > _PATCH_LINES:
        output.line((f"  … {len(lines) - _PATCH_LINES} more lines", "dim"))


def _show_next(output: Output, record: RunRecord, has_patch: bool) -> None:
    step = f"ringfence runs resume {record.id}"
    if record.state is RunState.FINISHED and has_patch:
        step = f"ringfence deliver {record.id}"
    elif record.state.is_end:
        return
    elif record.waits_for is WaitsFor.PEOPLE:
        step = f"ringfence review list  ·  {step}"
    elif record.waits_for is WaitsFor.BUDGET:
        step = f"ringfence runs budget {record.id} --set CAPS  ·  {step}"
    output.line("next    ", (step, "bold"))

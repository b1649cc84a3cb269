"""How a run ends: what is open is settled, the patch is made and kept, the sandbox removed, the last entry written.

Each step can be repeated: a crash anywhere in here leads back in here, and the patch that was stored first stands.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select, update

from ringfence_agents.drive import Drive
from ringfence_agents.kept import write_whole
from ringfence_agents.runs import Closing, RunState
from ringfence_agents.schema import runs
from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_sandbox.errors import SandboxError
from ringfence_tools.calls import ResultStatus, RunId
from ringfence_tools.clock import micros
from ringfence_tools.escalations import withdraw_all
from ringfence_tools.grants import end_of_run
from ringfence_tools.ledger import CallState, unsettled
from ringfence_tools.progress import RunMoved
from ringfence_tools.schema import calls

TESTS_LIMIT = 50
_TEST_COMMANDS = (
    r"pytest|unittest|tox|nox|(npm|yarn|pnpm)( run)? test|jest|vitest|mocha",
    r"(go|cargo|swift|dotnet|mix) test|ctest|make (check|test)|mvn\b.*\b(test|verify)",
    r"gradlew?\b.*\b(test|check)|rspec|phpunit|prove",
)
_TEST_COMMAND = re.compile(rf"\b({'|'.join(_TEST_COMMANDS)})\b")


@dataclass(frozen=True, slots=True)
class Deliverable:
    """The patch as it lies beside the log, or why there is none. `sha256` is hex, "" without a patch."""

    path: str
    sha256: str
    size_bytes: int
    detail: str

    def to_json(self) -> dict[str, JsonValue]:
        return {"path": self.path, "sha256": self.sha256, "size_bytes": self.size_bytes, "detail": self.detail}


NO_PATCH = Deliverable("", "", 0, "no sandbox was needed, so nothing changed")


async def close(drive: Drive, closing: Closing) -> RunState:
    """End the run as `closing` says. Raises `LeaseLost`, `LogUnavailable`; what a sandbox cannot do is recorded."""
    drive.context.progress(RunMoved(drive.run, "running", "making the patch"))
    drive.holder.is_ending = True
    patch = drive.record.result.get("patch")
    if not isinstance(patch, Mapping):
        await _settle(drive)
        patch = (await _deliverable(drive)).to_json()
        await _store_result(drive, {"patch": patch})
    closing = _judged(closing, patch)
    try:
        await drive.holder.release()
        leftover = ""
    except SandboxError as error:
        leftover = f"{type(error).__name__}: {error}"
    await _finish(drive, closing, patch, leftover)
    drive.context.progress(RunMoved(drive.run, closing.state.value, closing.summary))
    return closing.state


def _judged(closing: Closing, patch: Mapping[str, JsonValue]) -> Closing:
    """A run whose work did not come out of its sandbox has not finished, whatever its agent says."""
    if closing.state is not RunState.FINISHED or patch.get("path") or patch == NO_PATCH.to_json():
        return closing
    return Closing(RunState.FAILED, f"{patch.get('detail')} (the agent said: {closing.summary})")


async def _settle(drive: Drive) -> None:
    """No sandbox is released while an intent lacks an outcome: the gate asks the sandbox once more.

    What never started does not start now: a person who stopped the run must be right that it stopped.
    """
    context = replace(drive.context, is_ending=True)
    rows = await drive.store.read(lambda connection: unsettled(connection, drive.run))
    for row in rows:
        if row.state is CallState.INTENT:
            async with asyncio.timeout(drive.equipment.limits.closing_s):
                await drive.equipment.gate.step(row.key, context)


async def _deliverable(drive: Drive) -> Deliverable:
    if not drive.holder.has_files:
        return NO_PATCH
    try:
        async with asyncio.timeout(drive.equipment.limits.closing_s):
            patch = await (await drive.holder.get()).diff()
    except (SandboxError, TimeoutError) as error:
        return Deliverable("", "", 0, f"the sandbox gave no patch: {type(error).__name__}: {error}")
    path = drive.equipment.artifacts / drive.run / "patch.diff"
    await asyncio.to_thread(write_whole, path, patch.data)
    # No patch carries these, so they are told: who writes a hook wants it to run somewhere.
    beside = (*patch.watched, *patch.left_out)
    told = f"also changed, in no patch: {', '.join(beside)}" if beside else ""
    return Deliverable(str(path), hashlib.sha256(patch.data).hexdigest(), len(patch.data), told)


async def _store_result(drive: Drive, result: Mapping[str, JsonValue]) -> None:
    text = json.dumps(result, ensure_ascii=False)

    def work(tx: Transaction) -> None:
        drive.context.guard(tx)
        tx.connection.execute(update(runs).where(runs.c.id == drive.run).values(result=text))

    await drive.store.write(work)


async def _finish(drive: Drive, closing: Closing, patch: Mapping[str, JsonValue], leftover: str) -> None:
    record = drive.record
    elapsed = drive.stopwatch.take_ms()

    def work(tx: Transaction) -> None:
        drive.context.guard(tx)
        withdraw_all(tx, drive.run, by=f"worker:{drive.lease.worker}", reason=f"the run ended as {closing.state.value}")
        end_of_run(tx, drive.run, by=f"worker:{drive.lease.worker}")
        result: dict[str, JsonValue] = {
            "status": closing.state.value,
            "summary": closing.summary,
            "patch": patch,
            "tests": tests_run(tx.connection, drive.run),
            "turns": record.turn,
            "tool_calls": count_calls(tx.connection, drive.run),
            "unknown": unknown_calls(tx.connection, drive.run),
            "input_tokens": record.input_tokens,
            "output_tokens": record.output_tokens,
            "cost_micro_usd": record.cost_micro_usd,
            "active_ms": drive.active_ms + elapsed,
            "sandbox_left": leftover,
        }
        tx.record(Event(Kind.RUN_CLOSED, record.agent, result, run=record.id, on_behalf_of=record.person))
        tx.connection.execute(
            update(runs)
            .where(runs.c.id == drive.run)
            .values(
                state=closing.state.value,
                detail=closing.summary[:500],
                waits_for="",
                wake_at=None,
                worker="",
                lease_until=0,
                request="",
                ended_at=micros(tx.now),
                active_ms=drive.active_ms + elapsed,
                result=json.dumps(result, ensure_ascii=False),
            )
        )

    await drive.store.write(work)


def count_calls(connection: Connection, run: RunId) -> int:
    return int(connection.execute(select(func.count()).select_from(calls).where(calls.c.run == run)).scalar_one())


def unknown_calls(connection: Connection, run: RunId) -> list[JsonValue]:
    """The calls of which nobody knows what they did: the agent was told, and a person should look."""
    query = (
        select(calls.c.turn, calls.c.idx)
        .where(calls.c.run == run, calls.c.result_status == ResultStatus.UNKNOWN.value)
        .order_by(calls.c.turn, calls.c.idx)
    )
    return [f"{run}/{row.turn}/{row.idx}" for row in connection.execute(query)]


def tests_run(connection: Connection, run: RunId) -> list[JsonValue]:
    """The shell calls that ran tests, the latest last: `command`, `exit_code` (or None), `call`."""
    query = (
        select(calls.c.turn, calls.c.idx, calls.c.arguments_text, calls.c.result_data)
        .where(calls.c.run == run, calls.c.tool == "shell", calls.c.state == CallState.DONE.value)
        .order_by(calls.c.turn, calls.c.idx)
    )
    found: list[JsonValue] = []
    for row in connection.execute(query):
        command = _command(row.arguments_text)
        if _TEST_COMMAND.search(command):
            code = json.loads(row.result_data).get("exit_code")
            found.append({"call": f"{run}/{row.turn}/{row.idx}", "command": command[:500], "exit_code": code})
    return found[-TESTS_LIMIT:]


def _command(arguments_text: str) -> str:
    try:
        arguments = json.loads(arguments_text)
    except (ValueError, RecursionError):
        return ""
    command = arguments.get("command") if isinstance(arguments, dict) else None
    return command if isinstance(command, str) else ""

"""The demo, told: task, cards, patch, where one line of it came from, the log verified, one byte changed."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ringfence.demo.agent_prompt import be_the_agent
from ringfence.demo.stage import Stage, staged
from ringfence.directory import LocalDirectory, current_user
from ringfence.exits import Exit
from ringfence.finishing import result_of
from ringfence.local_store import open_store
from ringfence.opening import Order, open_order
from ringfence.render import Output, Style, make_output
from ringfence.session import Session
from ringfence.verifying import verdict_of_file
from ringfence.wiring import open_workshop
from ringfence_agents.runs import RunRecord, RunState, load
from ringfence_audit.events import JsonValue
from ringfence_audit.query import story
from ringfence_audit.tampering import copy_with_one_byte_changed
from ringfence_tools.calls import RunId

TASK = "Fix the failing test"


async def tell(*, has_prompt: bool, sandbox: str | None = None) -> int:
    """Play it on this machine; the exit code is that of the run, or of the evidence where it does not hold."""
    output = make_output()
    wait = "10m" if output.is_interactive else "3s"
    started = time.monotonic()
    with staged(card_wait=wait) as stage, open_store(stage.settings) as store:
        user = current_user()
        directory = LocalDirectory(stage.settings.people_file, owner=user)
        session = Session(stage.settings, store, directory, directory.person(user), output)
        _title(output, "An AI developer gets a task")
        _introduce(session, sandbox)
        code, run = await _play(session, stage, sandbox)
        record = await store.read(lambda connection: load(connection, run))
        if record.state is RunState.FINISHED:
            await _trace(session, record)
        if not await _prove(session, stage):
            return int(Exit.EVIDENCE)
        output.line()
        output.line((f"Told in {time.monotonic() - started:.0f} s.", "dim"))
        if has_prompt and output.is_interactive:
            _title(output, "Now you be the agent")
            await be_the_agent(session, stage, sandbox)
        output.line("next      ", (f'{_called()} run --repo PATH "what to do"', "bold"), "   on a project of yours")
        return code


def _called() -> str:
    """How the person calls Ringfence: `make demo` installs it beside the project, not on the PATH."""
    if shutil.which("ringfence"):
        return "ringfence"
    is_module = sys.argv[0].endswith(".py")
    program = sys.executable if is_module else sys.argv[0]
    return min(program, os.path.relpath(program), key=len) + (" -P -m ringfence" if is_module else "")


def _title(output: Output, text: str) -> None:
    output.line()
    output.line((f"── {text} ", "bold"), ("─" * max(3, 74 - len(text)), "dim"))


def _introduce(session: Session, sandbox: str | None) -> None:
    output = session.output
    output.line("task      ", (f'"{TASK}"', "bold"), "   a small project whose tests fail")
    if sandbox == "kubernetes":
        output.line("sandbox   a Kubernetes namespace of its own; no network at all")
    else:
        output.line("sandbox   a local Linux sandbox; no network but what is granted")
    if session.settings.has_model:
        output.line("model     ", (session.settings.openai_model or "the endpoint's default", "name"), ", live")
    else:
        output.line(("model     a recording: no model is configured. Sandbox, policy, cards and log are real.", "wait"))
    if not output.is_interactive:
        output.line(("people    nobody is at a terminal: every card expires, which denies it", "wait"))


async def _play(session: Session, stage: Stage, sandbox: str | None) -> tuple[int, RunId]:
    from ringfence.commands.run import drive_and_show

    model = None if session.settings.has_model else f"replay:{stage.transcript}"
    order = Order(TASK, str(stage.repository), str(stage.profile), model=model, sandbox=sandbox)
    async with open_workshop(session.settings, session.store, session.directory) as workshop:
        run = await open_order(workshop, order, session.person, is_fence_tried=True)
    return await drive_and_show(session, run, has_next=False), run


async def _trace(session: Session, record: RunRecord) -> None:
    """Follow the first line that the patch adds back to the call that wrote it, and to who let what led to it."""
    output = session.output
    result = await result_of(session.store, record)
    patch = Path(str(result["patch"])).read_text(errors="replace").splitlines()
    added = [line[1:].strip() for line in patch if line.startswith("+") and not line.startswith("+++")]
    if not added:
        return
    _title(output, "Where does this line come from?")
    output.line(("  + ", "good"), (added[0], "good"))
    entries = await session.store.read(lambda connection: list(story(connection, record.id)))
    for entry in entries:
        if entry.kind == "call.intent" and (people := _listed(entry.data.get("approvers"))):
            output.line(
                f"entry {entry.position}: before it, {entry.data.get('tool')} {entry.data.get('arguments')}, "
                f"approved by {people} in E-{entry.data.get('escalation')}"
            )
        if entry.kind == "call.intent" and added[0] in str(entry.data.get("arguments", "")):
            decided = entry.data.get("decision")
            rules = decided.get("rules") if isinstance(decided, dict) else None
            approvers = _listed(entry.data.get("approvers")) or "nobody, since it stays inside the sandbox"
            output.line(
                f"entry {entry.position}: {entry.data.get('tool')}, call {entry.call}, for {entry.on_behalf_of}"
            )
            output.line(f"decided by rule {_listed(rules) or 'none'}; approved by {approvers}")
    refused = [entry for entry in entries if entry.kind == "escalation.settled"]
    for entry in refused:
        by = _listed([vote.get("person") for vote in _votes(entry.data.get("votes"))]) or "nobody"
        output.line(
            f"entry {entry.position}: E-{entry.data.get('escalation')} {entry.data.get('state')}, decided by {by}"
        )


def _listed(value: JsonValue) -> str:
    """A list of texts as one text; "" for anything else or an empty one."""
    return ", ".join(str(item) for item in value) if isinstance(value, Sequence) and not isinstance(value, str) else ""


def _votes(value: JsonValue) -> list[Mapping[str, JsonValue]]:
    votes = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return [vote for vote in votes if isinstance(vote, Mapping)]


async def _prove(session: Session, stage: Stage) -> bool:
    """Verify the log; then change one byte in a copy, which must be found."""
    output = session.output
    _title(output, "Can the record be believed?")
    await session.store.checkpoint()
    verdict = verdict_of_file(stage.settings, stage.settings.database)
    output.line(("log       ", ""), (verdict.text, "good" if verdict.is_intact else "bad"))
    copy = stage.settings.home / "tampered.db"
    position = copy_with_one_byte_changed(stage.settings.database, copy)
    tampered = verdict_of_file(stage.settings, copy)
    found: Style = "bad" if tampered.is_intact else "good"
    output.line(f"a copy    one byte of entry {position} changed: ", (tampered.text, found))
    return verdict.is_intact and not tampered.is_intact

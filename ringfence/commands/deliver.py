"""`ringfence deliver`: apply a run's patch to the checkout that the task came from, through the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, RunArgument, run_id
from ringfence.errors import Mistake

if TYPE_CHECKING:
    from ringfence.session import Session
    from ringfence_tools.calls import RunId


def deliver(
    run: RunArgument,
    into: Annotated[Path | None, typer.Option(help="The checkout; without it, where the task came from.")] = None,
    seen: Annotated[list[str] | None, typer.Option("--seen", help="A notable path that you have looked at.")] = None,
    is_json: Json = False,
) -> None:
    """Apply the patch."""
    import asyncio

    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        code = asyncio.run(_deliver(session, run_id(run), into, frozenset(seen or ())))
    raise typer.Exit(code)


async def _deliver(session: Session, run: RunId, into: Path | None, seen: frozenset[str]) -> int:
    import hashlib

    from ringfence.auth.people import AccountDirectory
    from ringfence.delivery import apply, prepare, top_of
    from ringfence.errors import RingfenceError
    from ringfence.exits import Exit
    from ringfence.finishing import result_of
    from ringfence.opening import is_url
    from ringfence_agents.runs import load
    from ringfence_tools.calls import ResultStatus
    from ringfence_tools.delivery import Delivery, DeliveryFailed
    from ringfence_tools.delivery import deliver as through_gate
    from ringfence_tools.gate_context import TaskFacts, Waiting
    from ringfence_tools.policy import Policy
    from ringfence_tools.profile import parse_profile

    record = await session.store.read(lambda connection: load(connection, run))
    result = await result_of(session.store, record)
    if not result["patch"]:
        raise Mistake(f"run {run} has no patch ({record.state.value})", fix="Deliver a run that finished with changes")
    if into is None and is_url(record.repository):
        raise Mistake("this task came from a URL", fix="Name a checkout of it with --into PATH")
    checkout = into or top_of(Path(record.repository))
    patch = Path(str(result["patch"])).read_bytes()
    prepared = prepare(patch)
    unseen = [one for one in prepared.notable if one.path not in seen]
    for one in unseen:
        session.output.line(("look at ", "wait"), one.path, f": {one.reason}")

    async def carry() -> str:
        try:
            apply(prepared, checkout, seen=seen)
        except RingfenceError as error:
            raise DeliveryFailed(str(error)) from error
        return str(checkout)

    profile = parse_profile(record.profile_document.encode(), record.profile)
    step = await through_gate(
        session.store,
        Policy.compile(profile),
        AccountDirectory(session.store, session.directory),
        Delivery(
            run=run,
            person=session.person.name,
            patch_sha256=hashlib.sha256(patch).hexdigest(),
            base_commit=record.base_commit,
            remote=str(checkout),
            branch=record.workspace.get("branch", "main"),
            team=record.team,
            paths=[change.name for change in prepared.changes],
            task=TaskFacts(record.task_text, record.repository, record.base_commit, profile.title),
        ),
        carry,
    )
    if isinstance(step, Waiting):
        session.output.record({"type": "delivery", "run_id": run, "status": "waiting", "escalation": step.escalation})
        session.output.line(("waits for people: ", "wait"), f"ringfence review show E-{step.escalation}")
        return int(Exit.WAITING)
    is_ok = step.result.status is ResultStatus.OK
    status = step.result.status.value
    session.output.record({"type": "delivery", "run_id": run, "status": status, "text": step.result.text})
    session.output.line(("delivered to " if is_ok else "not delivered: ", "good" if is_ok else "bad"), step.result.text)
    return int(Exit.FINISHED if is_ok else Exit.REFUSED)

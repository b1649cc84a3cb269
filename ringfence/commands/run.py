"""`ringfence run` and `ringfence runs resume`: give an AI developer a task, watch it, get a patch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, RunArgument, run_id

if TYPE_CHECKING:
    from ringfence.opening import Order
    from ringfence.session import Session
    from ringfence_tools.calls import RunId
    from ringfence_tools.escalations import Escalation


def run(
    task: Annotated[str, typer.Argument(help="What the AI developer should do.")],
    repo: Annotated[str, typer.Option(help="The repository: a path, or an https or ssh URL.")] = ".",
    profile: Annotated[str | None, typer.Option(help="A profile's name or file.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's name, or replay:FILE.")] = None,
    budget: Annotated[str | None, typer.Option(help="Narrower caps, such as usd=1,tool_calls=50,wall=20m.")] = None,
    sandbox: Annotated[
        str | None, typer.Option(help="kubernetes: run on the cluster of RINGFENCE_KUBERNETES, not on this machine.")
    ] = None,
    is_dirty_allowed: Annotated[
        bool, typer.Option("--allow-dirty", help="Leave uncommitted changes out instead of refusing.")
    ] = False,
    is_detached: Annotated[bool, typer.Option("--detach", help="Start it and return; it goes on by itself.")] = False,
    is_json: Json = False,
) -> None:
    """Give an AI developer a task, watch it, get a patch."""
    import asyncio
    import sys

    if sys.stdout.isatty() and not is_json:
        # Importing the rooms and trying the fence take about a second, on a busy machine several.
        typer.secho("· preparing", dim=True)
    if sandbox is None and _is_built_in(profile):
        # Before the rooms are imported: who has no fence here is told at once, not after seconds.
        from ringfence_sandbox.local.trial import try_here

        asyncio.run(try_here())
    from ringfence.opening import Order
    from ringfence.session import open_session

    with open_session(is_json=is_json, must_exist=False) as session:
        chosen = profile or session.settings.profile
        order = Order(
            task,
            repo,
            chosen,
            model=model,
            budget=budget,
            is_dirty_allowed=is_dirty_allowed,
            sandbox=sandbox,
            is_ssh_allowed=True,
        )
        code = asyncio.run(_run(session, order, is_detached=is_detached))
    raise typer.Exit(code)


def resume(
    run: RunArgument,
    is_patient: Annotated[
        bool, typer.Option("--wait", help="Keep trying while the model or the machine is away.")
    ] = False,
    is_json: Json = False,
) -> None:
    """Go on with a parked or interrupted run here, and watch it."""
    import asyncio

    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        code = asyncio.run(_resume(session, run_id(run), is_patient=is_patient))
    raise typer.Exit(code)


def _is_built_in(profile: str | None) -> bool:
    """Whether the profile is the one that comes with Ringfence, which needs a local sandbox."""
    from ringfence.settings import Settings, load_settings

    settings = load_settings()
    is_default = (profile or settings.profile) == Settings.model_fields["profile"].default
    return is_default and not any(folder.is_dir() and any(folder.iterdir()) for folder in settings.profile_search)


async def _run(session: Session, order: Order, *, is_detached: bool) -> int:
    from ringfence.opening import open_order
    from ringfence.wiring import open_workshop

    async with open_workshop(session.settings, session.store, session.directory) as workshop:
        run = await open_order(workshop, order, session.person, is_fence_tried=True)
        session.output.record({"type": "run", "run_id": run})
        session.output.line("run ", (run, "name"), (f" · {order.profile} · for {session.person.name}", "dim"))
        if is_detached:
            _detach(session, run)
            return 0
        return await drive_and_show(session, run)


async def _resume(session: Session, run: RunId, *, is_patient: bool) -> int:
    from ringfence_agents import control

    await session.store.write(lambda tx: control.resume(tx, run, by=session.person.principal))
    return await drive_and_show(session, run, is_forced=True, is_patient=is_patient)


async def drive_and_show(
    session: Session, run: RunId, *, is_forced: bool = False, is_patient: bool = False, has_next: bool = True
) -> int:
    """Drive the run in this process, show it, ask the person at the terminal, and tell the result."""
    from ringfence.deciding import decide_here
    from ringfence.driving import drive_here, exit_of
    from ringfence.finishing import result_of, show_result
    from ringfence.live import LiveView
    from ringfence.wiring import open_workshop

    async with open_workshop(session.settings, session.store, session.directory) as workshop:

        async def decide(found: Escalation) -> None:
            await decide_here(session, found)

        record = await drive_here(
            workshop,
            run,
            by=session.person.principal,
            progress=LiveView(session.output),
            decide=decide if session.output.is_interactive else None,
            is_forced=is_forced,
            is_patient=is_patient,
        )
        show_result(session.output, record, await result_of(session.store, record), has_next=has_next)
        return int(exit_of(record))


def _detach(session: Session, run: RunId) -> None:
    import subprocess

    from ringfence.itself import itself
    from ringfence.session import now_us
    from ringfence_agents.roster import present

    if session.read(lambda connection: present(connection, now_us())):
        session.output.line(("It is in the queue and a worker is there; ringfence runs list shows it.", "good"))
        return
    target = Path(session.settings.runs / run / "output.jsonl")
    with target.open("ab") as output:
        subprocess.Popen(
            itself("runs", "resume", run, "--wait", "--json"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    session.output.line((f"It goes on by itself; ringfence runs list shows it, {target} is its output.", "good"))

"""`ringfence stop`: end a run, a team's runs, or every run, now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json, ReasonOption, run_id
from ringfence.errors import Mistake

if TYPE_CHECKING:
    from ringfence.session import Session
    from ringfence_tools.calls import RunId


def stop(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id.")] = None,
    team: Annotated[str, typer.Option(help="Every run of this team.")] = "",
    is_all: Annotated[bool, typer.Option("--all", help="Every run that has not ended.")] = False,
    preserve: Annotated[
        bool,
        typer.Option("--preserve", help="Seal the files before anything is killed; list what was touched."),
    ] = False,
    reason: ReasonOption = "",
    is_json: Json = False,
) -> None:
    """Stop a run, a team or everything, now. Needs a reason, which goes into the log."""
    import asyncio

    from ringfence.session import open_session
    from ringfence_agents import control

    if sum((bool(run), bool(team), is_all)) != 1:
        raise Mistake("say what to stop", fix="Name one run, or give --team NAME or --all")
    if not reason.strip():
        raise Mistake("a stop needs a reason", fix='Add --reason "…"')
    whose = control.Whose(run_id(run) if run else None, team)
    with open_session(is_json=is_json) as session:
        by = session.person.principal
        stopped = session.write(lambda tx: control.stop(tx, whose, by=by, reason=reason, preserve=preserve))
        for one in stopped:
            session.output.record({"type": "stop", "run_id": one})
            session.output.line("stopping ", (one, "name"))
        if not stopped:
            session.output.line("Nothing runs.")
            return
        left = asyncio.run(_until_ended(session, stopped))
        for one in left:
            session.output.line((one, "name"), " begins nothing more; the process that drives it is ending it")
        if preserve:
            for one in stopped:
                _show_preserved(session, one)


async def _until_ended(session: Session, stopped: tuple[RunId, ...]) -> tuple[RunId, ...]:
    """End here what no process drives, and wait a moment for the others; return those that have not ended yet."""
    from ringfence.stopping import end_here
    from ringfence.wiring import open_workshop

    async with open_workshop(session.settings, session.store, session.directory) as workshop:
        return await end_here(workshop, stopped)


def _show_preserved(session: Session, run: RunId) -> None:
    """The archive and everything outside the sandbox that the run had touched."""
    from ringfence_agents.kept import RunFiles
    from ringfence_agents.touched import touched

    found = session.read(lambda connection: touched(connection, run))
    archive = RunFiles(session.settings.runs).sealed(run)
    kept = str(archive) if archive.exists() else ""
    session.output.record({"type": "preserved", "run_id": run, "archive": kept, **found.to_json()})
    session.output.line((run, "name"), " sealed in ", (kept or "nothing: no sandbox had been needed", "name"))
    for title, names in (
        ("reached", found.hosts),
        ("refused", found.refused_hosts),
        ("credentials for", found.credentials),
        ("granted", found.grants),
    ):
        for name in names:
            session.output.line(f"  {title} ", name)

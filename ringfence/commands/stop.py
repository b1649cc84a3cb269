"""`ringfence stop`: end a run, or every run, now."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.commands.options import Json, ReasonOption, run_id
from ringfence.errors import Mistake


def stop(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id.")] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every run that has not ended.")] = False,
    reason: ReasonOption = "",
    is_json: Json = False,
) -> None:
    """Stop a run or everything, now. Needs a reason, which goes into the log."""
    from functools import partial

    from ringfence.session import open_session
    from ringfence_agents import control
    from ringfence_agents.runs import RunState, list_runs

    if bool(run) == is_all:
        raise Mistake("say what to stop", fix="Name one run, or give --all")
    if not reason.strip():
        raise Mistake("a stop needs a reason", fix='Add --reason "…"')
    with open_session(is_json=is_json) as session:
        states = tuple(state for state in RunState if not state.is_end)
        chosen = (
            [run_id(run)]
            if run
            else [found.id for found in session.read(lambda c: list_runs(c, states=states, limit=100_000))]
        )
        by = session.person.principal
        for one in chosen:
            session.write(partial(control.cancel, run=one, by=by, reason=reason))
            session.output.record({"type": "stop", "run_id": one})
            session.output.line("stopping ", (one, "name"))
        if not chosen:
            session.output.line("Nothing runs.")

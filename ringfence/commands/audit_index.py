"""`ringfence audit index`: the index is derived; build it anew, or hold it against the evidence."""

from __future__ import annotations

import typer

from ringfence.commands.options import Json

group = typer.Typer(no_args_is_help=True, help="The index behind questions: derived, never evidence.")


@group.command()
def rebuild(is_json: Json = False) -> None:
    """Throw the index away and build it from the evidence."""
    from ringfence.searching import open_index
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session, open_index(session.settings, session.store) as index:
        index.clear()
        count = session.read(index.catch_up)
        session.output.record({"type": "index", "entries": count})
        session.output.line(f"indexed {count} entries")


@group.command()
def check(is_json: Json = False) -> None:
    """Hold every row of the index against the evidence."""
    from ringfence.exits import Exit
    from ringfence.searching import open_index
    from ringfence.session import open_session
    from ringfence.verifying import index_fault

    with open_session(is_json=is_json) as session, open_index(session.settings, session.store) as index:
        fault = index_fault(session.store, index)
        problem = "" if fault is None else fault.problem
        position = None if fault is None else fault.position
        session.output.record({"type": "index", "entries": index.next, "problem": problem, "position": position})
        where = "" if position is None else f"entry {position}: "
        said = (
            f"the index agrees with {index.next} entries" if fault is None else f"NOT AS THE EVIDENCE: {where}{problem}"
        )
        session.output.line((said, "good" if fault is None else "bad"))
        if fault is not None:
            session.output.line("fix:     ", ("ringfence audit index rebuild", "bold"))
    raise typer.Exit(int(Exit.FINISHED if fault is None else Exit.EVIDENCE))

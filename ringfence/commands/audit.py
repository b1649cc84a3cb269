"""`ringfence audit`: ask what happened, verify it, take it away as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.render import Output, Span
    from ringfence_audit.events import JsonValue
    from ringfence_audit.facts import Entry

group = typer.Typer(no_args_is_help=True, help="Ask what happened, and verify it.")


@group.command()
def query(
    words: Annotated[str | None, typer.Argument(help="Words that must all occur.")] = None,
    run: Annotated[str | None, typer.Option(help="Entries of this run.")] = None,
    person: Annotated[str | None, typer.Option(help="What this person did or had done.")] = None,
    tool: Annotated[str | None, typer.Option(help="Calls of this tool.")] = None,
    kind: Annotated[str | None, typer.Option(help="Such as call.intent or escalation.*")] = None,
    decision: Annotated[str | None, typer.Option(help="allow, escalate or forbid.")] = None,
    host: Annotated[str | None, typer.Option(help="A host, such as *.example.org")] = None,
    rule: Annotated[str | None, typer.Option(help="A rule of a profile.")] = None,
    is_refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    is_json: Json = False,
) -> None:
    """Find entries, newest first."""
    from ringfence.session import open_session
    from ringfence_audit.events import Event, Kind
    from ringfence_audit.query import Filter, PageRequest
    from ringfence_audit.query import query as ask

    wanted = Filter(
        run=run,
        person=person,
        tool=tool,
        kind=kind,
        decision=decision,
        host=host,
        rule=rule,
        refused=is_refused,
        words=words,
    )
    with open_session(is_json=is_json) as session:
        asked: dict[str, JsonValue] = dict(wanted.wanted())
        session.write(lambda tx: tx.record(Event(Kind.QUERY, session.person.principal, {"filter": asked})))
        page = session.read(lambda connection: ask(connection, wanted, PageRequest(limit)))
        for entry in page.entries:
            session.output.record(_entry_json(entry))
        if not page.entries:
            session.output.line("No entry is like that.")
            return
        columns = ("ENTRY", "TIME", "KIND", "RUN", "ACTOR", "WHAT")
        session.output.table(columns, [_row(entry) for entry in page.entries])


@group.command()
def show(position: Annotated[int, typer.Argument(help="An entry's number.")], is_json: Json = False) -> None:
    """Show one entry whole, with its proof of inclusion."""
    from ringfence.session import open_session
    from ringfence_audit.query import show as find

    with open_session(is_json=is_json) as session:
        view = session.read(lambda connection: find(connection, position))
        proof: dict[str, JsonValue] = {
            "size": view.size,
            "root": view.root.hex(),
            "path": [step.hex() for step in view.proof],
            "checkpoint": view.note,
        }
        session.output.record({**_entry_json(view.entry), "proof": proof})
        _show_entry(session.output, view.entry)
        covered = "a signed checkpoint" if view.note else "no checkpoint yet"
        session.output.line(f"proof   {len(view.proof)} hashes to the root of {view.size} entries, ", (covered, "dim"))


@group.command()
def verify(
    file: Annotated[Path | None, typer.Option(help="A copy of the log; without it, the live one.")] = None,
    is_json: Json = False,
) -> None:
    """Check every entry, chain, tree and signature."""
    from ringfence.exits import Exit
    from ringfence.session import open_session
    from ringfence.verifying import verdict_of_file

    with open_session(is_json=is_json) as session:
        verdict = verdict_of_file(session.settings, file or session.settings.database)
        session.output.record(verdict.to_json())
        session.output.line((verdict.text, "good" if verdict.is_intact else "bad"))
    raise typer.Exit(int(Exit.FINISHED if verdict.is_intact else Exit.EVIDENCE))


@group.command()
def export(
    run: Annotated[str, typer.Option(help="The run whose whole story is taken away.")],
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    is_json: Json = False,
) -> None:
    """Write a run's entries with their proofs to a file."""
    import os

    from ringfence.errors import Mistake
    from ringfence.exporting import export_run
    from ringfence.session import open_session
    from ringfence_audit.events import Event, Kind

    with open_session(is_json=is_json) as session:
        if out.exists():
            raise Mistake(f"{out} exists already", fix="Name a file that does not exist")
        session.write(lambda tx: tx.record(Event(Kind.EXPORT, session.person.principal, {"run": run})))
        lines = export_run(session.store, run)
        if len(lines) == 1:
            raise Mistake(f"the log holds nothing of a run {run[:40]}", fix="`ringfence runs list` shows them")
        part = out.with_name(f".{out.name}.{os.getpid()}")
        part.write_bytes(b"".join(line + b"\n" for line in lines))
        part.replace(out)
        session.output.record({"type": "export", "run_id": run, "path": str(out), "entries": len(lines) - 1})
        session.output.line(f"wrote {len(lines) - 1} entries and their proofs to ", (str(out), "name"))


def _entry_json(entry: Entry) -> dict[str, JsonValue]:
    return {
        "type": "entry",
        "position": entry.position,
        "kind": entry.kind,
        "run": entry.run,
        "call": entry.call,
        "actor": entry.actor,
        "on_behalf_of": entry.on_behalf_of,
        "time": entry.time.isoformat(),
        "n": entry.n,
        "previous": entry.previous,
        "data": dict(entry.data),
    }


def _row(entry: Entry) -> list[Span]:
    return [
        (str(entry.position), "name"),
        entry.time.strftime("%Y-%m-%d %H:%M:%S"),
        entry.kind,
        entry.call or entry.run,
        entry.actor,
        what_of(entry)[:200],
    ]


def what_of(entry: Entry) -> str:
    """One line on what an entry says. Hostile text: escape it before showing."""
    import json

    told = [f"{name}={value}" for name in _TOLD if (value := entry.data.get(name)) not in (None, "")]
    return " ".join(told) or json.dumps(dict(entry.data), ensure_ascii=False, sort_keys=True)


_TOLD = ("tool", "status", "state", "verdict", "action", "host", "port", "reason", "detail", "escalation", "grant")


def _show_entry(output: Output, entry: Entry) -> None:
    import json

    output.block(json.dumps(_entry_json(entry), ensure_ascii=False, indent=2))

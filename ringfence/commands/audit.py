"""`ringfence audit`: ask what happened, verify it, take it away as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands import audit_anchor, audit_feed, audit_index, audit_life
from ringfence.commands import audit_options as asking
from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.render import Output
    from ringfence.session import Session
    from ringfence_audit.events import JsonValue
    from ringfence_audit.facts import Entry

group = typer.Typer(no_args_is_help=True, help="Ask what happened, and verify it.")
group.command()(audit_anchor.anchor)
group.command()(audit_anchor.witness)
group.add_typer(audit_index.group, name="index")
group.add_typer(audit_life.key, name="key")
group.add_typer(audit_life.hold, name="hold")
group.command()(audit_feed.stream)
group.command()(audit_feed.lag)
group.command()(audit_feed.report)
group.command()(audit_life.prune)
group.command()(audit_life.erase)


@group.command()
def query(
    words: asking.Words = None,
    run: asking.Run = None,
    task: asking.Task = None,
    agent: asking.Agent = None,
    person: asking.Person = None,
    tool: asking.Tool = None,
    kind: asking.KindOption = None,
    decision: asking.Decision = None,
    outcome: asking.Outcome = None,
    host: asking.Host = None,
    path: asking.PathOption = None,
    rule: asking.Rule = None,
    grant: asking.Grant = None,
    approver: asking.Approver = None,
    since: asking.Since = None,
    until: asking.Until = None,
    is_refused: asking.Refused = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    after: Annotated[int | None, typer.Option(help="Go on behind this entry, the last of the page before.")] = None,
    is_oldest_first: Annotated[bool, typer.Option("--oldest-first")] = False,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    form: Annotated[str, typer.Option("--format", help="table, json, jsonl, csv, ocsf or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write the whole answer, oldest first, to a new file.")] = None,
    is_json: Json = False,
) -> None:
    """Find entries, newest first."""
    from ringfence.commands import audit_answers
    from ringfence.session import open_session

    wanted = asking.build_filter(
        words=words,
        run=run,
        task=task,
        agent=agent,
        person=person,
        tool=tool,
        kind=kind,
        decision=decision,
        outcome=outcome,
        host=host,
        path=path,
        rule=rule,
        grant=grant,
        approver=approver,
        since=since,
        until=until,
        is_refused=is_refused,
    )
    shape = audit_answers.read_form(form)
    with open_session(is_json=is_json) as session:
        if out is not None:
            audit_answers.write_whole(session, wanted, shape, out)
        elif is_followed:
            audit_answers.show_as_written(session, wanted)
        else:
            request = audit_answers.page_of(limit, after, oldest_first=is_oldest_first)
            audit_answers.show_page(session, wanted, request, shape)


@group.command()
def story(run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")], is_json: Json = False) -> None:
    """Tell a run's whole story in order."""
    from ringfence.commands import audit_answers
    from ringfence.session import open_session
    from ringfence_audit.query import Filter

    with open_session(is_json=is_json) as session:
        audit_answers.show_whole(session, Filter(run=run))


@group.command()
def show(
    position: Annotated[int, typer.Argument(help="An entry's number.")],
    proof_file: Annotated[
        Path | None, typer.Option("--proof", help="Write a C2SP tlog-proof to this new file.")
    ] = None,
    is_json: Json = False,
) -> None:
    """Show one entry whole, with its proof of inclusion."""
    from ringfence.errors import Mistake
    from ringfence.formats import entry_json
    from ringfence.session import open_session
    from ringfence_audit.proofs import inclusion_text
    from ringfence_audit.query import show as find

    with open_session(is_json=is_json) as session:
        view = session.read(lambda connection: find(connection, position))
        proof: dict[str, JsonValue] = {
            "size": view.size,
            "root": view.root.hex(),
            "path": [step.hex() for step in view.proof],
            "checkpoint": view.note,
        }
        session.output.record({**entry_json(view.entry), "proof": proof})
        _show_entry(session.output, view.entry)
        covered = "a signed checkpoint" if view.note else "no checkpoint yet"
        if proof_file is not None:
            if view.note is None or proof_file.exists():
                raise Mistake("no checkpoint covers it yet, or the file exists", fix="Wait a second, name a new file")
            proof_file.write_text(inclusion_text(position, view.proof, view.note), encoding="utf-8")
        session.output.line(f"proof   {len(view.proof)} hashes to the root of {view.size} entries, ", (covered, "dim"))


@group.command()
def verify(
    file: Annotated[Path | None, typer.Option(help="A copy of the log; without it, the live one.")] = None,
    key: Annotated[str | None, typer.Option(help="The log's public key as you pinned it, or a file.")] = None,
    anchor: Annotated[list[Path] | None, typer.Option(help="A checkpoint that was kept elsewhere (a file).")] = None,
    witness: Annotated[list[str] | None, typer.Option(help="The public key of a witness, or a file.")] = None,
    is_anchored: Annotated[
        bool, typer.Option("--anchored", help="Fetch checkpoints from the configured anchors.")
    ] = False,
    is_evidence_only: Annotated[
        bool,
        typer.Option("--evidence", help="Bytes, chains, tree and signatures only; not whether the story is whole."),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, max=64)] = 1,
    is_json: Json = False,
) -> None:
    """Check every entry, chain, tree and signature, and whether the story is whole."""
    from ringfence.anchoring import fetched, load_sinks, witness_keys
    from ringfence.errors import Mistake
    from ringfence.exits import Exit
    from ringfence.session import open_session
    from ringfence.verifying import Against, read_key, read_note, stale_index, verdict_of_file, verdict_of_log

    pinned = None if key is None else read_key(key)
    kept = [read_note(path) for path in anchor or ()]
    witnesses = [read_key(text) for text in witness or ()]
    if file is not None and not file.is_file():
        raise Mistake(f"there is no file {file}", fix="Name a copy of a log, or leave --file out for the live one")
    with open_session(is_json=is_json) as session:
        if is_anchored:
            sinks = load_sinks(session.settings)
            kept += fetched(session.store, sinks)
            witnesses += witness_keys(sinks)
        against = Against(pinned, kept, witnesses, is_evidence_only, processes)
        if file is None:
            verdict = verdict_of_log(session.settings, session.store, against)
        else:
            verdict = verdict_of_file(session.settings, file, against)
        session.output.record(verdict.to_json())
        session.output.line((verdict.text, "good" if verdict.is_good else "bad"))
        for finding in verdict.findings[1:20]:
            session.output.line("  ", str(finding))
        fault = stale_index(session.settings, session.store) if file is None and not is_evidence_only else None
        if fault is not None:
            session.output.record({"type": "index", "problem": fault.problem, "position": fault.position})
            session.output.line((f"INDEX: entry {fault.position}: {fault.problem}", "bad"))
            session.output.line("fix:     ", ("ringfence audit index rebuild", "bold"))
    is_good = verdict.is_good and fault is None
    raise typer.Exit(int(Exit.FINISHED if is_good else Exit.EVIDENCE))


@group.command()
def export(
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    words: asking.Words = None,
    run: asking.Run = None,
    task: asking.Task = None,
    person: asking.Person = None,
    tool: asking.Tool = None,
    kind: asking.KindOption = None,
    decision: asking.Decision = None,
    outcome: asking.Outcome = None,
    host: asking.Host = None,
    path: asking.PathOption = None,
    rule: asking.Rule = None,
    grant: asking.Grant = None,
    since: asking.Since = None,
    until: asking.Until = None,
    is_refused: asking.Refused = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint that you kept, to prove that the log grew from it.")
    ] = None,
    is_json: Json = False,
) -> None:
    """Write an answer as evidence, for `ringfence-verify`. With --run alone it is the whole run, provably."""
    from ringfence.exporting import export_answer
    from ringfence.session import open_session
    from ringfence.verifying import read_note

    wanted = asking.build_filter(
        words=words,
        run=run,
        task=task,
        person=person,
        tool=tool,
        kind=kind,
        decision=decision,
        outcome=outcome,
        host=host,
        path=path,
        rule=rule,
        grant=grant,
        since=since,
        until=until,
        is_refused=is_refused,
    )
    since_notes = [] if checkpoint is None else [read_note(checkpoint)]
    with open_session(is_json=is_json) as session:
        actor, settings = session.person.principal, session.settings
        done = export_answer(session.store, wanted, out, actor=actor, since=since_notes, settings=settings)
        session.output.record({"type": "export", "run_id": run, "path": str(done.path), "entries": done.entries})
        session.output.line(f"wrote {done.entries} entries and their proofs to ", (str(done.path), "name"))
        session.output.line(("check it anywhere: ", "dim"), f"ringfence-verify {done.path} --key {vkey(session)}")


def vkey(session: Session) -> str:
    """The log's public key, as whoever verifies pins it."""
    from ringfence_audit.notes import VerifierKey

    return str(VerifierKey.of_log(session.store.signer.origin, session.store.signer.public_key))


def _show_entry(output: Output, entry: Entry) -> None:
    import json

    from ringfence.formats import entry_json

    output.block(json.dumps(entry_json(entry), ensure_ascii=False, indent=2))

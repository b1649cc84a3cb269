"""`ringfence audit key`, `hold`, `prune`, `erase`: how long entries live, and who signs for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands import audit_options as asking
from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.render import Span
    from ringfence.session import Session

key = typer.Typer(no_args_is_help=True, help="The key that signs the log.")
hold = typer.Typer(no_args_is_help=True, help="Legal holds: what is held is not dropped.")
_Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the log.")]


@key.command("show")
def show_key(is_json: Json = False) -> None:
    """Print the public key, for whoever verifies to pin."""
    from ringfence.session import open_session
    from ringfence.verifying import own_key

    with open_session(is_json=is_json) as session:
        text = str(own_key(session.settings))
        session.output.record({"type": "key", "key": text})
        session.output.line(text)


@key.command()
def rotate(reason: _Reason, is_json: Json = False) -> None:
    """Sign with a new key from now on; the old one signs for it a last time."""
    from ringfence.session import open_session
    from ringfence_audit.rotation import rotate as turn

    with open_session(is_json=is_json) as session:
        _ask_owner(session)
        done = turn(session.store, session.settings.key_file, by=session.person.principal, reason=reason)
        old, new = str(done.old), str(done.new)
        session.output.record({"type": "key", "old": old, "key": new, "position": done.position})
        session.output.line("now      ", (new, "name"))
        session.output.line("before   ", (old, "dim"), f"  replaced by entry {done.position}")
        if session.settings.database_url is not None:
            session.output.line(f"copy {session.settings.key_file} to every machine that writes to this database")


@hold.command()
def place(
    name: Annotated[str, typer.Argument(help="A name for the hold, such as case-2026-17.")],
    reason: _Reason,
    run: Annotated[str, typer.Option(help="Only this run; without it the whole log.")] = "",
    is_json: Json = False,
) -> None:
    """Keep entries from being dropped."""
    from ringfence.session import open_session
    from ringfence_audit.life import place_hold

    with open_session(is_json=is_json) as session:
        _ask_owner(session)
        by = session.person.principal
        session.write(lambda tx: place_hold(tx, name, run=run, reason=reason, by=by))
        session.output.record({"type": "hold", "name": name, "run": run})
        session.output.line(f"{name} holds ", run or "the whole log")


@hold.command()
def lift(name: Annotated[str, typer.Argument()], reason: _Reason, is_json: Json = False) -> None:
    """End a hold."""
    from ringfence.session import open_session
    from ringfence_audit.life import lift_hold

    with open_session(is_json=is_json) as session:
        _ask_owner(session)
        session.write(lambda tx: lift_hold(tx, name, reason=reason, by=session.person.principal))
        session.output.record({"type": "hold", "name": name, "is_lifted": True})
        session.output.line(f"{name} is lifted")


@hold.command("list")
def list_all(is_json: Json = False) -> None:
    """Show what is held."""
    from ringfence.session import open_session
    from ringfence_audit.life import list_holds

    with open_session(is_json=is_json) as session:
        found = session.read(list_holds)
        for item in found:
            session.output.record({"type": "hold", "name": item.name, "run": item.run, "reason": item.reason})
        rows: list[list[Span]] = [
            [(item.name, "name"), item.run or "the whole log", item.placed_by, item.reason] for item in found
        ]
        if rows:
            session.output.table(("HOLD", "WHAT", "BY", "WHY"), rows)
        else:
            session.output.line("Nothing is held.")


def prune(
    before: Annotated[str, typer.Option(help="Drop what is older: 2026-01-01")],
    is_dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    is_json: Json = False,
) -> None:
    """Drop the bodies of old runs. Their hashes stay, and old proofs hold."""
    from ringfence.errors import Mistake
    from ringfence.searching import open_index
    from ringfence.session import open_session
    from ringfence_audit.life import drop, drop_bodies, droppable

    until = asking.moment(before)
    if until is None or until >= datetime.now(UTC):
        raise Mistake("that lies in the future", fix="Name a day in the past")
    with open_session(is_json=is_json) as session:
        _ask_owner(session)
        found = session.read(lambda connection: droppable(connection, until, blobs=session.store.blobs))
        if found.places and not is_dry:
            session.write(lambda tx: drop(tx, found, by=session.person.principal))
            session.write(lambda tx: drop_bodies(tx.connection, found, session.store.blobs))
            with open_index(session.settings, session.store) as index:
                index.clear()  # what was dropped must not stay readable in what was derived from it
        session.output.record({"type": "prune", "entries": len(found.places), "is_done": not is_dry})
        said = "would go" if is_dry else "are dropped; their hashes stay"
        session.output.line(f"{len(found.places)} entries and {len(found.bodies)} large values {said}")


def erase(
    subject: Annotated[str, typer.Argument(help="A person, such as person:ana.")],
    reason: _Reason,
    is_json: Json = False,
) -> None:
    """Destroy the key of a person's fields: nobody can read them any more, and proofs still hold."""
    from ringfence.searching import open_index
    from ringfence.session import open_session
    from ringfence_audit.personal import erase as destroy

    who = subject if ":" in subject else f"person:{subject}"
    with open_session(is_json=is_json) as session:
        _ask_owner(session)
        session.write(lambda tx: destroy(tx, who, by=session.person.principal, reason=reason))
        with open_index(session.settings, session.store) as index:
            index.clear()
        session.output.record({"type": "erasure", "subject": who})
        session.output.line(f"the fields of {who} can be read by nobody any more; backups hold the key until they go")


def _ask_owner(session: Session) -> None:
    """Only whoever owns this machine's state changes how the log lives."""
    from ringfence.errors import Refused

    if "owner" not in session.person.groups:
        raise Refused("only a person in the group owner may do this", fix="Ask one of them")

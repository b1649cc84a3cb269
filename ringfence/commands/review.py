"""`ringfence review`: what waits for people, and their decisions.

A card stands for exact bytes: an escalation never changes under its number, and a vote carries the digest of what was
read here. A card with findings is approved only by someone who names each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import EscalationArgument, Json, escalation_id

if TYPE_CHECKING:
    from ringfence.render import Span
    from ringfence.session import Session
    from ringfence_audit.events import JsonValue
    from ringfence_tools.escalations import Escalation

group = typer.Typer(no_args_is_help=True, help="Decide what waits for you.")

Note = Annotated[str, typer.Option("--note", help="A remark for the log.")]


@group.command("list")
def list_(
    is_every: Annotated[bool, typer.Option("--all", help="Also what others must decide.")] = False,
    is_json: Json = False,
) -> None:
    """Show what waits for you, the first to expire in front."""
    from ringfence.reviewing import headline
    from ringfence.session import now_us, open_session
    from ringfence.voting import is_for
    from ringfence_tools import escalations

    with open_session(is_json=is_json) as session:
        waiting = session.read(lambda connection: escalations.open_ones(connection, now_us()))
        shown = [each for each in waiting if is_every or is_for(each, session.person)]
        for each in shown:
            session.output.record(_json(each))
        if not shown:
            others = len(waiting) - len(shown)
            more = f" {others} wait for others: `ringfence review list --all`." if others else ""
            session.output.line(f"Nothing waits for you.{more}")
            return
        session.output.table(
            ("CARD", "RUN", "NEEDS", "DENIES IN", "ASKS"), [headline(each, now_us()) for each in shown]
        )


@group.command()
def show(card: EscalationArgument, is_json: Json = False) -> None:
    """Show a card: exactly what would run, and what it would open."""
    from ringfence.reviewing import load, show_card
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        found = load(session, escalation_id(card))
        session.output.record(_json(found))
        show_card(session.output, found)


@group.command()
def approve(
    card: EscalationArgument,
    is_task: Annotated[bool, typer.Option("--task", help="For the rest of this task, not only once.")] = False,
    findings: Annotated[str, typer.Option(help="The findings that you have read, such as 1,2,3.")] = "",
    edit: Annotated[str | None, typer.Option(help="Other arguments (JSON): decided anew, under a new card.")] = None,
    note: Note = "",
    is_json: Json = False,
) -> None:
    """Let it run: exactly these bytes, once, or for this task."""
    from asyncio import run

    from ringfence.reviewing import cast_approval, cast_edit, load
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        found = load(session, escalation_id(card))
        if edit is not None:
            _report(session, run(cast_edit(session, found, arguments_text=edit, note=note)))
            return
        _report(session, run(cast_approval(session, found, is_task=is_task, seen=findings, note=note)))


@group.command()
def deny(
    card: EscalationArgument,
    guidance: Annotated[str, typer.Option("--guidance", "-g", help="What the agent should do instead.")] = "",
    is_stop: Annotated[bool, typer.Option("--stop", help="And cancel the run.")] = False,
    is_json: Json = False,
) -> None:
    """Refuse it; your guidance reaches the agent."""
    from asyncio import run

    from ringfence.reviewing import cast_denial, load
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        found = load(session, escalation_id(card))
        _report(session, run(cast_denial(session, found, guidance=guidance, is_stop=is_stop)))


@group.command()
def edit(
    card: EscalationArgument,
    arguments: Annotated[str | None, typer.Option(help="The arguments as JSON; without it, $EDITOR opens.")] = None,
    note: Note = "",
    is_json: Json = False,
) -> None:
    """Change what would run; it is decided anew and never approved by this."""
    from asyncio import run

    from ringfence.reviewing import cast_edit, edited_arguments, load
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        found = load(session, escalation_id(card))
        text = edited_arguments(session, found) if arguments is None else arguments
        _report(session, run(cast_edit(session, found, arguments_text=text, note=note)))


@group.command()
def answer(
    card: EscalationArgument,
    text: Annotated[str, typer.Argument(help="Your answer to the agent's question.")],
    is_json: Json = False,
) -> None:
    """Answer an agent's question."""
    from asyncio import run

    from ringfence.reviewing import cast_answer, load
    from ringfence.session import open_session

    with open_session(is_json=is_json) as session:
        _report(session, run(cast_answer(session, load(session, escalation_id(card)), text=text)))


def _report(session: Session, after: Escalation) -> None:
    from ringfence_tools.escalations import EscalationState

    session.output.record(_json(after))
    number: Span = (f"E-{after.id}", "name")
    match after.state:
        case EscalationState.OPEN:
            session.output.line(number, (" has your vote and waits for others", "wait"))
        case EscalationState.DENIED:
            session.output.line(number, (" denied", "bad"))
        case _:
            session.output.line(number, (f" {after.state.value}", "good"))
    session.output.line(
        ("A run that is not being watched goes on with `ringfence runs resume ", "dim"),
        (after.key.run, "name"),
        ("`", "dim"),
    )


def _json(found: Escalation) -> dict[str, JsonValue]:
    return {
        "type": "escalation",
        "escalation": found.id,
        "run_id": found.key.run,
        "call": str(found.key),
        "kind": found.kind,
        "state": found.state.value,
        "tool": found.tool,
        "arguments": found.arguments,
        "digest": found.digest,
        "needs": {"any": list(found.terms.any_of), "all": list(found.terms.all_of)},
        "opened_at_us": found.opened_at,
        "expires_at_us": found.expires_at,
        "answer": found.answer,
        "card": found.card,
    }

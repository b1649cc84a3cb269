"""`ringfence review`: what waits for people, and their decisions.

A card stands for exact bytes: an escalation never changes under its number, and a vote carries the digest of what was
read here. A card with findings is approved only by someone who names each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import EscalationArgument, Json, escalation_id

if TYPE_CHECKING:
    from ringfence.desk import Desk
    from ringfence.render import Span
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
    from ringfence.desk import open_desk
    from ringfence.reviewing import headline
    from ringfence.session import now_us

    with open_desk(is_json=is_json) as desk:
        mine, every = desk.waiting()
        shown = every if is_every else mine
        for each in shown:
            desk.output.record(_json(each))
        if not shown:
            others = len(every) - len(shown)
            more = f" {others} wait for others: `ringfence review list --all`." if others else ""
            desk.output.line(f"Nothing waits for you.{more}")
            return
        desk.output.table(("CARD", "RUN", "NEEDS", "DENIES IN", "ASKS"), [headline(each, now_us()) for each in shown])


@group.command()
def show(card: EscalationArgument, is_json: Json = False) -> None:
    """Show a card: exactly what would run, and what it would open."""
    from ringfence.desk import open_desk
    from ringfence.reviewing import show_card

    with open_desk(is_json=is_json) as desk:
        found = desk.load(escalation_id(card))
        desk.output.record(_json(found))
        show_card(desk.output, found)


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
    from ringfence.desk import open_desk

    with open_desk(is_json=is_json) as desk:
        found = desk.load(escalation_id(card))
        if edit is not None:
            _report(desk, desk.edit(found, arguments=edit, note=note))
            return
        _report(desk, desk.approve(found, is_task=is_task, seen=findings, note=note))


@group.command()
def deny(
    card: EscalationArgument,
    guidance: Annotated[str, typer.Option("--guidance", "-g", help="What the agent should do instead.")] = "",
    is_stop: Annotated[bool, typer.Option("--stop", help="And cancel the run.")] = False,
    is_json: Json = False,
) -> None:
    """Refuse it; your guidance reaches the agent."""
    from ringfence.desk import open_desk

    with open_desk(is_json=is_json) as desk:
        _report(desk, desk.deny(desk.load(escalation_id(card)), guidance=guidance, is_stop=is_stop))


@group.command()
def edit(
    card: EscalationArgument,
    arguments: Annotated[str | None, typer.Option(help="The arguments as JSON; without it, $EDITOR opens.")] = None,
    note: Note = "",
    is_json: Json = False,
) -> None:
    """Change what would run; it is decided anew and never approved by this."""
    from ringfence.desk import open_desk
    from ringfence.reviewing import edited_arguments

    with open_desk(is_json=is_json) as desk:
        found = desk.load(escalation_id(card))
        text = edited_arguments(desk.output, found) if arguments is None else arguments
        _report(desk, desk.edit(found, arguments=text, note=note))


@group.command()
def answer(
    card: EscalationArgument,
    text: Annotated[str, typer.Argument(help="Your answer to the agent's question.")],
    is_json: Json = False,
) -> None:
    """Answer an agent's question."""
    from ringfence.desk import open_desk

    with open_desk(is_json=is_json) as desk:
        _report(desk, desk.answer(desk.load(escalation_id(card)), text=text))


def _report(desk: Desk, after: Escalation) -> None:
    from ringfence_tools.escalations import EscalationState

    desk.output.record(_json(after))
    number: Span = (f"E-{after.id}", "name")
    match after.state:
        case EscalationState.OPEN:
            desk.output.line(number, (" has your vote and waits for others", "wait"))
        case EscalationState.DENIED:
            desk.output.line(number, (" denied", "bad"))
        case _:
            desk.output.line(number, (f" {after.state.value}", "good"))
    desk.output.line(
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

"""A person's decision on one card, between the terminal and `ringfence.voting`."""

from __future__ import annotations

import re

from ringfence import voting
from ringfence.editor import edit_text
from ringfence.errors import Mistake
from ringfence.render import Output, Span, span_of_time
from ringfence.session import Session, now_us
from ringfence.voting import card_of
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId, GrantWidth
from ringfence_tools.card import render_text
from ringfence_tools.escalations import Escalation, EscalationState


def load(session: Session, number: EscalationId) -> Escalation:
    """Raises `NotFound`."""
    return session.read(lambda connection: escalations.get(connection, number))


def headline(escalation: Escalation, at_us: int) -> list[Span]:
    """One row of the inbox."""
    needs = " + ".join(escalation.terms.all_of) or " or ".join(escalation.terms.any_of) or "anyone"
    left = span_of_time((escalation.expires_at - at_us) / 1e6)
    what = ", ".join(f"{access.family.value} {access.resource}" for access in escalation.accesses)
    asks = what or f"{escalation.tool} {escalation.arguments}"
    return [(f"E-{escalation.id}", "name"), escalation.key.run, needs, (left, "wait"), asks[:300]]


def show_card(output: Output, escalation: Escalation) -> None:
    """The card in the form of the design, and what was decided where it is decided already."""
    left_s = max((escalation.expires_at - now_us()) // 1_000_000, 0)
    card = card_of(escalation)
    identity = f"E-{escalation.id}"
    output.block(render_text(card, identity=identity, expires_in_s=left_s, width=max(output.width, 40)))
    if escalation.state is not EscalationState.OPEN:
        output.line(("decided: ", "dim"), (escalation.state.value, "bold"))


def read_findings(seen: str) -> frozenset[int]:
    """The findings that `1,2` or `1-3` names. Raises `Mistake` for other text."""
    named: set[int] = set()
    for part in filter(None, (piece.strip() for piece in seen.split(","))):
        match = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", part)
        if match is None:
            raise Mistake(f"{part[:40]!r} names no finding", fix="Write --findings 1,2,3")
        named.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(named)


async def cast_approval(session: Session, found: Escalation, *, is_task: bool, seen: str, note: str) -> Escalation:
    """Approve the bytes of this card. Raises what `voting.approve` raises."""
    from ringfence_tools.builtin.toolset import builtin_toolbox

    toolbox = builtin_toolbox()
    width: GrantWidth = "task" if is_task else "once"
    read = read_findings(seen)
    return await session.store.write(
        lambda tx: voting.approve(
            tx, found, session.person, digest=found.digest, width=width, read=read, toolbox=toolbox, note=note
        )
    )


async def cast_denial(session: Session, found: Escalation, *, guidance: str, is_stop: bool = False) -> Escalation:
    """Deny, and cancel the run too with `is_stop`."""
    return await session.store.write(
        lambda tx: voting.deny(tx, found, session.person, guidance=guidance, is_stop=is_stop)
    )


async def cast_edit(session: Session, found: Escalation, *, arguments_text: str, note: str) -> Escalation:
    """Replace the arguments: decided anew, and never approved by this."""
    from ringfence_tools.builtin.toolset import builtin_toolbox

    toolbox = builtin_toolbox()
    return await session.store.write(
        lambda tx: voting.edit(
            tx,
            found,
            session.person,
            digest=found.digest,
            arguments_text=arguments_text,
            toolbox=toolbox,
            note=note,
        )
    )


async def cast_answer(session: Session, found: Escalation, *, text: str) -> Escalation:
    return await session.store.write(lambda tx: voting.answer(tx, found, session.person, text=text))


def edited_arguments(output: Output, found: Escalation) -> str:
    """The arguments as the person leaves them in their editor. Raises `Mistake` where nothing was changed."""
    if not output.is_interactive:
        raise Mistake("there is no terminal to edit at", fix="Give the new arguments with --arguments JSON")
    before = voting.pretty_arguments(found)
    after = edit_text(before, suffix=".json")
    if after.strip() == before.strip():
        raise Mistake("nothing was changed", fix="The card waits as it is")
    return after

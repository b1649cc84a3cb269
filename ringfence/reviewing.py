"""A person's decision on one card, between the terminal and `ringfence_tools.review`.

Here is what the command line adds to the rules of the tools room: a card whose findings were not all named is not
approved, and a vote wakes the run that waited for it.
"""

from __future__ import annotations

import json
import re

from ringfence.editor import edit_text
from ringfence.errors import Mistake, Refused
from ringfence.render import Output, Span, span_of_time
from ringfence.session import Session, now_us
from ringfence_agents import control
from ringfence_audit.port import Transaction
from ringfence_tools import escalations, review
from ringfence_tools.calls import EscalationId, GrantWidth
from ringfence_tools.card import Card, render_text
from ringfence_tools.escalations import Escalation, EscalationState
from ringfence_tools.people import Person, groups_that_count


def load(session: Session, number: EscalationId) -> Escalation:
    """Raises `NotFound`."""
    return session.read(lambda connection: escalations.get(connection, number))


def is_for(escalation: Escalation, person: Person) -> bool:
    """Whether this person's vote would count."""
    terms = escalation.terms
    if escalation.kind == "question" and person.name == escalation.requester:
        return True
    if terms.four_eyes and person.name == escalation.requester:
        return False
    return not (terms.any_of or terms.all_of) or bool(groups_that_count(terms, person.groups))


def headline(escalation: Escalation, at_us: int) -> list[Span]:
    """One row of the inbox."""
    needs = " + ".join(escalation.terms.all_of) or " or ".join(escalation.terms.any_of) or "anyone"
    left = span_of_time((escalation.expires_at - at_us) / 1e6)
    what = ", ".join(f"{access.family.value} {access.resource}" for access in escalation.accesses)
    asks = what or f"{escalation.tool} {escalation.arguments}"
    return [(f"E-{escalation.id}", "name"), escalation.key.run, needs, (left, "wait"), asks[:300]]


def card_of(escalation: Escalation) -> Card:
    return Card.from_json(escalation.card)


def show_card(output: Output, escalation: Escalation) -> None:
    """The card in the form of the design, and what was decided where it is decided already."""
    left_s = max((escalation.expires_at - now_us()) // 1_000_000, 0)
    card = card_of(escalation)
    identity = f"E-{escalation.id}"
    output.block(render_text(card, identity=identity, expires_in_s=left_s, width=max(output.width, 40)))
    if escalation.state is not EscalationState.OPEN:
        output.line(("decided: ", "dim"), (escalation.state.value, "bold"))


def unread(card: Card, seen: str) -> tuple[str, ...]:
    """The findings (`1`, `2`, …) that `seen` (`1,2` or `1-3`) does not name. Raises `Mistake` for other text."""
    named: set[int] = set()
    for part in filter(None, (piece.strip() for piece in seen.split(","))):
        match = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", part)
        if match is None:
            raise Mistake(f"{part[:40]!r} names no finding", fix="Write --findings 1,2,3")
        named.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(str(number) for number in range(1, len(card.findings) + 1) if number not in named)


async def cast_approval(session: Session, found: Escalation, *, is_task: bool, seen: str, note: str) -> Escalation:
    """Approve the bytes of this card. Raises `Refused` while findings are unread, and what `review.approve` raises."""
    missing = unread(card_of(found), seen)
    if missing:
        raise Refused(
            f"E-{found.id} has findings that you have not named: {', '.join(missing)}",
            fix=f"Read them with `ringfence review show E-{found.id}`, then add --findings {','.join(missing)}",
        )

    def vote(tx: Transaction) -> Escalation:
        width: GrantWidth = "task" if is_task else "once"
        after = review.approve(tx, found.id, session.person, digest=found.digest, width=width, note=note)
        return _woken(tx, after)

    return await session.store.write(vote)


async def cast_denial(session: Session, found: Escalation, *, guidance: str, is_stop: bool = False) -> Escalation:
    """Deny, and cancel the run too with `is_stop`."""

    def vote(tx: Transaction) -> Escalation:
        after = _woken(tx, review.deny(tx, found.id, session.person, guidance=guidance))
        if is_stop:
            reason = guidance or f"denied E-{found.id}"
            control.cancel(tx, found.key.run, by=session.person.principal, reason=reason)
        return after

    return await session.store.write(vote)


async def cast_edit(session: Session, found: Escalation, *, arguments_text: str, note: str) -> Escalation:
    """Replace the arguments: decided anew, and never approved by this."""
    from ringfence_tools.builtin.toolset import builtin_toolbox

    toolbox = builtin_toolbox()

    def vote(tx: Transaction) -> Escalation:
        after = review.edit(
            tx,
            found.id,
            session.person,
            digest=found.digest,
            arguments_text=arguments_text,
            toolbox=toolbox,
            note=note,
        )
        return _woken(tx, after)

    return await session.store.write(vote)


async def cast_answer(session: Session, found: Escalation, *, text: str) -> Escalation:
    return await session.store.write(lambda tx: _woken(tx, review.answer(tx, found.id, session.person, text=text)))


def edited_arguments(session: Session, found: Escalation) -> str:
    """The arguments as the person leaves them in their editor. Raises `Mistake` where nothing was changed."""
    if not session.output.is_interactive:
        raise Mistake("there is no terminal to edit at", fix="Give the new arguments with --arguments JSON")
    before = json.dumps(json.loads(found.arguments), indent=2, ensure_ascii=True)
    after = edit_text(before, suffix=".json")
    if after.strip() == before.strip():
        raise Mistake("nothing was changed", fix="The card waits as it is")
    return after


def _woken(tx: Transaction, after: Escalation) -> Escalation:
    """In the vote's own transaction, so that no vote is left lying."""
    if after.state is not EscalationState.OPEN:
        control.wake(tx, after.key.run)
    return after

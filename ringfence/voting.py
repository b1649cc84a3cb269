"""A person's decision on one card: the same rules for the command line, the API and the console.

What is added here to the rules of the tools room: a card whose findings this person has not all read is not approved;
what is approved must be what the card showed, byte for byte; and a vote wakes the run that waited for it, in its own
transaction, so that no vote is left lying. Every function works inside a transaction of the caller.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Set as AbstractSet

from sqlalchemy import Connection

from ringfence.errors import Refused
from ringfence_agents import control
from ringfence_agents.runs import load
from ringfence_audit.port import Transaction
from ringfence_tools import escalations, ledger, review
from ringfence_tools.calls import EscalationId, GrantWidth
from ringfence_tools.card import Card
from ringfence_tools.digest import action_digest
from ringfence_tools.escalations import Escalation, EscalationState
from ringfence_tools.people import Person, groups_that_count
from ringfence_tools.toolbox import Toolbox, ToolRefusal, parse_arguments


class FindingsUnread(Refused):
    """`missing` are the findings (1, 2, …) that this person has not read."""

    def __init__(self, escalation: EscalationId, missing: tuple[int, ...]) -> None:
        named = ",".join(map(str, missing))
        super().__init__(
            f"E-{escalation} has findings that you have not read: {named}",
            fix=f"Read them, then approve (at the terminal: --findings {named})",
        )
        self.missing = missing


class NotWhatWasShown(Refused):
    """The stored card does not describe the call that would run."""

    def __init__(self, escalation: EscalationId) -> None:
        super().__init__(
            f"E-{escalation} does not show the bytes that would run",
            fix="Do not approve it: deny it, and tell an admin",
        )


def is_for(escalation: Escalation, person: Person) -> bool:
    """Whether this person's vote would count."""
    terms = escalation.terms
    if escalation.kind == "question" and person.name == escalation.requester:
        return True
    if terms.four_eyes and person.name == escalation.requester:
        return False
    return not (terms.any_of or terms.all_of) or bool(groups_that_count(terms, person.groups))


def card_of(escalation: Escalation) -> Card:
    return Card.from_json(escalation.card)


def is_as_shown(connection: Connection, escalation: Escalation, toolbox: Toolbox) -> bool:
    """Whether the arguments on the card, with what they touch, hash to the digest that a vote would carry.

    True also for a call of a tool that is not among `toolbox` (a delivery): its digest is checked when it is consumed.
    """
    tool = toolbox.get(escalation.tool)
    if tool is None or escalation.kind != "call":
        return True
    row = ledger.call(connection, escalation.key)
    if row is None:
        return False
    record = load(connection, escalation.key.run)
    try:
        arguments = parse_arguments(tool, escalation.arguments)
    except ToolRefusal:
        return False
    found = action_digest(
        agent=record.agent,
        on_behalf_of=record.person,
        tool=tool.name,
        schema_digest=toolbox.schema_digest(tool.name),
        arguments=arguments.model_dump(mode="json"),
        accesses=tool.accesses(arguments),
        sealed=row.sealed,
        nonce=row.nonce,
    )
    return hmac.compare_digest(found, escalation.digest) and row.digest == escalation.digest


def approve(
    tx: Transaction,
    found: Escalation,
    person: Person,
    *,
    digest: str,
    width: GrantWidth,
    read: AbstractSet[int],
    toolbox: Toolbox,
    note: str = "",
) -> Escalation:
    """Approve the bytes with this digest. `read` are the findings that this person has read.

    Raises `FindingsUnread`, `NotWhatWasShown`, and what `review.approve` raises.
    """
    missing = tuple(n for n in range(1, len(card_of(found).findings) + 1) if n not in read)
    if missing:
        raise FindingsUnread(found.id, missing)
    now = escalations.get(tx.connection, found.id)
    if now.state is EscalationState.OPEN and not is_as_shown(tx.connection, now, toolbox):
        raise NotWhatWasShown(found.id)
    return _woken(tx, review.approve(tx, found.id, person, digest=digest, width=width, note=note))


def deny(tx: Transaction, found: Escalation, person: Person, *, guidance: str, is_stop: bool = False) -> Escalation:
    """Deny, and cancel the run too with `is_stop`."""
    after = _woken(tx, review.deny(tx, found.id, person, guidance=guidance))
    if is_stop:
        control.cancel(tx, found.key.run, by=person.principal, reason=guidance or f"denied E-{found.id}")
    return after


def edit(
    tx: Transaction,
    found: Escalation,
    person: Person,
    *,
    digest: str,
    arguments_text: str,
    toolbox: Toolbox,
    note: str = "",
) -> Escalation:
    """Replace the arguments: decided anew, and never approved by this."""
    after = review.edit(tx, found.id, person, digest=digest, arguments_text=arguments_text, toolbox=toolbox, note=note)
    return _woken(tx, after)


def answer(tx: Transaction, found: Escalation, person: Person, *, text: str) -> Escalation:
    """Answer the agent's question."""
    return _woken(tx, review.answer(tx, found.id, person, text=text))


def pretty_arguments(found: Escalation) -> str:
    """The arguments as a person edits them: indented, ASCII, so that nothing in them hides."""
    return json.dumps(json.loads(found.arguments), indent=2, ensure_ascii=True)


def _woken(tx: Transaction, after: Escalation) -> Escalation:
    if after.state is not EscalationState.OPEN:
        control.wake(tx, after.key.run)
    return after

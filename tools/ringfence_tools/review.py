"""What reviewers do: approve, deny, edit, answer. Each is one transaction and one entry per vote.

Whoever calls has authenticated the person; here it is decided whether this person may decide this escalation. Nothing
is ever approved by silence, by an expired card, or by a vote on other bytes than those that stand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import insert

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools import escalations, grants, ledger
from ringfence_tools.calls import Access, EscalationId, GrantWidth
from ringfence_tools.clock import micros
from ringfence_tools.errors import EscalationClosed, NotAllowedToVote
from ringfence_tools.escalations import Escalation, EscalationState
from ringfence_tools.people import Person, groups_that_count, is_satisfied
from ringfence_tools.schema import votes
from ringfence_tools.toolbox import Toolbox, ToolRefusal, parse_arguments

WIDTHS: tuple[GrantWidth, ...] = ("once", "task")
"""Narrowest first. A grant for a whole team is not offered: it would outlive the task that a person looked at."""

REQUEST_ACCESS = "request_access"
"""The one tool whose effect is the grant itself; the gate gives it when the approval is consumed."""


def approve(
    tx: Transaction,
    escalation: EscalationId,
    person: Person,
    *,
    digest: str,
    width: GrantWidth = "once",
    note: str = "",
) -> Escalation:
    """Vote to approve the bytes with this digest. Returns the escalation as it stands then, open while more is needed.

    Raises `NotFound`, `EscalationClosed` (settled, expired, other bytes, voted already), `NotAllowedToVote`.
    """
    found = _open(tx, escalation, digest=digest)
    if found.kind != "call":
        raise EscalationClosed(f"E-{escalation} is a question; answer it with `ringfence review answer`")
    counting = _eligible(found, person)
    offered = [offer for offer in WIDTHS if offer in _offers(found)]
    if width not in offered:
        raise NotAllowedToVote(f"E-{escalation} may be approved as {' or '.join(offered)}, not as {width}")
    _vote(tx, found, person, "approve", counting=counting, width=width, note=note)
    cast = [vote for vote in escalations.votes_of(tx.connection, escalation) if vote.verdict == "approve"]
    if not is_satisfied(found.terms, {vote.person: frozenset(vote.groups) for vote in cast}):
        return escalations.get(tx.connection, escalation)
    narrowest = min((vote.width or "once" for vote in cast), key=WIDTHS.index)
    escalations.settle(tx, found, EscalationState.APPROVED, by=person.principal, width=narrowest)
    if narrowest == "task" and found.tool != REQUEST_ACCESS:
        give_grant(tx, found, found.accesses, width="task", by=person.principal)
    return escalations.get(tx.connection, escalation)


def deny(tx: Transaction, escalation: EscalationId, person: Person, *, guidance: str = "") -> Escalation:
    """Settle as denied; the guidance reaches the agent. The requester may always deny what their own agent asks."""
    found = _open(tx, escalation, digest=None)
    is_own = person.name == found.requester
    counting = frozenset[str]() if is_own else _eligible(found, person, is_approval=False)
    _vote(tx, found, person, "deny", counting=counting, width=None, note=guidance)
    escalations.settle(tx, found, EscalationState.DENIED, by=person.principal, reason=guidance)
    return escalations.get(tx.connection, escalation)


def edit(
    tx: Transaction,
    escalation: EscalationId,
    person: Person,
    *,
    digest: str,
    arguments_text: str,
    toolbox: Toolbox,
    note: str = "",
) -> Escalation:
    """Replace the arguments: a new revision of the call, decided anew. It is no approval of the new bytes."""
    found = _open(tx, escalation, digest=digest)
    counting = _eligible(found, person)
    tool = toolbox.get(found.tool)
    if tool is None or found.kind != "call":
        raise EscalationClosed(f"E-{escalation} is not a tool call that can be edited")
    try:
        parse_arguments(tool, arguments_text)
    except ToolRefusal as error:
        raise NotAllowedToVote(f"the edited {error}") from error
    _vote(tx, found, person, "edit", counting=counting, width=None, note=note)
    escalations.settle(tx, found, EscalationState.EDITED, by=person.principal, reason=note)
    ledger.revise(tx, found.key, revision=found.revision, arguments_text=arguments_text)
    return escalations.get(tx.connection, escalation)


def answer(tx: Transaction, escalation: EscalationId, person: Person, *, text: str) -> Escalation:
    """Answer a question of the agent. The person who assigned the task may, and whoever the terms name."""
    found = _open(tx, escalation, digest=None)
    if found.kind != "question":
        raise EscalationClosed(f"E-{escalation} is a tool call; approve or deny it")
    if person.name != found.requester:
        _eligible(found, person, is_approval=False)
    _vote(tx, found, person, "answer", counting=frozenset(), width=None, note=text)
    escalations.settle(tx, found, EscalationState.ANSWERED, by=person.principal, answer=text)
    return escalations.get(tx.connection, escalation)


def give_grant(
    tx: Transaction,
    escalation: Escalation,
    accesses: Sequence[Access],
    *,
    width: GrantWidth,
    by: str,
    call: str = "",
    uses: int | None = None,
) -> None:
    """Open what was approved, until as long from now as the escalation could have waited."""
    grants.give(
        tx,
        run=escalation.key.run,
        call=call,
        tool=escalation.tool,
        accesses=accesses,
        width=width,
        uses=uses,
        expires_at=micros(tx.now) + escalation.terms.ttl_s * 1_000_000,
        given_by=by,
        escalation=escalation.id,
    )


def _offers(escalation: Escalation) -> tuple[GrantWidth, ...]:
    return ("once",) if escalation.terms.widest_grant == "once" else WIDTHS


def _open(tx: Transaction, escalation: EscalationId, *, digest: str | None) -> Escalation:
    found = escalations.get(tx.connection, escalation)
    if found.state is not EscalationState.OPEN:
        raise EscalationClosed(f"E-{escalation} is {found.state.value} already")
    if not found.is_open(micros(tx.now)):
        raise EscalationClosed(f"E-{escalation} has expired, which denies it")
    if digest is not None and digest != found.digest:
        raise EscalationClosed(f"E-{escalation} has changed since you saw it; look at it again")
    return found


def _eligible(escalation: Escalation, person: Person, *, is_approval: bool = True) -> frozenset[str]:
    terms = escalation.terms
    if is_approval and terms.four_eyes and person.name == escalation.requester:
        raise NotAllowedToVote(f"E-{escalation.id} was asked on your behalf; the profile wants someone else to decide")
    counting = groups_that_count(terms, person.groups)
    if (terms.any_of or terms.all_of) and not counting:
        asked = ", ".join((*terms.any_of, *terms.all_of))
        raise NotAllowedToVote(f"E-{escalation.id} is for {asked}; {person.name} is in none of these groups")
    return counting


def _vote(
    tx: Transaction,
    escalation: Escalation,
    person: Person,
    verdict: str,
    *,
    counting: frozenset[str],
    width: GrantWidth | None,
    note: str,
) -> None:
    if any(vote.person == person.name for vote in escalations.votes_of(tx.connection, escalation.id)):
        raise EscalationClosed(f"{person.name} has voted on E-{escalation.id} already")
    tx.connection.execute(
        insert(votes).values(
            escalation=escalation.id,
            person=person.name,
            verdict=verdict,
            groups=json.dumps(sorted(counting)),
            digest=escalation.digest,
            width=width,
            note=note,
            voted_at=micros(tx.now),
        )
    )
    data: dict[str, JsonValue] = {
        "escalation": escalation.id,
        "verdict": verdict,
        "digest": escalation.digest,
        "groups": sorted(counting),
        "width": width,
        "note": note,
    }
    tx.record(Event(Kind.VOTE, person.principal, data, escalation.key.run, str(escalation.key)))

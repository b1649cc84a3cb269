"""One vote, from the API's form or the console's, to `ringfence.voting`. In a transaction of the caller."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import assert_never

from fastapi import Request
from sqlalchemy import Connection, insert, select

from ringfence import voting
from ringfence.api.access import require
from ringfence.api.forms.cards import NewVote
from ringfence.api.house import House
from ringfence.api.reading import Waiting
from ringfence.api.schema import opened_findings
from ringfence.auth.identity import Identity
from ringfence.auth.roles import Permission
from ringfence.errors import Mistake
from ringfence_audit.port import Transaction
from ringfence_tools.clock import micros
from ringfence_tools.escalations import Escalation


def cast(tx: Transaction, house: House, identity: Identity, waiting: Waiting, given: NewVote) -> Escalation:
    """Raises what `voting` raises, and `Mistake` where the form lacks what its verdict needs."""
    person, found = identity.person_in(waiting.team), waiting.escalation
    match given.verdict:
        case "approve":
            read = frozenset(given.findings) | opened(tx.connection, found, identity)
            return voting.approve(
                tx,
                found,
                person,
                digest=_digest(given),
                width=given.width,
                read=read,
                toolbox=house.toolbox,
                note=given.note,
            )
        case "deny":
            return voting.deny(tx, found, person, guidance=given.guidance, is_stop=given.stop)
        case "edit":
            return voting.edit(
                tx,
                found,
                person,
                digest=_digest(given),
                arguments_text=given.arguments,
                toolbox=house.toolbox,
                note=given.note,
            )
        case "answer":
            if not given.text.strip():
                raise Mistake("the answer is empty", fix="Write what the agent should know")
            return voting.answer(tx, found, person, text=given.text)
        case never:
            assert_never(never)


def permission_for(identity: Identity, waiting: Waiting, verdict: str) -> Permission:
    """What casting this verdict needs: deciding; answering and denying one's own agent is steering it."""
    is_own = waiting.escalation.requester == identity.name and not identity.is_service
    if is_own and verdict in ("answer", "deny") and not identity.may(Permission.DECIDE, waiting.team):
        return Permission.STEER
    return Permission.DECIDE


async def may_cast(request: Request, identity: Identity, waiting: Waiting, given: NewVote) -> None:
    """Raises `Denied` where the role, or the token's scopes, do not hold what this vote does."""
    await require(request, identity, permission_for(identity, waiting, given.verdict), waiting.team)
    if given.stop:
        await require(request, identity, Permission.STOP, waiting.team)


def opened(connection: Connection, found: Escalation, identity: Identity) -> AbstractSet[int]:
    """The findings of these very bytes that this person has opened in the console."""
    table = opened_findings
    where = (table.c.escalation == found.id) & (table.c.person == identity.name) & (table.c.digest == found.digest)
    return frozenset(row.finding for row in connection.execute(select(table.c.finding).where(where)))


def open_finding(tx: Transaction, found: Escalation, identity: Identity, number: int) -> None:
    """Note that this person has opened a finding; safe to repeat."""
    if number in opened(tx.connection, found, identity):
        return
    tx.connection.execute(
        insert(opened_findings).values(
            escalation=found.id,
            person=identity.name,
            digest=found.digest,
            finding=number,
            opened_at=micros(tx.now),
        )
    )


def _digest(given: NewVote) -> str:
    if given.digest is None:
        raise Mistake("the vote names no digest", fix="Send the digest of the card that you have seen")
    return given.digest

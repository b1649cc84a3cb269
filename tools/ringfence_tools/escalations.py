"""Escalations: tool calls that wait for people, and what people say to them.

Opening, voting and settling are functions inside a transaction of the caller, each with its entry. An approval is
bound to the action digest that the person saw; it is consumed once, at execution, by the gate. A settled denial is
state: the same resource is refused for the rest of the run without a new card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from sqlalchemy import Connection, Row, insert, select, update

from ringfence_audit.events import Event, JsonValue, Kind
from ringfence_audit.port import Transaction
from ringfence_tools.calls import Access, CallKey, EscalationId, GrantWidth, RunId, Terms
from ringfence_tools.clock import micros
from ringfence_tools.digest import access_json
from ringfence_tools.errors import NotFound
from ringfence_tools.grants import accesses_from_json
from ringfence_tools.schema import asked_groups, denials, escalations, votes


class EscalationState(StrEnum):
    OPEN = "open"
    APPROVED = "approved"
    """Enough people approved; not consumed yet."""
    CONSUMED = "consumed"
    DENIED = "denied"
    EXPIRED = "expired"
    ANSWERED = "answered"
    EDITED = "edited"
    """A reviewer changed the arguments: the call is decided anew, under a new digest."""
    WITHDRAWN = "withdrawn"
    """The run ended or the policy changed; nobody needs to decide any more."""


@dataclass(frozen=True, slots=True)
class Escalation:
    id: EscalationId
    key: CallKey
    revision: int
    kind: str
    """`call`, or `question` where a person's answer is what is asked."""
    state: EscalationState
    digest: str
    matter: str
    policy_version: str
    requester: str
    """The person on whose behalf the agent acts, without prefix."""
    tool: str
    arguments: str
    """Canonical JSON of the exact arguments."""
    accesses: tuple[Access, ...]
    terms: Terms
    card: Mapping[str, JsonValue]
    width: GrantWidth | None
    answer: str | None
    opened_at: int
    expires_at: int
    settled_at: int | None

    def is_open(self, now_us: int) -> bool:
        return self.state is EscalationState.OPEN and self.expires_at > now_us


@dataclass(frozen=True, slots=True)
class Vote:
    person: str
    verdict: str
    groups: tuple[str, ...]
    digest: str
    width: GrantWidth | None
    note: str
    voted_at: int


@dataclass(frozen=True, slots=True)
class Asking:
    """What is needed to open an escalation."""

    key: CallKey
    revision: int
    kind: str
    digest: str
    matter: str
    policy_version: str
    agent: str
    requester: str
    team: str
    """The team of the run, "" for none."""
    tool: str
    arguments: str
    accesses: tuple[Access, ...]
    terms: Terms
    reason: str
    rules: tuple[str, ...]


def open_or_share(tx: Transaction, asking: Asking, card: Mapping[str, JsonValue]) -> EscalationId:
    """The open escalation of this run on the same matter, or a new one with its entry."""
    now_us = micros(tx.now)
    same = select(escalations.c.id).where(
        escalations.c.run == asking.key.run,
        escalations.c.matter == asking.matter,
        escalations.c.state == EscalationState.OPEN.value,
        escalations.c.expires_at > now_us,
    )
    row = tx.connection.execute(same).first()
    if row is not None:
        return EscalationId(row.id)
    expires_at = now_us + asking.terms.ttl_s * 1_000_000
    values = {
        "run": asking.key.run,
        "turn": asking.key.turn,
        "idx": asking.key.index,
        "revision": asking.revision,
        "kind": asking.kind,
        "state": EscalationState.OPEN.value,
        "matter": asking.matter,
        "digest": asking.digest,
        "policy_version": asking.policy_version,
        "requester": asking.requester,
        "team": asking.team,
        "rank": 0 if card.get("findings") else 1,
        "four_eyes": int(asking.terms.four_eyes),
        "tool": asking.tool,
        "arguments": asking.arguments,
        "accesses": json.dumps([access_json(access) for access in asking.accesses]),
        "terms": json.dumps(asdict(asking.terms)),
        "card": json.dumps(card),
        "opened_at": now_us,
        "expires_at": expires_at,
    }
    inserted = tx.connection.execute(insert(escalations).values(**values).returning(escalations.c.id)).scalar_one()
    escalation = EscalationId(int(inserted))
    asked = {*asking.terms.any_of, *asking.terms.all_of}
    if asked:
        tx.connection.execute(
            insert(asked_groups), [{"escalation": escalation, "name": name} for name in sorted(asked)]
        )
    data: dict[str, JsonValue] = {
        "escalation": escalation,
        "kind": asking.kind,
        "tool": asking.tool,
        "digest": asking.digest,
        "accesses": [access_json(access) for access in asking.accesses],
        "terms": _plain(asdict(asking.terms)),
        "rules": list(asking.rules),
        "reason": asking.reason,
        "policy_version": asking.policy_version,
        "expires_at": expires_at,
    }
    person = f"person:{asking.requester}"
    tx.record(Event(Kind.ESCALATION, asking.agent, data, asking.key.run, str(asking.key), person))
    return escalation


def get(connection: Connection, escalation: EscalationId) -> Escalation:
    """Raises `NotFound`."""
    row = connection.execute(select(escalations).where(escalations.c.id == escalation)).first()
    if row is None:
        raise NotFound(f"no escalation E-{escalation}; list what waits with `ringfence review list`")
    return _escalation(row)


def by_ids(connection: Connection, numbers: Sequence[EscalationId]) -> tuple[Escalation, ...]:
    """Those of these that there are, in no order."""
    query = select(escalations).where(escalations.c.id.in_(numbers))
    return tuple(_escalation(row) for row in connection.execute(query)) if numbers else ()


def open_ones(connection: Connection, now_us: int, *, run: RunId | None = None) -> tuple[Escalation, ...]:
    """What waits for people, the one that expires first in front."""
    query = select(escalations).where(
        escalations.c.state == EscalationState.OPEN.value, escalations.c.expires_at > now_us
    )
    if run is not None:
        query = query.where(escalations.c.run == run)
    return tuple(_escalation(row) for row in connection.execute(query.order_by(escalations.c.expires_at)))


def of_run(connection: Connection, run: RunId) -> tuple[Escalation, ...]:
    query = select(escalations).where(escalations.c.run == run).order_by(escalations.c.id)
    return tuple(_escalation(row) for row in connection.execute(query))


def alike(connection: Connection, matter: str, *, since_us: int) -> tuple[int, int]:
    """How many escalations on the same matter there were in any run, and how many of them were approved."""
    query = select(escalations.c.state).where(escalations.c.matter == matter, escalations.c.opened_at >= since_us)
    states = [row.state for row in connection.execute(query)]
    approved = (EscalationState.APPROVED.value, EscalationState.CONSUMED.value)
    return len(states), sum(state in approved for state in states)


def votes_of(connection: Connection, escalation: EscalationId) -> tuple[Vote, ...]:
    rows = connection.execute(select(votes).where(votes.c.escalation == escalation).order_by(votes.c.voted_at))
    return tuple(
        Vote(row.person, row.verdict, tuple(json.loads(row.groups)), row.digest, row.width, row.note, row.voted_at)
        for row in rows
    )


def settle(
    tx: Transaction,
    escalation: Escalation,
    state: EscalationState,
    *,
    by: str,
    reason: str = "",
    width: GrantWidth | None = None,
    answer: str | None = None,
) -> bool:
    """Move an escalation on, once: False where another transaction was first. Denials and expiries become state."""
    moved = tx.connection.execute(
        update(escalations)
        .where(escalations.c.id == escalation.id, escalations.c.state == escalation.state.value)
        .values(state=state.value, settled_at=micros(tx.now), width=width or escalation.width, answer=answer)
    )
    if not moved.rowcount:
        return False
    data: dict[str, JsonValue] = {
        "escalation": escalation.id,
        "state": state.value,
        "digest": escalation.digest,
        "reason": reason,
        "width": width or escalation.width,
        "votes": [
            {"person": vote.person, "verdict": vote.verdict, "groups": list(vote.groups)}
            for vote in votes_of(tx.connection, escalation.id)
        ],
    }
    tx.record(Event(Kind.SETTLED, by, data, escalation.key.run, str(escalation.key)))
    if state in (EscalationState.DENIED, EscalationState.EXPIRED) and escalation.kind == "call":
        _remember_denial(tx, escalation)
    return True


def withdraw_all(tx: Transaction, run: RunId, *, by: str, reason: str) -> None:
    """Close every open or unconsumed escalation of a run that ended."""
    pending = (EscalationState.OPEN.value, EscalationState.APPROVED.value)
    query = select(escalations).where(escalations.c.run == run, escalations.c.state.in_(pending))
    for row in tx.connection.execute(query).all():
        settle(tx, _escalation(row), EscalationState.WITHDRAWN, by=by, reason=reason)


@dataclass(frozen=True, slots=True)
class Denial:
    """The resource that stays refused, by which escalation, and how often it was tried since."""

    resource: str
    escalation: EscalationId
    attempts: int


def denial_of(tx: Transaction, run: RunId, accesses: Sequence[Access]) -> Denial | None:
    """Whether one of these accesses was denied in this run before; counts the attempt."""
    keys = [_resource_key(access) for access in accesses]
    where = (denials.c.run == run) & denials.c.resource.in_(keys)
    row = tx.connection.execute(select(denials).where(where)).first()
    if row is None:
        return None
    tx.connection.execute(
        update(denials)
        .where(denials.c.run == run, denials.c.resource == row.resource)
        .values(attempts=denials.c.attempts + 1)
    )
    return Denial(row.resource, EscalationId(row.escalation), row.attempts + 1)


def _remember_denial(tx: Transaction, escalation: Escalation) -> None:
    for access in escalation.accesses:
        key = _resource_key(access)
        where = (denials.c.run == escalation.key.run) & (denials.c.resource == key)
        if tx.connection.execute(select(denials.c.run).where(where)).first() is None:
            tx.connection.execute(
                insert(denials).values(run=escalation.key.run, resource=key, escalation=escalation.id, attempts=0)
            )


def _resource_key(access: Access) -> str:
    """The same resource, whatever the method: a denied host stays denied for GET and PUT alike."""
    return f"{access.family.value} {access.resource}"


def _escalation(row: Row[tuple[object, ...]]) -> Escalation:
    terms = json.loads(row.terms)
    return Escalation(
        id=EscalationId(row.id),
        key=CallKey(RunId(row.run), row.turn, row.idx),
        revision=row.revision,
        kind=row.kind,
        state=EscalationState(row.state),
        digest=row.digest,
        matter=row.matter,
        policy_version=row.policy_version,
        requester=row.requester,
        tool=row.tool,
        arguments=row.arguments,
        accesses=accesses_from_json(row.accesses),
        terms=Terms(**{**terms, "any_of": tuple(terms["any_of"]), "all_of": tuple(terms["all_of"])}),
        card=json.loads(row.card),
        width=row.width,
        answer=row.answer,
        opened_at=row.opened_at,
        expires_at=row.expires_at,
        settled_at=row.settled_at,
    )


def _plain(value: dict[str, object]) -> JsonValue:
    plain: JsonValue = json.loads(json.dumps(value))
    return plain

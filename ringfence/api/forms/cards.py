"""Escalations, votes and grants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ringfence.api.forms.shape import Answered, At, Given, Line, Whole, Words
from ringfence.api.house import House
from ringfence.api.reading import HeldGrant, Waiting
from ringfence.voting import card_of
from ringfence_tools.clock import moment


class FindingOut(Answered):
    number: int
    code: str
    summary: str
    details: list[str]


class VoteOut(Answered):
    person: str
    verdict: str
    groups: list[str]
    width: str | None
    note: str
    voted_at: At
    approver: str = "attested by the server"


class AccessOut(Answered):
    """One thing that the call touches and that is asked about."""

    family: str
    resource: str


class EscalationOut(Answered):
    """`digest` is what a vote must carry; `is_as_shown` says that the arguments hash to it."""

    id: int
    run: str
    call: str
    team: str
    kind: str
    state: str
    tool: str
    arguments: str
    digest: str
    requester: str
    any_of: list[str]
    all_of: list[str]
    widest_grant: str
    headline: str
    runs: list[str]
    runs_bytes: int
    opens: list[str]
    sends: str
    why: str
    task: str
    agent_says: str
    before: str
    grant: str
    findings: list[FindingOut]
    accesses: list[AccessOut]
    card: dict[str, object] = Field(description="The card as it is stored; the fields above are its parts")
    opened_at: At
    expires_at: At
    settled_at: At | None
    answer: str | None

    @classmethod
    def of(cls, waiting: Waiting) -> EscalationOut:
        found, card = waiting.escalation, card_of(waiting.escalation)
        return cls(
            id=found.id,
            run=found.key.run,
            call=str(found.key),
            team=waiting.team,
            kind=found.kind,
            state=found.state.value,
            tool=found.tool,
            arguments=found.arguments,
            digest=found.digest,
            requester=found.requester,
            any_of=list(found.terms.any_of),
            all_of=list(found.terms.all_of),
            widest_grant=found.terms.widest_grant,
            headline=card.headline,
            runs=list(card.runs),
            runs_bytes=card.runs_bytes,
            opens=list(card.opens),
            sends=card.sends,
            why=card.why,
            task=card.task,
            agent_says=card.agent_says,
            before=card.before,
            grant=card.grant,
            findings=[
                FindingOut(number=n, code=one.code.value, summary=one.summary, details=list(one.details))
                for n, one in enumerate(card.findings, 1)
            ],
            accesses=[AccessOut(family=one.family.value, resource=one.resource) for one in found.accesses],
            card=dict(found.card),
            opened_at=moment(found.opened_at),
            expires_at=moment(found.expires_at),
            settled_at=None if found.settled_at is None else moment(found.settled_at),
            answer=found.answer,
        )


class CardOut(Answered):
    """One card with its votes. `is_as_shown`: what it shows hashes to the digest that a vote carries."""

    escalation: EscalationOut
    votes: list[VoteOut]
    is_as_shown: bool


class NewVote(Given):
    """`digest`, as it stood on the card, and every finding that was read are needed to approve."""

    verdict: Literal["approve", "deny", "edit", "answer"]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    width: Literal["once", "task"] = "once"
    findings: Annotated[list[Annotated[int, Field(ge=1, le=1000), Whole]], Field(max_length=1000)] = Field(default=[])
    note: Line = ""
    guidance: Words = Field(default="", description="For a denial: what the agent should do instead")
    arguments: Annotated[str, StringConstraints(max_length=8 << 20)] = Field(
        default="", description="For an edit: JSON"
    )
    text: Words = Field(default="", description="For an answer")
    stop: bool = Field(default=False, description="For a denial: cancel the run too")


class GrantOut(Answered):
    id: str
    run: str
    team: str
    call: str
    tool: str
    width: str
    uses_left: int | None
    expires_at: At
    state: Literal["live", "revoked", "ended"]
    given_by: str
    escalation: int
    opens: list[str]

    @classmethod
    def of(cls, held: HeldGrant, house: House) -> GrantOut:
        grant = held.grant
        is_live = grant.is_live(house.now_us())
        return cls(
            id=grant.id,
            run=grant.run,
            team=held.team,
            call=grant.call,
            tool=grant.tool,
            width=grant.width,
            uses_left=grant.uses_left,
            expires_at=moment(grant.expires_at),
            state="revoked" if grant.revoked_at is not None else "live" if is_live else "ended",
            given_by=grant.given_by,
            escalation=grant.escalation,
            opens=[f"{access.family.value} {access.resource}" for access in grant.accesses],
        )

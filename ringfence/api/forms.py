"""The forms of the API: what may be sent, and what is answered. Outside data enters here, so extra keys are refused.

Times are ISO 8601 in UTC; money is integer micro-dollars. Text of models, tools, repositories and people is answered
as it is: whoever shows it must escape it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from ringfence.api.house import House
from ringfence.api.reading import HeldGrant, RunLine, Waiting, model_name
from ringfence.auth.people import PersonRecord, Team
from ringfence.auth.roles import Permission, Role
from ringfence.auth.tokens import Token
from ringfence.voting import card_of
from ringfence_agents.runs import RunRecord
from ringfence_audit.events import JsonValue
from ringfence_audit.facts import Entry
from ringfence_tools.clock import moment
from ringfence_tools.escalations import Vote

T = TypeVar("T")
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
TEAM = r"^([a-z0-9][a-z0-9._-]{0,62}|\*)$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
TeamName = Annotated[str, StringConstraints(pattern=TEAM)]
RunPath = Annotated[str, Path(pattern=r"^[a-z][a-z0-9]{0,23}$", description="A run's id")]
CardPath = Annotated[int, Path(ge=1, le=2**53, description="The number of E-…")]
NamePath = Annotated[str, Path(pattern=NAME)]
Limit = Annotated[int, Query(ge=1, le=200)]
TeamQuery = Annotated[str | None, Query(pattern=NAME, description="Only this team's")]
Line = Annotated[str, StringConstraints(max_length=500)]
Words = Annotated[str, StringConstraints(max_length=32_000)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"\S")]


def _whole(value: object) -> object:
    """`5.0` is the integer 5 in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Given(BaseModel):
    """What may be sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Answered(BaseModel):
    """What is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageOf(Answered, Generic[T]):
    """`next` is the `after` of the following page; null on the last."""

    items: list[T]
    next: str | None


def page(items: list[T], limit: int, next_of: str | None) -> PageOf[T]:
    return PageOf[T](items=items, next=next_of if len(items) == limit else None)


class NewTask(Given):
    text: Annotated[str, StringConstraints(min_length=1, max_length=32_768, pattern=r"\S")]
    repository: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="An https URL; a path only where the operator offers a folder of repositories"
    )
    team: Name | None = Field(default=None, description="The team that it is for")
    profile: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(@[0-9]{1,9})?$")] = "default"
    budget: Annotated[str, StringConstraints(max_length=200)] = Field(default="", description="Such as usd=1,wall=20m")


class TaskOpened(Answered):
    task: str
    run: str


class RunOut(Answered):
    id: str
    task: str
    text: str
    repository: str
    team: str
    state: str
    waits_for: str
    detail: str
    profile: str
    model: str
    on_behalf_of: str
    turn: int
    cost_micro_usd: int
    input_tokens: int
    output_tokens: int
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of_line(cls, line: RunLine) -> RunOut:
        return cls(
            id=line.id,
            task=line.task,
            text=line.text,
            repository=line.repository,
            team=line.team,
            state=line.state.value,
            waits_for=line.waits_for.value,
            detail=line.detail,
            profile=line.profile,
            model=line.model,
            on_behalf_of=line.person,
            turn=line.turn,
            cost_micro_usd=line.cost_micro_usd,
            input_tokens=line.input_tokens,
            output_tokens=line.output_tokens,
            created_at=moment(line.created_at),
            ended_at=None if line.ended_at is None else moment(line.ended_at),
        )

    @classmethod
    def of(cls, run: RunRecord) -> RunOut:
        return cls(
            id=run.id,
            task=run.task,
            text=run.task_text,
            repository=run.repository,
            team=run.team,
            state=run.state.value,
            waits_for=run.waits_for.value,
            detail=run.detail,
            profile=run.profile,
            model=model_name(run.model),
            on_behalf_of=run.on_behalf_of,
            turn=run.turn,
            cost_micro_usd=run.cost_micro_usd,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            created_at=run.created_at,
            ended_at=run.ended_at,
        )


class Said(Given):
    text: Annotated[str, StringConstraints(min_length=1, max_length=32_000, pattern=r"\S")]


class Because(Given):
    reason: Reason


class Caps(Given):
    """What the run's own budget is set to; a unit that is left out stays as it is."""

    reason: Reason
    usd_micro: Annotated[int, Field(ge=0, le=10**12), BeforeValidator(_whole)] | None = None
    tokens: Annotated[int, Field(ge=0, le=10**12), BeforeValidator(_whole)] | None = None
    tool_calls: Annotated[int, Field(ge=0, le=10**9), BeforeValidator(_whole)] | None = None
    wall_s: Annotated[int, Field(ge=0, le=10**8), BeforeValidator(_whole)] | None = None


class Done(Answered):
    ok: Literal[True] = True


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
    voted_at: datetime
    approver: str = "attested by the server"

    @classmethod
    def of(cls, vote: Vote) -> VoteOut:
        return cls(
            person=vote.person,
            verdict=vote.verdict,
            groups=list(vote.groups),
            width=vote.width,
            note=vote.note,
            voted_at=moment(vote.voted_at),
        )


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
    opened_at: datetime
    expires_at: datetime
    settled_at: datetime | None
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
    findings: Annotated[
        list[Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)]], Field(max_length=1000)
    ] = []
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
    expires_at: datetime
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


class EntryOut(Answered):
    position: int
    kind: str
    run: str
    call: str
    actor: str
    on_behalf_of: str
    time: datetime
    n: int
    previous: str | None
    data: dict[str, object]

    @classmethod
    def of(cls, entry: Entry) -> EntryOut:
        return cls(
            position=entry.position,
            kind=entry.kind,
            run=entry.run,
            call=entry.call,
            actor=entry.actor,
            on_behalf_of=entry.on_behalf_of,
            time=entry.time,
            n=entry.n,
            previous=entry.previous,
            data=dict(entry.data),
        )


class ProofOut(Answered):
    """RFC 6962: the leaf is SHA-256 of 0x00 and the bytes; `path` leads to `root`, which `checkpoint` signs."""

    entry: EntryOut
    raw_base64: str
    leaf: str
    size: int
    path: list[str]
    root: str
    checkpoint: str | None
    is_proved: bool


class VerdictOut(Answered):
    grade: str
    text: str
    size: int
    at: datetime | None


class TeamOut(Answered):
    name: str
    title: str
    created_at: datetime

    @classmethod
    def of(cls, team: Team) -> TeamOut:
        return cls(name=team.name, title=team.title, created_at=moment(team.created_at))


class NewTeam(Given):
    name: Name
    title: Line = ""


class Place(Given):
    team: TeamName
    role: Annotated[Role, Field(strict=False)]


class GroupGiven(Given):
    team: TeamName
    name: Name


class NewPerson(Given):
    name: Name
    display: Line = ""
    email: Line = ""
    kind: Literal["person", "service"] = "person"


class Places(Given):
    roles: Annotated[list[Place], Field(max_length=500)]
    groups: Annotated[list[GroupGiven], Field(max_length=500)] = []


class PlaceOut(Answered):
    team: str
    role: Role


class GroupOut(Answered):
    team: str
    name: str


class PersonOut(Answered):
    name: str
    kind: str
    display: str
    email: str
    is_enrolled: bool
    is_disabled: bool
    issuer: str
    roles: list[PlaceOut]
    groups: list[GroupOut]
    created_at: datetime

    @classmethod
    def of(cls, person: PersonRecord) -> PersonOut:
        return cls(
            name=person.name,
            kind=person.kind,
            display=person.display,
            email=person.email,
            is_enrolled=person.has_password or bool(person.issuer),
            is_disabled=person.is_disabled,
            issuer=person.issuer,
            roles=[PlaceOut(team=each.team, role=each.role) for each in person.memberships],
            groups=[GroupOut(team=place.team, name=place.name) for place in person.groups],
            created_at=moment(person.created_at),
        )


class Invitation(Answered):
    url: str = Field(description="Opens once, within a day")


class Me(Answered):
    name: str
    display: str
    kind: str
    how: str
    roles: list[PlaceOut]
    groups: list[GroupOut]
    permissions: dict[str, list[Permission]] = Field(description="By team; * is every team")


class NewToken(Given):
    scopes: Annotated[list[Annotated[Permission, Field(strict=False)]], Field(min_length=1, max_length=50)]
    label: Line = ""
    days: Annotated[int, Field(ge=1, le=366), BeforeValidator(_whole)] = 30
    person: Name | None = Field(default=None, description="For a service account; by people.manage only")


class LoginGiven(Given):
    name: Annotated[str, StringConstraints(max_length=64)]
    password: Annotated[str, StringConstraints(max_length=512)]
    code: Annotated[str, StringConstraints(max_length=16)]
    label: Line = ""


class TokenMade(Answered):
    id: str
    token: str = Field(description="Shown once; empty where this key made the token before")
    expires_at: datetime


class TokenOut(Answered):
    id: str
    person: str
    scopes: list[Permission]
    label: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    used_at: datetime | None

    @classmethod
    def of(cls, token: Token) -> TokenOut:
        return cls(
            id=token.id,
            person=token.person,
            scopes=sorted(token.scopes),
            label=token.label,
            created_by=token.created_by,
            created_at=moment(token.created_at),
            expires_at=moment(token.expires_at),
            revoked_at=None if token.revoked_at is None else moment(token.revoked_at),
            used_at=moment(token.used_at) if token.used_at else None,
        )


class ProfileLine(Answered):
    name: str
    place: Literal["built in", "published"]
    version: int | None
    description: str
    problem: str


class ProfileOut(Answered):
    name: str
    version: int
    description: str
    policy_version: str
    words: list[str] = Field(description="What it allows, asks and forbids, in plain words")
    document: str = Field(description="YAML, with what it extends merged in")


class TryCall(Given):
    call: Annotated[str, StringConstraints(min_length=1, max_length=8000)] = Field(
        description="`shell pytest -q`, `network GET https://example.org/`, `files write /etc/hosts` …"
    )


class TryAnswer(Answered):
    effect: Literal["allow", "escalate", "forbid"]
    rules: list[str]
    reason: str
    instead: str
    any_of: list[str]
    all_of: list[str]


class Stopped(Answered):
    runs: list[str]


class StopGiven(Given):
    reason: Reason
    team: Name | None = Field(default=None, description="One team's runs; without it, every run")


class SandboxOut(Answered):
    id: str
    run: str
    team: str
    state: str
    worker: str


def json_of(value: BaseModel) -> dict[str, JsonValue]:
    """As stored for an idempotency key."""
    plain: dict[str, JsonValue] = value.model_dump(mode="json")
    return plain

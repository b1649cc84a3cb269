"""The inbox: what waits for this reviewer, and one card beside it. Works without scripts: keys press its buttons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import Connection
from starlette.responses import Response

from ringfence.api import reading
from ringfence.api.access import HouseHere, require
from ringfence.api.coverage import Coverage, coverage_of
from ringfence.api.deciding import cast, may_cast, open_finding, opened, permission_for
from ringfence.api.forms.cards import NewVote
from ringfence.api.house import House
from ringfence.api.problems import DOMAIN, Unseen, problem_of
from ringfence.api.reading import Waiting
from ringfence.api.waiting import alike_waiting, inbox_page
from ringfence.auth.identity import Identity
from ringfence.auth.roles import Permission
from ringfence.console.visiting import Visitor, see, views_of
from ringfence.voting import card_of, is_as_shown, is_for, pretty_arguments
from ringfence_tools import escalations
from ringfence_tools.card import Card
from ringfence_tools.escalations import EscalationState, Vote

router = APIRouter()
Number = Annotated[int, Path(ge=1, le=2**53)]
Scope = Literal["mine", "all"]
After = Annotated[int | None, Query(ge=1, le=2**53)]
IN_PAGE = 50


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the list; `alike` cards wait on the same matter, this one included."""

    number: int
    headline: str
    first: str
    findings: int
    team: str
    person: str
    expires_at: int
    alike: int


@dataclass(frozen=True, slots=True)
class Asked:
    """Which page of the list stands beside the card."""

    scope: Scope = "mine"
    after: int | None = None

    @property
    def query(self) -> str:
        """For links within the page, with its `?`; empty for the first page of one's own."""
        kept = {"scope": "" if self.scope == "mine" else self.scope, "after": self.after or ""}
        words = urlencode({name: value for name, value in kept.items() if value})
        return f"?{words}" if words else ""

    def next(self, last: int) -> str:
        """Where the following page is."""
        return f"/inbox{replace(self, after=last).query}"


@dataclass(frozen=True, slots=True)
class Pane:
    """One card as this person sees it."""

    waiting: Waiting
    card: Card
    opened: frozenset[int]
    votes: Sequence[Vote]
    is_open: bool
    is_mine: bool
    """This person may say something to it."""
    may_approve: bool
    has_voted: bool
    is_as_shown: bool
    arguments: str
    coverage: Coverage | None

    @property
    def unopened(self) -> tuple[int, ...]:
        return tuple(n for n in range(1, len(self.card.findings) + 1) if n not in self.opened)

    @property
    def is_locking(self) -> bool:
        """Whether findings are opened one by one: only where this person's approval could follow."""
        return self.is_open and self.may_approve

    @property
    def is_unlocked(self) -> bool:
        return self.is_mine and self.may_approve and not self.unopened and self.is_as_shown


@router.get("/inbox")
async def inbox(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    scope: Scope = "mine",
    after: After = None,
    done: int = 0,
) -> HTMLResponse:
    return await _page(request, house, visitor, None, Asked(scope, after), done=done)


@router.get("/inbox/{number}")
async def card(
    request: Request, house: HouseHere, visitor: Visitor, number: Number, scope: Scope = "mine", after: After = None
) -> HTMLResponse:
    return await _page(request, house, visitor, number, Asked(scope, after))


@router.post("/inbox/{number}/findings/{finding}")
async def open_one(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    number: Number,
    finding: Annotated[int, Path(ge=1, le=1000)],
) -> RedirectResponse:
    """Reading a finding is a step of deciding: it is noted for those who may approve, others just see it."""
    waiting = await house.store.read(lambda c: reading.seen_escalation(c, visitor, number))
    await require(request, visitor, Permission.DECIDE, waiting.team)
    if finding > len(card_of(waiting.escalation).findings):
        raise Unseen("finding")
    if waiting.escalation.is_open(house.now_us()):
        await house.store.write(lambda tx: open_finding(tx, waiting.escalation, visitor, finding))
    return see(f"/inbox/{number}#finding-{finding}")


@router.post("/inbox/{number}/vote")
async def vote(
    request: Request,
    house: HouseHere,
    visitor: Visitor,
    number: Number,
    verdict: Annotated[Literal["once", "task", "deny", "stop", "edit", "answer"], Form()],
    digest: Annotated[str, Form(pattern=r"^[0-9a-f]{64}$")],
    guidance: Annotated[str, Form(max_length=32_000)] = "",
    arguments: Annotated[str, Form(max_length=8 << 20)] = "",
    text: Annotated[str, Form(max_length=32_000)] = "",
) -> Response:
    waiting = await house.store.read(lambda c: reading.seen_escalation(c, visitor, number))
    given = NewVote(
        verdict={"once": "approve", "task": "approve", "stop": "deny"}.get(verdict, verdict),  # type: ignore[arg-type]  # pydantic checks it
        digest=digest,
        width="task" if verdict == "task" else "once",
        guidance=guidance,
        arguments=arguments,
        text=text,
        stop=verdict == "stop",
    )
    await may_cast(request, visitor, waiting, given)
    try:
        await house.store.write(lambda tx: cast(tx, house, visitor, waiting, given))
    except DOMAIN as error:
        found = problem_of(error)
        if found.status not in (403, 409):
            raise
        kept = {"guidance": guidance, "arguments": arguments, "text": text}
        return await _page(
            request, house, visitor, number, Asked(), error=f"{found.detail}. {found.fix}".rstrip(". ") + ".",
            kept=kept, status=found.status,
        )  # fmt: skip
    return see(f"/inbox?done={number}")


async def _page(
    request: Request,
    house: House,
    visitor: Identity,
    number: int | None,
    asked: Asked,
    *,
    done: int = 0,
    error: str = "",
    kept: dict[str, str] | None = None,
    status: int = 200,
) -> HTMLResponse:
    def look(connection: Connection) -> dict[str, object]:
        now_us, is_mine = house.now_us(), asked.scope == "mine"
        waiting = inbox_page(connection, visitor, now_us, is_mine=is_mine, after=asked.after, limit=IN_PAGE + 1)
        shown = waiting[:IN_PAGE]
        chosen = number if number is not None else (shown[0].escalation.id if shown else None)
        matters = sorted({one.escalation.matter for one in shown})
        return {
            "rows": _rows(shown, alike_waiting(connection, visitor, now_us, matters, is_mine=is_mine)),
            "older": asked.next(shown[-1].escalation.id) if len(waiting) > IN_PAGE else "",
            "pane": None if chosen is None else _pane(connection, house, visitor, chosen),
            "done": _done(connection, visitor, done) if done else None,
        }

    found = await house.store.read(look)
    values = {**found, "asked": asked, "error": error, "kept": kept or {}, "is_chosen": number is not None}
    return views_of(request).page(request, "inbox.html", values, identity=visitor, status=status)


def _rows(waiting: Sequence[Waiting], alike: Mapping[str, int]) -> list[Row]:
    """One line for each matter, in the order of its first card."""
    rows: dict[str, Row] = {}
    for one in waiting:
        found = one.escalation
        if found.matter in rows:
            continue
        card = card_of(found)
        rows[found.matter] = Row(
            number=found.id,
            headline=card.headline,
            first=card.runs[0] if card.runs else "",
            findings=len(card.findings),
            team=one.team,
            person=found.requester,
            expires_at=found.expires_at,
            alike=alike.get(found.matter, 1),
        )
    return list(rows.values())


def _pane(connection: Connection, house: House, visitor: Identity, number: int) -> Pane:
    waiting = reading.seen_escalation(connection, visitor, number)
    found, card = waiting.escalation, card_of(waiting.escalation)
    votes = escalations.votes_of(connection, found.id)
    is_open = found.is_open(house.now_us())
    may = visitor.may(permission_for(visitor, waiting, "deny"), waiting.team)
    is_shown = not is_open or is_as_shown(connection, found, house.toolbox)
    return Pane(
        waiting=waiting,
        card=card,
        opened=frozenset(opened(connection, found, visitor)),
        votes=votes,
        is_open=is_open,
        is_mine=is_open and may and is_for(found, visitor.person_in(waiting.team)),
        may_approve=visitor.may(Permission.DECIDE, waiting.team),
        has_voted=any(vote.person == visitor.name for vote in votes),
        is_as_shown=is_shown,
        arguments=pretty_arguments(found) if found.kind == "call" else found.arguments,
        coverage=coverage_of(connection, waiting, house.now_us()) if card.grant else None,
    )


def _done(connection: Connection, visitor: Identity, number: int) -> tuple[int, EscalationState] | None:
    """What became of the card just voted on, as the tables have it."""
    try:
        found = reading.seen_escalation(connection, visitor, number).escalation
    except Unseen:
        return None
    return found.id, found.state

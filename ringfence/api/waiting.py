"""What waits for people, and cards in lists: asked by the tables' own columns, a page at a time.

Who may decide is said once more by `voting.is_for` when a vote is cast; what is here chooses what a list shows, and a
test holds both equal. Pages are keysets: the cursor is the number of the last card of the page before.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select, tuple_

from ringfence.api.problems import Unseen
from ringfence.api.reading import TEXT_SHOWN, Waiting
from ringfence.auth.identity import Identity, Reach
from ringfence.auth.roles import EVERY_TEAM, Permission
from ringfence_agents.schema import runs, tasks
from ringfence_tools import escalations
from ringfence_tools.calls import EscalationId
from ringfence_tools.escalations import EscalationState
from ringfence_tools.schema import asked_groups
from ringfence_tools.schema import escalations as cards

_IDS = select(cards.c.id)


def inbox_page(
    connection: Connection,
    identity: Identity,
    now_us: int,
    *,
    is_mine: bool,
    after: int | None = None,
    limit: int = 50,
) -> tuple[Waiting, ...]:
    """What waits: cards with findings first, then what expires first. `is_mine`: only what this person may decide.

    Raises `Unseen` for a cursor that names no card of the reach.
    """
    reach = identity.reach(Permission.READ)
    if reach.is_nowhere:
        return ()
    query = _IDS.where(*_open(identity, reach, now_us, is_mine=is_mine))
    if after is not None:
        query = query.where(tuple_(cards.c.rank, cards.c.expires_at, cards.c.id) > _place(connection, reach, after))
    query = query.order_by(cards.c.rank, cards.c.expires_at, cards.c.id).limit(limit)
    return _waiting(connection, [row.id for row in connection.execute(query)])


def alike_waiting(
    connection: Connection, identity: Identity, now_us: int, matters: Sequence[str], *, is_mine: bool
) -> dict[str, int]:
    """How many open cards of the inbox are on each of these matters, over all its pages."""
    reach = identity.reach(Permission.READ)
    if reach.is_nowhere or not matters:
        return {}
    query = (
        select(cards.c.matter, func.count().label("total"))
        .where(cards.c.matter.in_(matters), *_open(identity, reach, now_us, is_mine=is_mine))
        .group_by(cards.c.matter)
    )
    return {row.matter: row.total for row in connection.execute(query)}


def escalation_page(
    connection: Connection,
    reach: Reach,
    *,
    state: EscalationState | None = None,
    run: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> tuple[Waiting, ...]:
    """Newest first."""
    if reach.is_nowhere:
        return ()
    # One walk along an index for each team; the newest of them all are the page.
    teams: Sequence[str | None] = [None] if reach.is_everywhere else sorted(reach.teams)
    found: list[int] = []
    for team in teams:
        query = _IDS.order_by(cards.c.id.desc()).limit(limit)
        if team is not None:
            query = query.where(cards.c.team == team)
        if state is not None:
            query = query.where(cards.c.state == state.value)
        if run is not None:
            query = query.where(cards.c.run == run)
        if after is not None:
            query = query.where(cards.c.id < after)
        found += [row.id for row in connection.execute(query)]
    return _waiting(connection, sorted(found, reverse=True)[:limit])


def _open(identity: Identity, reach: Reach, now_us: int, *, is_mine: bool) -> list[ColumnElement[bool]]:
    where = [cards.c.state == EscalationState.OPEN.value, cards.c.expires_at > now_us]
    if not reach.is_everywhere:
        where.append(cards.c.team.in_(sorted(reach.teams)))
    return [*where, _is_mine(identity)] if is_mine else where


def _is_mine(identity: Identity) -> ColumnElement[bool]:
    """`voting.is_for`, and the role, as a condition on the row."""
    is_own = cards.c.requester == identity.name
    deciding = identity.reach(Permission.DECIDE)
    may = is_own if deciding.is_nowhere else or_(is_own, cards.c.team.in_(sorted(deciding.teams)))
    asked = select(asked_groups.c.escalation).where(asked_groups.c.escalation == cards.c.id)
    counts = or_(~exists(asked), exists(asked.where(_is_held(identity))))
    votes = and_(or_(cards.c.four_eyes == 0, ~is_own), counts)
    is_for = or_(and_(cards.c.kind == "question", is_own), votes)
    return is_for if deciding.is_everywhere else and_(may, is_for)


def _is_held(identity: Identity) -> ColumnElement[bool]:
    """Whether the asked group is one that this person holds for the card's team (`Identity.person_in`)."""
    names: dict[str, list[str]] = {}
    for place in identity.groups:
        names.setdefault(place.team, []).append(place.name)
    everywhere = asked_groups.c.name.in_(names.pop(EVERY_TEAM, []))
    within = [and_(cards.c.team == team, asked_groups.c.name.in_(held)) for team, held in sorted(names.items())]
    return or_(everywhere, *within)


def _place(connection: Connection, reach: Reach, number: int) -> ColumnElement[tuple[int, int, int]]:
    query = select(cards.c.rank, cards.c.expires_at, cards.c.team).where(cards.c.id == number)
    row = connection.execute(query).first()
    if row is None or row.team not in reach:
        raise Unseen("escalation")
    return tuple_(row.rank, row.expires_at, number)


def _waiting(connection: Connection, numbers: Sequence[int]) -> tuple[Waiting, ...]:
    """These cards with team and task, in this order."""
    query: Select[tuple[object, ...]] = (
        select(cards.c.id, cards.c.team, func.substr(tasks.c.text, 1, TEXT_SHOWN).label("text"))
        .join(runs, runs.c.id == cards.c.run)
        .join(tasks, tasks.c.id == runs.c.task)
        .where(cards.c.id.in_(numbers))
    )
    about = {row.id: row for row in connection.execute(query)} if numbers else {}
    found = {one.id: one for one in escalations.by_ids(connection, [EscalationId(number) for number in about])}
    return tuple(Waiting(found[n], about[n].team, about[n].text) for n in map(EscalationId, numbers) if n in found)

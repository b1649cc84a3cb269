"""What people see of tasks, runs, grants and one card: queries that never return what the caller's teams do not hold.

Pages are keysets: the cursor is the id of the last row of the page before. Lists read only the columns that they show,
so that a long profile or task text costs nothing. Lists of cards are in `waiting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, func, select, tuple_

from ringfence.api.problems import Unseen
from ringfence.auth.identity import Identity, Reach
from ringfence.auth.roles import Permission
from ringfence.models import REPLAY
from ringfence_agents.errors import RunNotFound
from ringfence_agents.runs import RunRecord, RunState, WaitsFor, load
from ringfence_agents.schema import runs, tasks
from ringfence_tools import escalations, grants
from ringfence_tools.calls import EscalationId, RunId
from ringfence_tools.errors import NotFound
from ringfence_tools.escalations import Escalation
from ringfence_tools.grants import Grant
from ringfence_tools.schema import grants as grants_table

TEXT_SHOWN = 400


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in a list. `text` is the beginning of its task's; hostile, like all text here."""

    id: str
    task: str
    text: str
    repository: str
    team: str
    state: RunState
    waits_for: WaitsFor
    detail: str
    profile: str
    model: str
    on_behalf_of: str
    turn: int
    cost_micro_usd: int
    input_tokens: int
    output_tokens: int
    created_at: int
    ended_at: int | None


_LINE = select(
    runs.c.id,
    runs.c.task,
    func.substr(tasks.c.text, 1, TEXT_SHOWN).label("text"),
    tasks.c.repository,
    runs.c.team,
    runs.c.state,
    runs.c.waits_for,
    func.substr(runs.c.detail, 1, TEXT_SHOWN).label("detail"),
    runs.c.profile,
    runs.c.model,
    runs.c.on_behalf_of,
    runs.c.turn,
    runs.c.cost_micro_usd,
    runs.c.input_tokens,
    runs.c.output_tokens,
    runs.c.created_at,
    runs.c.ended_at,
).join(tasks, tasks.c.id == runs.c.task)


def run_lines(
    connection: Connection,
    reach: Reach,
    *,
    states: Sequence[RunState] = (),
    team: str | None = None,
    person: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> tuple[RunLine, ...]:
    """Newest first. Raises `Unseen` for a cursor that names no run of the reach."""
    if reach.is_nowhere:
        return ()
    teams: Sequence[str | None] = [None] if reach.is_everywhere else sorted(reach.teams)
    if team is not None:
        teams = [team] if team in reach else []
    cursor = None if after is None else _cursor(connection, reach, after)
    wanted: Sequence[str | None] = [state.value for state in states] or [None]
    newest = [
        row
        for one in teams
        for state in wanted
        for row in connection.execute(_newest(one, state, person, cursor=cursor, limit=limit))
    ]
    newest.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    order = {row.id: place for place, row in enumerate(newest[:limit])}
    listed: Select[tuple[object, ...]] = _LINE.where(runs.c.id.in_(order))
    rows = connection.execute(listed) if order else ()
    return tuple(sorted((_line(row) for row in rows), key=lambda line: order[line.id]))


def _newest(
    team: str | None, state: str | None, person: str | None, *, cursor: tuple[int, str] | None, limit: int
) -> Select[tuple[object, ...]]:
    """Ids of one team's runs in one state, newest first: a walk along one index, however many runs there are."""
    query = select(runs.c.id, runs.c.created_at).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
    if team is not None:
        query = query.where(runs.c.team == team)
    if state is not None:
        query = query.where(runs.c.state == state)
    if person is not None:
        query = query.where(runs.c.on_behalf_of == person)
    if cursor is not None:
        query = query.where(tuple_(runs.c.created_at, runs.c.id) < tuple_(*cursor))
    return query


def _cursor(connection: Connection, reach: Reach, run: str) -> tuple[int, str]:
    row = connection.execute(select(runs.c.created_at, runs.c.team).where(runs.c.id == run)).first()
    if row is None or row.team not in reach:
        raise Unseen("run")
    return row.created_at, run


def seen_run(connection: Connection, identity: Identity, run: str) -> RunRecord:
    """Raises `Unseen`, whether there is no such run or it is another team's."""
    try:
        record = load(connection, RunId(run))
    except RunNotFound as error:
        raise Unseen("run") from error
    if not identity.may(Permission.READ, record.team):
        raise Unseen("run")
    return record


@dataclass(frozen=True, slots=True)
class Waiting:
    """A card with the team of its run."""

    escalation: Escalation
    team: str
    task_text: str


def seen_escalation(connection: Connection, identity: Identity, number: int) -> Waiting:
    """Raises `Unseen`, whether there is no such card or it is another team's."""
    try:
        found = escalations.get(connection, EscalationId(number))
    except NotFound as error:
        raise Unseen("escalation") from error
    try:
        record = seen_run(connection, identity, found.key.run)
    except Unseen as error:
        raise Unseen("escalation") from error
    return Waiting(found, record.team, record.task_text)


@dataclass(frozen=True, slots=True)
class HeldGrant:
    grant: Grant
    team: str


def grant_page(
    connection: Connection, reach: Reach, *, run: str | None = None, after: str | None = None, limit: int = 50
) -> tuple[HeldGrant, ...]:
    """By id."""
    if reach.is_nowhere:
        return ()
    query = _within(select(grants_table.c.id, runs.c.team).join(runs, runs.c.id == grants_table.c.run), reach).order_by(
        grants_table.c.id
    )
    if run is not None:
        query = query.where(grants_table.c.run == run)
    if after is not None:
        query = query.where(grants_table.c.id > after)
    teams = {row.id: row.team for row in connection.execute(query.limit(limit))}
    return tuple(HeldGrant(grant, teams[grant.id]) for grant in grants.by_ids(connection, tuple(teams)))


def _within(query: Select[tuple[object, ...]], reach: Reach) -> Select[tuple[object, ...]]:
    return query if reach.is_everywhere else query.where(runs.c.team.in_(sorted(reach.teams)))


def model_name(word: str) -> str:
    """The word for a run's model as others see it: a recording's path on this machine is nobody's business."""
    return "a recording" if word.startswith(REPLAY) else word


def _line(row: Row[tuple[object, ...]]) -> RunLine:
    return RunLine(
        id=row.id,
        task=row.task,
        text=row.text,
        repository=row.repository,
        team=row.team,
        state=RunState(row.state),
        waits_for=WaitsFor(row.waits_for),
        detail=row.detail,
        profile=row.profile,
        model=row.model,
        on_behalf_of=row.on_behalf_of,
        turn=row.turn,
        cost_micro_usd=row.cost_micro_usd,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )

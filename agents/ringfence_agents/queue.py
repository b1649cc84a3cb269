"""The queue: which run a worker takes next, and why another still waits.

Fair: among what is ready, the highest priority first, then the team and profile with the fewest runs in hand, then
the oldest. Limits per team, per profile and in all are judged inside the claiming transaction, over every worker. A
team that queues ten thousand runs never hides the one of another: each team and profile has a line of its own.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, bindparam, exists, func, or_, select, update

from ringfence_agents.runs import RunState, SandboxState, WaitsFor
from ringfence_agents.schema import runs
from ringfence_audit.port import Transaction
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros
from ringfence_tools.ledger import CallState
from ringfence_tools.schema import calls, escalations

LINE_LIMIT = 2_000
"""How many ready runs of one team and profile are looked at to tell where a run stands."""
CLAIMING = 0x52494E47
"""The key of PostgreSQL's lock under which runs are chosen, one worker after another."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many runs may be in hand at once, over all workers. A team or profile that is not named has no limit."""

    in_all: int = 1_000
    teams: Mapping[str, int] = field(default_factory=dict)
    profiles: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that could be taken if there is room."""

    run: RunId
    team: str
    profile: str
    priority: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands: how many ready ones go before it, and what holds it back ("" for nothing but its turn)."""

    ahead: int
    held_by: str


def ready(connection: Connection, now_us: int, *, each: int = LINE_LIMIT) -> tuple[Ready, ...]:
    """What wants a worker: queued, left by a dead worker, or parked until a time that has come.

    The first `each` of every team and profile, by priority and age.
    """
    is_left = and_(runs.c.state == RunState.RUNNING.value, runs.c.lease_until <= now_us)
    is_due = and_(
        runs.c.state == RunState.PARKED.value, runs.c.waits_for != WaitsFor.PAUSE.value, runs.c.wake_at <= now_us
    )
    order = (runs.c.priority.desc(), runs.c.created_at, runs.c.id)
    place = func.row_number().over(partition_by=(runs.c.team, runs.c.profile), order_by=order).label("place")
    columns = (runs.c.id, runs.c.team, runs.c.profile, runs.c.priority, runs.c.created_at, place)
    is_free = or_(runs.c.worker == "", runs.c.lease_until <= now_us)
    is_ready = or_(runs.c.state == RunState.QUEUED.value, is_left, is_due)
    wanting = select(*columns).where(is_ready, is_free).subquery()
    query = select(wanting).where(wanting.c.place <= each)
    return tuple(
        Ready(RunId(row.id), row.team, row.profile, row.priority, row.created_at) for row in connection.execute(query)
    )


@dataclass(frozen=True, slots=True)
class InHand:
    """How many runs the workers hold."""

    teams: Counter[str]
    profiles: Counter[str]

    @property
    def in_all(self) -> int:
        return self.teams.total()


def in_hand(connection: Connection, now_us: int) -> InHand:
    """Runs whose lease stands."""
    query = (
        select(runs.c.team, runs.c.profile, func.count())
        .where(runs.c.worker != "", runs.c.lease_until > now_us, runs.c.state == RunState.RUNNING.value)
        .group_by(runs.c.team, runs.c.profile)
    )
    teams: Counter[str] = Counter()
    profiles: Counter[str] = Counter()
    for team, profile, count in connection.execute(query):
        teams[team] += count
        profiles[profile] += count
    return InHand(teams, profiles)


def held_by(candidate: Ready, hand: InHand, limits: QueueLimits) -> str:
    """Which limit keeps a ready run waiting, in words, or "" for none. Pure."""
    if hand.in_all >= limits.in_all:
        return f"{hand.in_all} of {limits.in_all} runs are going on"
    team = limits.teams.get(candidate.team)
    if team is not None and hand.teams[candidate.team] >= team:
        return f"team {candidate.team} has {hand.teams[candidate.team]} of {team} runs going on"
    profile = limits.profiles.get(candidate.profile)
    if profile is not None and hand.profiles[candidate.profile] >= profile:
        return f"profile {candidate.profile} has {hand.profiles[candidate.profile]} of {profile} runs going on"
    return ""


def line(candidates: Iterable[Ready], hand: InHand) -> Iterator[Ready]:
    """Ready runs in the order in which they would be taken, each counted as in hand from then on. Pure."""
    lines: dict[tuple[str, str], deque[Ready]] = {}
    for one in sorted(candidates, key=lambda one: (-one.priority, one.created_at, one.run)):
        lines.setdefault((one.team, one.profile), deque()).append(one)
    teams, profiles = Counter(hand.teams), Counter(hand.profiles)
    while lines:
        key = min(lines, key=lambda key: _rank(lines[key][0], teams, profiles))
        one = lines[key].popleft()
        if not lines[key]:
            del lines[key]
        teams[one.team] += 1
        profiles[one.profile] += 1
        yield one


def _rank(one: Ready, teams: Counter[str], profiles: Counter[str]) -> tuple[int, int, int, int, str]:
    return (-one.priority, teams[one.team], profiles[one.profile], one.created_at, one.run)


def next_run(connection: Connection, now_us: int, limits: QueueLimits) -> RunId | None:
    """The run to be claimed now; None where none is ready or none has room."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(CLAIMING)))
    candidates = ready(connection, now_us, each=1)
    if not candidates:
        return None
    hand = in_hand(connection, now_us)
    ranked = sorted(candidates, key=lambda one: _rank(one, hand.teams, hand.profiles))
    return next((one.run for one in ranked if not held_by(one, hand, limits)), None)


def places(connection: Connection, now_us: int, limits: QueueLimits) -> dict[RunId, Place]:
    """Where every ready run stands in the queue."""
    hand = in_hand(connection, now_us)
    return {
        one.run: Place(ahead, held_by(one, hand, limits))
        for ahead, one in enumerate(line(ready(connection, now_us), hand))
    }


def place(connection: Connection, run: RunId, now_us: int, limits: QueueLimits) -> Place | None:
    """Where a ready run stands in the queue; None where it is not ready."""
    return places(connection, now_us, limits).get(run)


def long_waiting(connection: Connection, since_us: int, *, limit: int = 1) -> tuple[RunId, ...]:
    """Runs that have waited since then and still have a sandbox, the longest first."""
    query = (
        select(runs.c.id)
        .where(
            runs.c.state == RunState.PARKED.value,
            runs.c.sandbox_state == SandboxState.READY.value,
            runs.c.moved_at <= since_us,
            runs.c.worker == "",
        )
        .order_by(runs.c.moved_at)
        .limit(limit)
    )
    return tuple(RunId(row.id) for row in connection.execute(query))


_DECIDED = (
    exists()
    .where(calls.c.run == runs.c.id, calls.c.state == CallState.WAITING.value)
    .where(escalations.c.id == calls.c.escalation)
    .where(or_(escalations.c.state != "open", escalations.c.expires_at <= bindparam("in_now")))
)
_WAITS = and_(runs.c.state == RunState.PARKED.value, runs.c.waits_for == WaitsFor.PEOPLE.value)


def decided(connection: Connection, now_us: int) -> tuple[RunId, ...]:
    """Runs that wait for people and have a call that nobody needs to decide any more."""
    query = select(runs.c.id).where(_WAITS, _DECIDED).order_by(runs.c.id)
    return tuple(RunId(row.id) for row in connection.execute(query, {"in_now": now_us}))


def wake_decided(tx: Transaction) -> int:
    """Queue those of `decided`. Returns how many.

    The safety net behind `control.wake`: a vote cast by a program that did not call it is found here, as is one on a
    card that several runs share.
    """
    found = decided(tx.connection, micros(tx.now))
    for run in found:
        queued = {"state": RunState.QUEUED.value, "waits_for": "", "wake_at": None, "detail": ""}
        tx.connection.execute(update(runs).where(runs.c.id == run, _WAITS).values(queued))
    return len(found)

"""Who uses a profile: the live runs of each team, by the version that they were begun with and keep."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ringfence.auth.identity import Reach
from ringfence_agents.runs import RunState
from ringfence_agents.schema import runs
from ringfence_tools.profile_versions import profile_versions

_LIVE = tuple(state.value for state in RunState if not state.is_end)
RUNS_NAMED = 20


@dataclass(frozen=True, slots=True)
class Use:
    """Live runs of one team. `is_published` is false where they keep another text than was published under this
    number: a file's, or one that was moved to a cluster. `since` is when the oldest of them began, microseconds."""

    team: str
    version: str
    is_published: bool
    runs: int
    since: int


@dataclass(frozen=True, slots=True)
class LiveRun:
    id: str
    team: str
    version: str
    state: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Uses:
    """`newest` names some of the runs; the rest are counted in `teams`."""

    teams: tuple[Use, ...]
    newest: tuple[LiveRun, ...]


def uses_of(connection: Connection, reach: Reach, name: str) -> Uses:
    """Of the teams that the caller reads; by team and version."""
    live = (runs.c.profile == name) & runs.c.state.in_(_LIVE)
    if not reach.is_everywhere:
        live &= runs.c.team.in_(sorted(reach.teams))
    published = select(profile_versions.c.digest).where(profile_versions.c.name == name)
    digests = set(connection.execute(published).scalars())
    counted = (
        select(
            runs.c.team,
            runs.c.profile_version,
            runs.c.profile_digest,
            func.count().label("total"),
            func.min(runs.c.created_at).label("since"),
        )
        .where(live)
        .group_by(runs.c.team, runs.c.profile_version, runs.c.profile_digest)
        .order_by(runs.c.team, runs.c.profile_version, runs.c.profile_digest)
    )
    teams: dict[tuple[str, str, bool], Use] = {}
    for row in connection.execute(counted):
        key = (row.team, row.profile_version, row.profile_digest in digests)
        before = teams.get(key)
        total = row.total + (before.runs if before else 0)
        since = min(row.since, before.since) if before else row.since
        teams[key] = Use(row.team, row.profile_version, key[2], total, since)
    named = select(runs.c.id, runs.c.team, runs.c.profile_version, runs.c.state, runs.c.created_at).where(live)
    newest = connection.execute(named.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(RUNS_NAMED))
    return Uses(
        tuple(teams.values()),
        tuple(LiveRun(row.id, row.team, row.profile_version, row.state, row.created_at) for row in newest),
    )

"""Processes are killed at every named point of the path; nothing is lost, nothing is done twice, every run ends.

`RINGFENCE_CHAOS_KILLS=1000` asks for a longer storm than the suite's, `RINGFENCE_CHAOS_SEED` for the same one again.
On a file workers, APIs and the servers inside sandboxes are killed, on PostgreSQL that server too.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ringfence_agents.runs import RunState
from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_tools.calls import ResultStatus
from tests.chaos.points import API_POINTS, DATABASE_API_POINTS, DATABASE_POINTS, WORKER_POINTS
from tests.chaos.storm import Storm, make_world, storm_over
from tests.fixtures_postgres import PostgresServer

_KILLS = os.environ.get("RINGFENCE_CHAOS_KILLS")
KILLS = int(_KILLS or "16")
KILLS_ON_POSTGRESQL = int(_KILLS or "4")
SEED = int(os.environ.get("RINGFENCE_CHAOS_SEED", "0")) or int.from_bytes(os.urandom(4), "big")


@pytest.fixture(autouse=True)
def fenced(tmp_path: Path) -> None:
    async def check() -> None:
        backend = LocalBackend(tmp_path / "check")
        await backend.check()
        await backend.close()

    try:
        asyncio.run(check())
    except IsolationUnavailable as error:
        pytest.skip(f"no local sandbox here: {error}")


def hold(storm: Storm) -> None:
    """What must hold after any storm."""
    states = storm.states()
    assert all(state.startswith(RunState.FINISHED.value) for state in states), states
    lines, statuses = storm.lines(), storm.statuses()
    assert not [line for line, count in lines.items() if count > 1], "an effect happened twice"
    assert not set(lines) - set(statuses), "an effect that the ledger does not know"
    done = {key for key, status in statuses.items() if status is ResultStatus.OK}
    assert not done - set(lines), "the ledger says done, and there is no effect"
    others = {key: status for key, status in statuses.items() if key not in done}
    assert set(others.values()) <= {ResultStatus.UNKNOWN}, others
    verdict = storm.verdict()
    assert verdict.is_intact and verdict.is_complete, (verdict, verdict.findings)


def test_a_storm_of_kills_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    print(f"\nseed {SEED}: RINGFENCE_CHAOS_SEED={SEED} repeats it")
    with storm_over(make_world(tmp_path), seed=SEED) as storm:
        storm.rage(KILLS)
        account_for(storm, {*WORKER_POINTS, *API_POINTS})


@pytest.mark.slow
@pytest.mark.postgres
def test_a_storm_in_which_postgresql_is_killed_too_loses_nothing(tmp_path: Path, own_postgres: PostgresServer) -> None:
    print(f"\nseed {SEED}: RINGFENCE_CHAOS_SEED={SEED} repeats it")
    with storm_over(make_world(tmp_path), seed=SEED, server=own_postgres) as storm:
        storm.rage(KILLS_ON_POSTGRESQL, at_once=20 if KILLS_ON_POSTGRESQL >= 100 else 3)
        account_for(storm, {*WORKER_POINTS, *API_POINTS, *DATABASE_POINTS, *DATABASE_API_POINTS})


def account_for(storm: Storm, points: set[str]) -> None:
    """What must hold, and what is told: a storm that is long enough came to every point, and left calls unknown."""
    hold(storm)
    statuses = list(storm.statuses().values())
    unknown = statuses.count(ResultStatus.UNKNOWN)
    questions = storm.asked()
    extra = sum(questions.values()) - len(questions)
    print(f"{storm.fates.total()} kills in {storm.lives} lives over {len(storm.runs)} runs: {dict(storm.fates)}")
    print(f"{len(statuses)} calls, {unknown} unknown; {sum(questions.values())} questions, {extra} asked again")
    assert extra <= storm.fates.total() * 20
    if 2 * len(points) <= storm.fates.total():
        assert unknown > 0
        assert set(storm.fates) >= points

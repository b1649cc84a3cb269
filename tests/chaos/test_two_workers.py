"""Two workers and one run: whoever lost the lease does nothing more, however long it slept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from ringfence_agents.schema import runs
from ringfence_tools.calls import ResultStatus
from tests.chaos.points import NOWHERE, Fate
from tests.chaos.storm import Storm, make_world, storm_over
from tests.chaos.test_kills import fenced, hold

__all__ = ["fenced"]
WITHIN_S = 120


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Storm]:
    with storm_over(make_world(tmp_path, turns=3, slow_s=0.5), seed=1) as storm:
        yield storm


def is_stopped(process: ForkServerProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def until_stopped(process: ForkServerProcess) -> None:
    end = time.monotonic() + WITHIN_S
    while not is_stopped(process):
        assert process.is_alive() and time.monotonic() < end, process.exitcode
        time.sleep(0.01)


@pytest.mark.parametrize("point", ["before exec", "within exec", "after intent"])
def test_a_worker_stopped_beyond_its_lease_and_woken_has_one_effect_or_none(storm: Storm, point: str) -> None:
    storm.open_runs(1)
    _, sleeper = storm.worker(Fate(point, 2, signal.SIGSTOP))
    api = storm.api(Fate(NOWHERE))
    try:
        until_stopped(sleeper)
        storm.calm(within_s=WITHIN_S)
        before = storm.lines()
        os.kill(sleeper.pid or 0, signal.SIGCONT)
        os.kill(sleeper.pid or 0, signal.SIGTERM)
        sleeper.join(WITHIN_S)
        assert sleeper.exitcode == 0
        hold(storm)
        assert storm.lines() == before
        fence = storm.read(lambda connection: connection.execute(runs.select()).one().fence)
        assert fence >= 2
        statuses = list(storm.statuses().values())
        assert statuses.count(ResultStatus.UNKNOWN) <= 1
        if point == "before exec":
            assert statuses.count(ResultStatus.UNKNOWN) == 0
    finally:
        for process in (sleeper, api):
            process.kill()
            process.join(20)


def test_two_workers_told_to_resume_the_same_runs_share_them_without_an_effect_too_many(storm: Storm) -> None:
    storm.open_runs(6)
    _, first = storm.worker(Fate(NOWHERE))
    _, second = storm.worker(Fate(NOWHERE))
    try:
        storm.calm(within_s=WITHIN_S)
        hold(storm)
        assert ResultStatus.UNKNOWN not in storm.statuses().values()
        assert not [question for question, count in storm.asked().items() if count > 1]
    finally:
        for process in (first, second):
            process.kill()
            process.join(20)

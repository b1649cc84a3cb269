"""`ringfence worker` as an operator runs it: a process of its own, real sandbox, gate and log."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringfence.errors import Mistake
from ringfence.workplan import WorkPlan, read_plan
from tests.integration.agents.household import Household


@pytest.fixture
def household(tmp_path: Path) -> Household:
    household = Household(tmp_path)
    doctor = household.types("doctor")
    if doctor.returncode == 7:
        pytest.skip(f"no local sandbox here: {doctor.stdout.strip()}")
    return household


@contextmanager
def worker(household: Household) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        household.command("worker", "--json"), env=household.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "worker"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def states(process: subprocess.Popen[str], until: str) -> list[str]:
    """The states that the worker tells, up to one."""
    seen: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(json.loads(line)["state"])
        if seen[-1] == until:
            return seen
    raise AssertionError(f"the worker ended after {seen}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("at_once: many", "at_once"),
        ("workers: 3", "workers"),
        ("teams: {a: -1}", "teams.a"),
        ("[", "not YAML"),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "workers.yaml").write_text(text)
    with pytest.raises(Mistake, match=says):
        read_plan(tmp_path)


def test_without_a_plan_the_defaults_hold(tmp_path: Path) -> None:
    assert read_plan(tmp_path) == WorkPlan()


def test_a_worker_takes_what_is_queued_and_drains_on_sigterm(household: Household) -> None:
    with worker(household) as process:
        household.until_present()
        queued = household.types(*household.run_words("--detach"))
        assert queued.returncode == 0, queued.stderr
        assert states(process, "finished")[-1] == "finished"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert household.types("audit", "verify").returncode == 0


def test_a_worker_that_is_told_to_go_leaves_its_run_in_the_queue_and_the_list_says_why(household: Household) -> None:
    with worker(household) as process:
        household.until_present()
        assert household.types(*household.run_words("--detach", model=household.slow_transcript())).returncode == 0
        states(process, "running")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    listed = json.loads(household.types("runs", "list", "--json").stdout)
    assert listed["state"] == "queued"
    assert "no worker is there" in listed["why"]
    with worker(household) as process:
        states(process, "finished")

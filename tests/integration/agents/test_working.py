"""`ringfence worker` as an operator runs it: a process of its own, real sandbox, gate and log."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from ringfence.errors import Mistake
from ringfence.workplan import WorkPlan, read_plan
from ringfence_agents.roster import present, sign_in
from ringfence_agents.runs import RunState, WaitsFor, load
from ringfence_audit.events import Kind
from ringfence_audit.query import story
from ringfence_tools.calls import RunId
from ringfence_tools.clock import micros
from ringfence_tools.schema import calls
from tests.integration.agents.household import Household, shell, transcript


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


ENDLESS = "echo one > one.txt; while :; do echo x >> log.txt; sleep 0.01; done"


def open_run(household: Household, *, model: Path | None = None) -> RunId:
    """Put a run into the queue of the worker that is there."""
    queued = household.types(*household.run_words("--detach", model=model))
    assert queued.returncode == 0, queued.stderr
    return RunId(json.loads(queued.stdout.splitlines()[0])["run_id"])


def until_acting(household: Household, run: RunId, tool: str) -> None:
    """Wait until a call of the run has its intent."""
    acting = (calls.c.run == run) & (calls.c.state == "intent") & (calls.c.tool == tool)
    household.until(lambda connection: connection.execute(select(calls.c.idx).where(acting)).first() is not None)


def test_a_worker_takes_what_is_queued_and_leaves_it_in_the_queue_when_it_is_told_to_go(household: Household) -> None:
    with worker(household) as process:
        household.until(lambda connection: bool(present(connection, micros(datetime.now(UTC)))))
        open_run(household)
        assert states(process, "finished")[-1] == "finished"
        slow = open_run(household, model=transcript(household.folder / "slow.jsonl", [shell("sleep 3")]))
        until_acting(household, slow, "shell")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    listed = json.loads(household.types("runs", "list", "--state", "queued", "--json").stdout)
    assert (listed["run_id"], listed["ahead"]) == (slow, 0)
    assert "no worker is there" in listed["why"]
    assert household.types("audit", "verify").returncode == 0


def test_a_stop_seals_the_files_before_it_ends_what_runs(household: Household) -> None:
    with worker(household) as process:
        household.until(lambda connection: bool(present(connection, micros(datetime.now(UTC)))))
        run = open_run(household, model=transcript(household.folder / "endless.jsonl", [shell(ENDLESS)]))
        until_acting(household, run, "shell")
        assert household.types("stop", run).returncode == 2
        stopped = household.types("stop", run, "--preserve", "--reason", "it runs wild", "--json")
        assert stopped.returncode == 0, stopped.stderr
        assert states(process, "cancelled")[-1] == "cancelled"
    preserved = json.loads(stopped.stdout.splitlines()[-1])
    assert preserved["type"] == "preserved"
    with tarfile.open(preserved["archive"]) as archive:
        assert {"workspace/log.txt", "workspace/one.txt"} <= set(archive.getnames())
    found = household.read(lambda connection: list(story(connection, run)))
    seals = [
        entry.data["sha256"] for entry in found if entry.data.get("action") == "sealed" and entry.kind == Kind.SANDBOX
    ]
    assert seals == [hashlib.sha256(Path(preserved["archive"]).read_bytes()).hexdigest()]


def test_a_stop_without_a_worker_ends_what_waits_by_itself(household: Household) -> None:
    household.types("doctor")
    household.write(lambda tx: sign_in(tx, "gone", at_once=1, driving=0))
    run = open_run(household)
    stopped = household.types("stop", "--all", "--reason", "going home")
    assert stopped.returncode == 0, stopped.stderr
    assert household.read(lambda connection: load(connection, run)).state is RunState.CANCELLED


def test_a_machine_without_a_runs_folder_pauses_the_run_and_says_what_to_mount(household: Household) -> None:
    household.write(lambda tx: sign_in(tx, "elsewhere", at_once=1, driving=0))
    run = open_run(household)
    away = household.settings.runs.rename(household.folder / "not-mounted")
    refused = household.types("runs", "resume", run)
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "share RINGFENCE_HOME/runs" in refused.stderr
    record = household.read(lambda connection: load(connection, run))
    assert (record.state, record.waits_for, record.sandbox_id) == (RunState.PARKED, WaitsFor.PAUSE, "")
    assert not (household.settings.runs / run).exists()
    shutil.rmtree(household.settings.runs, ignore_errors=True)
    away.rename(household.settings.runs)
    assert household.types("runs", "resume", run).returncode == 0


def test_a_fork_begins_with_the_files_of_its_step_in_a_sandbox_of_its_own(household: Household) -> None:
    model = transcript(household.folder / "two.jsonl", [shell("echo 1 > one.txt")], [shell("echo 2 > two.txt")])
    done = household.types(*household.run_words(model=model))
    run = str(json.loads(done.stdout.splitlines()[0])["run_id"])
    assert household.types("runs", "fork", run, "--from", "9").returncode == 2
    made = json.loads(household.types("runs", "fork", run, "--from", "1", "--json").stdout)["run_id"]
    transcript(model, [shell("ls; echo 3 > three.txt")])
    resumed = household.types("runs", "resume", made, "--json")
    assert resumed.returncode == 0, resumed.stderr
    patch = Path(json.loads(resumed.stdout.splitlines()[-1])["patch"]).read_text()
    assert [name for name in ("one.txt", "two.txt", "three.txt") if name in patch] == ["one.txt", "three.txt"]

"""The main job as a person types it: real sandbox, gate and log, with the recorded model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.api.verdicts import check_in_process
from ringfence.settings import Settings
from ringfence_audit.offline import NotProved, parse_key, verify_export
from tests.contracts.sandbox.repositories import git

ROOT = Path(__file__).resolve().parents[3]
PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: test, owner: owner, version: 1}
extends: default@1
rules:
  - {id: net-unlisted, ask: [network], who: {any: [owner]}, expires: 1s, widest_grant: task}
  - {id: upload, ask: [network], sends: true, who: {any: [owner]}, expires: 1s, widest_grant: once}
  - {id: keys, forbid: [files], paths: ["/root/.ssh/**", "/home/deploy/.ssh/**"]}
  - {id: outside, ask: [files], paths: ["/home/finance/**"], who: {any: [owner]}, expires: 1s, widest_grant: once}
"""


class Person:
    """Someone at a shell with a state folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.repository = folder / "invoices"
        shutil.copytree(ROOT / "examples" / "invoices", self.repository)
        git(self.repository, "init", "-q", "-b", "main")
        git(self.repository, "add", "-A")
        git(self.repository, "commit", "-q", "-m", "start")
        self.profile = folder / "test.yaml"
        self.profile.write_text(PROFILE)
        self.transcript = folder / "transcript.jsonl"
        recorded = (ROOT / "examples" / "demo" / "transcript.jsonl").read_text()
        self.transcript.write_text(recorded.replace("@FINANCE@", "/home/finance"))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "ringfence", *words]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RINGFENCE_"))}
        return {**kept, "RINGFENCE_HOME": str(self.home), "RINGFENCE_CONFIG": str(self.home / "config")}

    def types(self, *words: str, where: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.environment, cwd=where, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip

    def run_words(self) -> tuple[str, ...]:
        model = f"replay:{self.transcript}"
        options = ("--repo", str(self.repository), "--profile", str(self.profile), "--model", model, "--json")
        return ("run", *options, "Fix the failing test")

    def records(self, done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    found = Person(tmp_path)
    doctor = found.types("doctor")
    if doctor.returncode == 7:
        pytest.skip(f"no local sandbox here: {doctor.stdout.strip()}")
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "--repo", "/absent", "x", "--model", "replay:/absent"), "transcript"),
        (("run", "x"), "model"),
        (("run", "--profile", "absent", "x"), "profile"),
        (("review", "show", "E-1"), "nothing has run here yet"),
        (("deliver", "r1"), "nothing has run here yet"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(person: Person, words: tuple[str, ...], says: str) -> None:
    done = person.types(*words)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert says in done.stderr.lower()
    assert not list((person.home / "runs").glob("*"))


def test_a_dirty_tree_is_refused_with_what_to_do(person: Person) -> None:
    (person.repository / "README.md").write_text("changed")
    done = person.types(*person.run_words())
    assert done.returncode == 2
    assert "--allow-dirty" in done.stderr


def test_a_hostile_repository_runs_nothing_on_the_host(person: Person, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hook = person.repository / ".git" / "fsmonitor.sh"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    for name in ("core.fsmonitor", "core.hooksPath", "core.sshCommand", "diff.external"):
        git(person.repository, "config", name, str(hook))
    git(person.repository, "config", "filter.evil.clean", str(hook))
    (person.repository / ".git" / "info").mkdir(exist_ok=True)
    (person.repository / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    mark.unlink(missing_ok=True)
    assert person.types(*person.run_words()).returncode == 0
    assert not mark.exists()


async def test_modules_of_a_repository_run_only_within_its_sandbox(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    planted = f"open({str(mark)!r}, 'a').write(__name__)\n"
    for name in ("typer", "json", "yaml", "sqlalchemy", "langgraph", "ringfence_tools"):
        (person.repository / f"{name}.py").write_text(planted)
    (person.repository / "ringfence").mkdir()
    (person.repository / "ringfence" / "__init__.py").write_text(planted)
    # Unseen by git, so that the recorded model finds the tree that it knows.
    (person.repository / ".git" / "info" / "exclude").write_text("*\n")
    started = person.types(*person.run_words(), "--detach", where=person.repository)
    assert started.returncode == 0, started.stderr
    run = str(person.records(started)[0]["run_id"])
    assert _state_until_ended(person, run) == "finished"
    monkeypatch.chdir(person.repository)
    verdict = await check_in_process(Settings(home=person.home, config=person.home / "config"))()
    assert (verdict.is_good, mark.exists()) == (True, False)


def _state_until_ended(person: Person, run: str) -> str:
    state = "queued"
    while state in ("queued", "running", "parked"):
        listed = person.records(person.types("runs", "list", "--json"))
        state = next(str(record["state"]) for record in listed if record["run_id"] == run)
    return state


def test_a_task_ends_with_a_patch_that_turns_the_tests_green(person: Person) -> None:
    done = person.types(*person.run_words())
    assert done.returncode == 0, done.stderr
    records = person.records(done)
    result = records[-1]
    assert set(result) == {
        "type", "run_id", "status", "summary", "patch", "tests", "cost_micro_usd", "tool_calls", "audit_head",
    }  # fmt: skip
    assert (result["type"], result["status"], result["tool_calls"]) == ("result", "finished", 10)
    waited = person.records(person.types("audit", "query", "--kind", "escalation.settled", "--json"))
    assert {record["data"]["state"] for record in waited if record["type"] == "entry"} == {"expired"}  # type: ignore[index]
    verdict = person.types("audit", "verify")
    assert (verdict.returncode, "intact, not anchored" in verdict.stdout) == (0, True)
    assert person.types("deliver", str(result["run_id"])).returncode == 0
    tests = [sys.executable, "-m", "unittest"]
    assert subprocess.run(tests, cwd=person.repository, capture_output=True, check=False).returncode == 0
    assert not list((person.home / "sandboxes" / "sandboxes").glob("*"))


def test_a_run_killed_in_the_middle_goes_on_without_repeating_anything(person: Person) -> None:
    with subprocess.Popen(
        person.command(*person.run_words()), env=person.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        run = json.loads(process.stdout.readline())["run_id"]
        for line in process.stdout:
            if "pyp" in line and "ratekit" in line:
                break
        process.send_signal(signal.SIGKILL)
    resumed = person.types("runs", "resume", run, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert person.records(resumed)[-1]["tool_calls"] == 10
    intents = person.records(
        person.types("audit", "query", "--run", run, "--kind", "call.intent", "--limit", "100", "--json")
    )
    calls = [record["call"] for record in intents]
    assert len(calls) == len(set(calls))
    assert person.types("audit", "verify").returncode == 0


def test_an_export_proves_a_whole_run_to_anyone_who_has_the_key(person: Person, tmp_path: Path) -> None:
    run = str(person.records(person.types(*person.run_words()))[-1]["run_id"])
    assert person.types("audit", "export", "--run", "absent", "--out", str(tmp_path / "x")).returncode == 2
    out = tmp_path / "story.jsonl"
    told = person.types("audit", "export", "--run", run, "--out", str(out))
    assert told.returncode == 0
    key = parse_key(told.stdout.split("--key ")[1].strip())
    whole = out.read_bytes().splitlines(keepends=True)
    assert "the whole run, from its first entry to its end" in verify_export(whole, [key]).text
    with pytest.raises(NotProved, match="entries of the run before it are missing"):
        verify_export([line for line in whole if b'\\"call.intent\\"' not in line], [key])

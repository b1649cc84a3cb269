"""The command line as a person or a script meets it: a real process, a real sandbox, a recorded model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.exits import Exit
from tests.integration.cli.repositories import git, make_repository

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.sandbox


def _ringfence(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RINGFENCE_"))}
    environment = {**kept, "RINGFENCE_HOME": str(home), "RINGFENCE_CONFIG": str(home.parent / "config"), **more}
    command = [sys.executable, "-m", "ringfence", *arguments]
    return subprocess.run(
        command,
        env=environment,
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("person") / "state"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project", {"app.py": "x = 1\n"})


def _transcript(folder: Path, *calls: tuple[str, dict[str, str]]) -> Path:
    lines: list[dict[str, object]] = [{"kind": "transcript", "version": 1, "model": "test"}]
    for name, arguments in calls:
        lines.append({"kind": "answer", "content": "", "tool_calls": [{"name": name, "arguments": arguments}]})
    path = folder / "transcript.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


FIX = ("write_file", {"path": "app.py", "content": "x = 2\n"})
DONE = ("finish", {"status": "success", "summary": "done"})


def _assert_one_line(result: subprocess.CompletedProcess[str], code: Exit, says: str) -> None:
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("ringfence: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def _nothing_made(home: Path) -> bool:
    return not (home / "runs").exists() or not list((home / "runs").iterdir())


def test_a_path_that_is_no_repository_is_one_line_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    replay = f"replay:{_transcript(tmp_path, DONE)}"
    result = _ringfence(home, "run", "--repo", str(tmp_path / "nowhere"), "--model", replay, "x")
    _assert_one_line(result, Exit.USAGE, "nowhere")
    assert _nothing_made(home)


def test_a_missing_profile_is_one_line_and_leaves_nothing(home: Path, project: Path) -> None:
    result = _ringfence(home, "run", "--repo", str(project), "--profile", "no-such", "x")
    _assert_one_line(result, Exit.USAGE, "no-such")
    assert _nothing_made(home)


def test_a_dirty_tree_is_one_line_and_leaves_nothing(home: Path, project: Path, tmp_path: Path) -> None:
    (project / "app.py").write_text("x = 3\n")
    replay = f"replay:{_transcript(tmp_path, DONE)}"
    result = _ringfence(home, "run", "--repo", str(project), "--model", replay, "x")
    _assert_one_line(result, Exit.USAGE, "--allow-dirty")
    assert _nothing_made(home)


def test_no_model_is_one_line_that_says_how_to_name_one(home: Path, project: Path) -> None:
    _assert_one_line(_ringfence(home, "run", "--repo", str(project), "x"), Exit.USAGE, "--model")


def test_an_unreachable_model_is_one_line_and_leaves_nothing(home: Path, project: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        result = _ringfence(home, "run", "--repo", str(project), "--model", "m", "x", OPENAI_BASE_URL=url)
    _assert_one_line(result, Exit.UNAVAILABLE, "does not answer")
    assert _nothing_made(home)


def test_asking_in_an_empty_place_makes_no_state(home: Path) -> None:
    _assert_one_line(_ringfence(home, "runs", "list"), Exit.USAGE, "nothing has run here yet")
    assert not home.exists()


def test_a_run_ends_with_a_result_whose_patch_is_delivered_once(home: Path, project: Path, tmp_path: Path) -> None:
    replay = f"replay:{_transcript(tmp_path, FIX, DONE)}"
    result = _ringfence(home, "run", "--json", "--repo", str(project), "--model", replay, "make it two")
    assert result.returncode == Exit.FINISHED, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert set(last) == {
        *("type", "run_id", "status", "summary", "patch", "tests", "cost_micro_usd", "tool_calls", "audit_head")
    }
    assert (last["type"], last["status"], last["tool_calls"]) == ("result", "finished", 2)
    git(project, "apply", "--check", last["patch"])
    delivered = _ringfence(home, "deliver", last["run_id"])
    assert delivered.returncode == Exit.FINISHED, delivered.stderr
    assert (project / "app.py").read_text() == "x = 2\n"
    verified = _ringfence(home, "audit", "verify")
    assert verified.returncode == Exit.FINISHED, verified.stderr
    assert "intact, not anchored" in verified.stdout


def test_a_call_out_of_scope_waits_and_a_vote_elsewhere_lets_it_go_on(
    home: Path, project: Path, tmp_path: Path
) -> None:
    replay = f"replay:{_transcript(tmp_path, ('read_file', {'path': '/home/x/y'}), FIX, DONE)}"
    arguments = ["run", "--json", "--detach", "--repo", str(project), "--model", replay, "read it"]
    started = _ringfence(home, *arguments)
    assert started.returncode == Exit.FINISHED, started.stderr
    run = json.loads(started.stdout.splitlines()[0])["run_id"]
    card = _first_card(home)
    denied = _ringfence(home, "review", "deny", f"E-{card}", "--guidance", "not yours")
    assert denied.returncode == Exit.FINISHED, denied.stderr
    assert _state_until_ended(home, run) == "finished"
    story = _ringfence(home, "audit", "query", "--run", run, "--json")
    assert '"not yours"' in story.stdout


def _first_card(home: Path) -> int:
    for _ in range(60):
        shown = _ringfence(home, "review", "list", "--json")
        for line in shown.stdout.splitlines():
            found = json.loads(line)
            if found["type"] == "escalation":
                return int(found["escalation"])
    raise AssertionError("no card was opened")


def _state_until_ended(home: Path, run: str) -> str:
    state = ""
    for _ in range(60):
        for line in _ringfence(home, "runs", "list", "--json").stdout.splitlines():
            found = json.loads(line)
            if found["run_id"] == run:
                state = found["state"]
        if state not in ("queued", "running", "parked"):
            return state
    return state


def test_the_demo_finishes_without_a_terminal_and_leaves_nothing(home: Path) -> None:
    result = _ringfence(home, "demo")
    assert result.returncode == Exit.FINISHED, result.stdout + result.stderr
    for said in (
        "a recording",
        "E-1 expired, decided by nobody",
        "intact, not anchored",
        "NOT INTACT: entry",
        "ringfence run --repo PATH",
    ):
        assert said in result.stdout
    assert "\x1b" not in result.stdout
    assert "ringfence deliver" not in result.stdout, "its state folder is gone by then"
    assert not list(home.glob("demo-*"))

"""Mistakes of people, as a script meets them: one line, a code that is not zero, nothing half-made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.exits import Exit
from tests.integration.cli.repositories import make_repository

HEAD = '{"kind": "transcript", "version": 1, "model": "test"}\n'
FINISH = '{"kind": "answer", "tool_calls": [{"name": "finish", "arguments": {"status": "success", "summary": "x"}}]}\n'

PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: broken, owner: owner, version: 1}
cedar: "permit ("
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_repository(tmp_path / "project", {"app.py": "x = 1\n", "deep/x": ""})
    (tmp_path / "transcript.jsonl").write_text(HEAD + FINISH)
    (tmp_path / "broken.jsonl").write_text("nope\n")
    (tmp_path / "cedar.yaml").write_text(PROFILE)
    return tmp_path


def types(place: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RINGFENCE_"))}
    own = {"RINGFENCE_HOME": str(place / "home" / "state"), "RINGFENCE_CONFIG": str(place / "config")}
    return subprocess.run(
        [*before, sys.executable, "-m", "ringfence", *words],
        env=kept | own,
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: Exit, says: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("ringfence: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


REPLAY = ("--model", "replay:transcript.jsonl")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fly",), Exit.USAGE, "No such command 'fly'. See `ringfence --help`"),
        (("run", "--repo", "project"), Exit.USAGE, "See `ringfence run --help`"),
        (("run", "--repo", "project", "--model", "replay:broken.jsonl", "x"), Exit.USAGE, "line 1"),
        (("run", "--repo", "project", *REPLAY, "--budget", "usd=many", "x"), Exit.USAGE, "usd=2.50,tool_calls=100"),
        (("run", "--repo", "http://example.org/x.git", *REPLAY, "x"), Exit.USAGE, "https"),
        (("run", "--repo", "project", "--profile", "cedar.yaml", *REPLAY, "x"), Exit.USAGE, "policies cannot be read"),
        (("profile", "write", "absent/x.yaml"), Exit.USAGE, "Check the path"),
    ],
)
def test_a_mistake_is_one_line_and_begins_no_run(place: Path, words: tuple[str, ...], code: Exit, says: str) -> None:
    assert_one_line(types(place, *words), code, says)
    assert not list((place / "home" / "state" / "runs").glob("*"))


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="mounts a small disk: needs root")
@pytest.mark.parametrize("size", ["64k", "4m"])
def test_a_full_disk_is_one_line_and_begins_no_run(place: Path, size: str) -> None:
    (place / "home").mkdir()
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && "$@"; code=$?; test ! -e "$0/state/runs" && exit $code'
    before = ("unshare", "--mount", "sh", "-c", script, str(place / "home"))
    done = types(place, "run", "--repo", "project", *REPLAY, "x", before=before)
    assert_one_line(done, Exit.UNAVAILABLE, "disk")


def test_a_state_folder_that_cannot_be_made_is_one_line(place: Path) -> None:
    (place / "home").write_text("a file stands here")
    done = types(place, "run", "--repo", "project", *REPLAY, "x")
    assert_one_line(done, Exit.USAGE, "RINGFENCE_HOME")

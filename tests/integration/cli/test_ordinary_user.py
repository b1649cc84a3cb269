"""The main job as an ordinary user, and where a container allows no user namespaces. As root, who becomes one."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.exits import Exit
from tests.integration.cli.repositories import make_repository

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="becomes another user: needs root"),
]
UID = "61235"
PYTHON = "/usr/bin/python3"
HEAD = '{"kind": "transcript", "version": 1, "model": "test"}\n'
ANSWERS = (
    '{"kind": "answer", "tool_calls": [{"name": "shell", "arguments": {"command": "echo x = 2 > app.py"}}]}\n'
    '{"kind": "answer", "tool_calls": [{"name": "finish", "arguments": {"status": "success", "summary": "done"}}]}\n'
)
DENY_NAMESPACES = """
import ctypes, os, sys
program = bytes.fromhex(sys.argv[1])
kept = ctypes.create_string_buffer(program)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, ctypes.addressof(kept))), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Not below pytest's own folder, which is closed to all but root."""
    with tempfile.TemporaryDirectory(prefix="ringfence-user-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        make_repository(folder / "project", {"app.py": "x = 1\n"})
        (folder / "transcript.jsonl").write_text(HEAD + ANSWERS)
        (folder / "home").mkdir()
        os.chown(folder / "home", int(UID), int(UID))
        yield folder


def as_user(place: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A command as an ordinary user, with the system's Python: root's own cannot be lent to another user."""
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", version]).returncode != 0:
        pytest.skip(f"{PYTHON} is not of the version that the packages are for")
    root = Path(__file__).resolve().parents[3]
    places = [str(root), *(str(root / name) for name in ("audit", "sandbox", "tools", "agents"))]
    environment = {
        "PATH": os.defpath,
        "HOME": str(place / "home"),
        "PYTHONPATH": ":".join([*places, sysconfig.get_path("purelib")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    rank = ("setpriv", "--reuid", UID, "--regid", UID, "--clear-groups")
    return subprocess.run(
        [*rank, *before, PYTHON, "-m", "ringfence", *words],
        env=environment,
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_user_namespaces_one_line_names_the_step_and_nothing_is_begun(place: Path) -> None:
    before = (PYTHON, "-c", DENY_NAMESPACES, _filter().hex())
    run = ("run", "--repo", "project", "--model", "replay:transcript.jsonl", "x")
    done = as_user(place, *run, before=before)
    assert (done.returncode, done.stdout) == (Exit.ISOLATION, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert "docker run --security-opt seccomp=unconfined" in done.stderr
    assert not list((place / "home" / ".local" / "state" / "ringfence" / "runs").glob("*"))


def test_a_run_of_an_ordinary_user_ends_with_a_patch(place: Path) -> None:
    done = as_user(place, "run", "--repo", "project", "--model", "replay:transcript.jsonl", "--json", "x")
    assert done.returncode == Exit.FINISHED, done.stdout + done.stderr
    patch = Path(json.loads(done.stdout.splitlines()[-1])["patch"])
    assert patch.stat().st_uid == int(UID)
    assert "+x = 2" in patch.read_text()


def _filter() -> bytes:
    """clone3 is not there; unshare, and clone with CLONE_NEWUSER, are not permitted (x86-64 numbers, seccomp(2))."""
    load, equal, holds, give = 0x20, 0x15, 0x45, 0x06
    absent, refused, allowed = 0x00050000 | 38, 0x00050000 | 1, 0x7FFF0000
    steps = (
        (load, 0, 0, 0),
        (equal, 0, 1, 435), (give, 0, 0, absent),
        (equal, 0, 1, 272), (give, 0, 0, refused),
        (equal, 0, 3, 56), (load, 0, 0, 16), (holds, 0, 1, 0x10000000), (give, 0, 0, refused),
        (give, 0, 0, allowed),
    )  # fmt: skip
    return b"".join(struct.pack("HBBI", *step) for step in steps)

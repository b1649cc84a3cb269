from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.patch_reading import Change, read_patch

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and name.lower() != ".git" and len(name.encode()) < 200
)
CONTENTS = st.one_of(
    st.binary(max_size=200), st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"- x\n", b"end"])).map(b"".join)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.dictionaries(NAMES, CONTENTS, max_size=4), after=st.dictionaries(NAMES, CONTENTS, max_size=4))
def test_what_git_writes_is_read_as_git_means_it(
    before: dict[str, bytes], after: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("repository")
    _git(folder, "init", "-q")
    base = _commit(folder, before)
    tip = _commit(folder, after)
    patch = _git(folder, "diff", "--binary", "--full-index", base, tip)
    names = _git(folder, "diff", "--name-status", "-z", "--no-renames", base, tip).split(b"\0")
    expected = set(names[1::2])
    found = {
        path for change in read_patch(patch) for path in (change.path, *_left_behind(change.change, change.old_path))
    }
    assert found == expected


def _left_behind(change: Change, old_path: bytes) -> tuple[bytes, ...]:
    return (old_path,) if change is Change.RENAMED else ()


def _commit(folder: Path, files: dict[str, bytes]) -> str:
    for old in folder.iterdir():
        if old.name != ".git":
            old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    _git(folder, "add", "-A", "-f")
    _git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "x")
    return _git(folder, "rev-parse", "HEAD").decode().strip()


def _git(folder: Path, *arguments: str) -> bytes:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    result = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, timeout=60, check=True
    )
    return result.stdout

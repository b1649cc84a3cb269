from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringfence.delivery import apply, prepare
from ringfence.errors import Mistake, Refused
from ringfence.patch_reading import PatchRefused
from tests.integration.cli.repositories import git, make_repository, patch_of

NOBODY: frozenset[str] = frozenset()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "checkout", {"app.py": "a\nb\nc\n", "lib/x.py": "x\n"})


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


def test_a_patch_into_the_git_folder_is_refused_and_changes_nothing(checkout: Path) -> None:
    (checkout / "hook").write_text("#!/bin/sh\n")
    patch = (
        patch_of(checkout).replace(b"b/hook", b"b/.git/hooks/pre-commit").replace(b"a/hook", b"a/.git/hooks/pre-commit")
    )
    before = _tree(checkout)
    with pytest.raises(PatchRefused, match=r"inside a \.git folder"):
        prepare(patch)
    assert _tree(checkout) == before


def test_writing_through_a_link_of_the_checkout_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "lib" / "x.py").write_text("changed\n")
    delivery = prepare(patch_of(checkout))
    outside = tmp_path / "outside"
    (checkout / "lib").rename(outside)
    (checkout / "lib").symlink_to(outside)
    with pytest.raises(Refused, match="writes through it"):
        apply(delivery, checkout, seen=NOBODY)
    assert (outside / "x.py").read_text() == "x\n"


@pytest.mark.parametrize("kind", ["symlink", "executable", "mode"])
def test_links_and_modes_that_no_person_saw_are_refused(checkout: Path, kind: str) -> None:
    if kind == "symlink":
        (checkout / "new").symlink_to("/etc/passwd")
    elif kind == "executable":
        (checkout / "new").write_text("#!/bin/sh\n")
        (checkout / "new").chmod(0o755)
    else:
        (checkout / "app.py").chmod(0o755)
    delivery = prepare(patch_of(checkout))
    (finding,) = delivery.notable
    before = _tree(checkout)
    with pytest.raises(Refused, match="accept it by name"):
        apply(delivery, checkout, seen=NOBODY)
    assert _tree(checkout) == before
    apply(delivery, checkout, seen=frozenset({finding.path}))
    assert os.path.lexists(checkout / finding.path)


def test_a_checkout_that_moved_on_is_refused_and_left_as_it_is(checkout: Path) -> None:
    (checkout / "app.py").write_text("a\nB\nc\n")
    (checkout / "other.py").write_text("new\n")
    delivery = prepare(patch_of(checkout))
    (checkout / "app.py").write_text("quite\ndifferent\n")
    before = _tree(checkout)
    with pytest.raises(Mistake, match="does not apply"):
        apply(delivery, checkout, seen=NOBODY)
    assert _tree(checkout) == before


def test_an_empty_patch_is_refused() -> None:
    with pytest.raises(PatchRefused, match="empty"):
        prepare(b"")


def test_a_folder_that_is_no_checkout_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "app.py").write_text("B\n")
    delivery = prepare(patch_of(checkout))
    with pytest.raises(Mistake, match="not the top of a git checkout"):
        apply(delivery, tmp_path, seen=NOBODY)


def test_a_hostile_repository_runs_nothing_while_a_patch_is_applied(checkout: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (checkout / "app.py").write_text("a\nB\nc\n")
    delivery = prepare(patch_of(checkout))
    (checkout / ".gitattributes").write_text("* filter=evil diff=evil\n")
    for key in ("filter.evil.clean", "filter.evil.smudge", "core.fsmonitor", "diff.evil.command", "core.sshCommand"):
        git(checkout, "config", key, f"touch {ran}; cat")
    (checkout / ".git" / "hooks" / "post-applypatch").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (checkout / ".git" / "hooks" / "post-applypatch").chmod(0o755)
    ran.unlink(missing_ok=True)
    apply(delivery, checkout, seen=NOBODY)
    assert (checkout / "app.py").read_text() == "a\nB\nc\n"
    assert not ran.exists()


def test_additions_deletions_binaries_and_renames_arrive_as_they_were(checkout: Path) -> None:
    (checkout / "app.py").rename(checkout / "main.py")
    (checkout / "lib" / "x.py").unlink()
    (checkout / "deep" / "er").mkdir(parents=True)
    (checkout / "deep" / "er" / "ü n.bin").write_bytes(bytes(range(256)) * 20)
    expected = _tree(checkout)
    delivery = prepare(patch_of(checkout))
    apply(delivery, checkout, seen=NOBODY)
    assert _tree(checkout) == expected

"""Which repository comes in: the one that a person names, and never another that it leads to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ringfence_sandbox.errors import WorkspaceRefused
from ringfence_sandbox.source import bundle_from_path
from tests.contracts.sandbox.repositories import git, make_repository

PARTS = ("HEAD", "refs", "objects", "index")


def links(private: Path, hostile: Path) -> None:
    (hostile / ".git").mkdir(parents=True)
    for name in PARTS:
        (hostile / ".git" / name).symlink_to(private / ".git" / name)


def one_link(private: Path, hostile: Path) -> None:
    hostile.mkdir()
    (hostile / ".git").symlink_to(private / ".git")


def git_file(private: Path, hostile: Path) -> None:
    hostile.mkdir()
    (hostile / ".git").write_text(f"gitdir: {private / '.git'}\n")


def commondir(private: Path, hostile: Path) -> None:
    hostile.mkdir()
    git(hostile, "init", "-q")
    (hostile / ".git" / "commondir").write_text(f"{private / '.git'}\n")


def linked_objects(private: Path, hostile: Path) -> None:
    make_repository(hostile)
    for folder in (private / ".git" / "objects").glob("??"):
        if not (hostile / ".git" / "objects" / folder.name).exists():
            (hostile / ".git" / "objects" / folder.name).symlink_to(folder)


def linked_packs(private: Path, hostile: Path) -> None:
    git(private, "repack", "-adq")
    make_repository(hostile)
    (hostile / ".git" / "objects" / "pack").rmdir()
    (hostile / ".git" / "objects" / "pack").symlink_to(private / ".git" / "objects" / "pack")


def alternates(private: Path, hostile: Path) -> None:
    make_repository(hostile)
    (hostile / ".git" / "objects" / "info" / "alternates").write_text(f"{private / '.git' / 'objects'}\n")


def worktree_of_another(private: Path, hostile: Path) -> None:
    """Says that it is a worktree of a repository, which knows of another one."""
    hostile.mkdir()
    git(private, "worktree", "add", "-q", str(private.parent / "mine"))
    (hostile / ".git").write_text((private.parent / "mine" / ".git").read_text())


@pytest.mark.parametrize(
    "lead",
    [links, one_link, git_file, commondir, linked_objects, linked_packs, alternates, worktree_of_another],
    ids=lambda lead: lead.__name__,
)
def test_a_folder_that_leads_to_another_repository_is_refused(
    lead: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    private = make_repository(tmp_path / "private")
    (private / "secret.txt").write_text("of the person\n")
    git(private, "add", "-A")
    git(private, "commit", "-q", "-m", "secret")
    hostile = tmp_path / "hostile"
    lead(private, hostile)
    with pytest.raises(WorkspaceRefused, match=r"name it with --repo|make them its own"):
        bundle_from_path(hostile, into=tmp_path, allow_dirty=True)
    assert not list(tmp_path.glob("*.bundle"))


def test_a_linked_worktree_comes_in(tmp_path: Path) -> None:
    main = make_repository(tmp_path / "main")
    git(main, "worktree", "add", "-q", "-b", "feature", str(tmp_path / "feature"))
    assert bundle_from_path(tmp_path / "feature", into=tmp_path).branch == "feature"


def test_a_submodule_comes_in(tmp_path: Path) -> None:
    part, whole = make_repository(tmp_path / "part"), make_repository(tmp_path / "whole")
    git(whole, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(part), "part")
    assert bundle_from_path(whole / "part", into=tmp_path).commit == git(part, "rev-parse", "HEAD").strip()


def test_what_lies_behind_a_link_comes_in_where_it_is_named(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository")
    (tmp_path / "link").symlink_to(repository)
    assert bundle_from_path(tmp_path / "link", into=tmp_path).path.exists()
    (tmp_path / "repository.bundle").unlink()
    assert bundle_from_path(repository / ".git", into=tmp_path).path.exists()

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.patch_reading import Change, FileChange
from ringfence.patch_rules import notable, refusals


def _added(path: str, mode: str = "100644") -> FileChange:
    return FileChange(path.encode(), path.encode(), Change.ADDED, new_mode=mode)


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/post-checkout",
        "sub/.git/config",
        ".GIT/config",
        ".g\u200cit/config",
        ".git./config",
        ".git /config",
        "git~1/config",
        ".git::$INDEX_ALLOCATION/config",
        "..",
        "a/../../etc/passwd",
        "/etc/passwd",
        "\\\\host\\share",
        "C:/windows",
        "a\\..\\b",
        "./a",
        "a//b",
        "",
    ],
)
def test_a_path_that_no_patch_may_write_is_refused(path: str) -> None:
    assert refusals([_added(path)])


def test_a_path_outside_utf_8_is_refused() -> None:
    assert refusals([FileChange(b"\xff", b"\xff", Change.ADDED, new_mode="100644")])


def test_the_source_of_a_rename_is_checked_too() -> None:
    assert refusals([FileChange(b"a", b".git/config", Change.RENAMED)])


def test_writing_through_a_link_of_the_same_patch_is_refused() -> None:
    assert refusals([_added("link", "120000"), _added("link/authorized_keys")])


@given(st.sampled_from([".git", ".GiT", "..", ""]), st.lists(st.sampled_from(["a", "b", "c"]), max_size=3))
def test_no_surrounding_folders_make_a_bad_part_good(part: str, around: list[str]) -> None:
    assert refusals([_added("/".join([*around, part, "x"]))])


def test_ordinary_paths_pass() -> None:
    paths = ["src/app.py", ".gitignore", ".github/workflows/ci.yml", "a b/ünïcode.txt", "...", "git"]
    assert refusals([_added(path) for path in paths]) == ()


@pytest.mark.parametrize(
    "path",
    [".bashrc", "sub/.vscode/tasks.json", ".MCP.json", ".github/workflows/ci.yml", "a/.envrc", ".husky/pre-commit"],
)
def test_what_is_obeyed_without_being_asked_must_be_seen_by_a_person(path: str) -> None:
    (finding,) = notable([_added(path)])
    assert (finding.path, "obeyed" in finding.reason) == (path, True)
    assert notable([FileChange(path.encode(), path.encode(), Change.MODIFIED, old_mode="100644", new_mode="100644")])


@pytest.mark.parametrize("mode", ["120000", "160000", "100755"])
def test_new_links_gitlinks_and_executables_must_be_seen_by_a_person(mode: str) -> None:
    (finding,) = notable([_added("x", mode)])
    assert finding.path == "x"


def test_a_change_of_mode_must_be_seen_by_a_person() -> None:
    change = FileChange(b"x", b"x", Change.MODIFIED, old_mode="100644", new_mode="100755")
    assert "100755" in notable([change])[0].reason


def test_an_ordinary_change_needs_nobody() -> None:
    kept = FileChange(b"x", b"x", Change.MODIFIED, old_mode="100755", new_mode="100755")
    assert notable([_added("x"), kept]) == ()

"""What a delivered patch may do, decided over the changes that `patch_reading` found. Pure.

Two kinds of finding: what no patch may do, whoever asks (`refusals`), and what a person must have seen, each by its
path, before it is applied (`notable`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ringfence.patch_reading import Change, FileChange

SYMLINK = "120000"
GITLINK = "160000"
EXECUTABLE = "100755"
OBEYED_FILES = frozenset((
    ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile", ".envrc",
    ".gitmodules", ".gitattributes", ".gitconfig", ".mcp.json", "mcp.json", "agents.md", ".cursorrules", ".npmrc",
    ".pre-commit-config.yaml", "lefthook.yml", ".gitlab-ci.yml", "jenkinsfile", "azure-pipelines.yml", ".travis.yml",
    ".drone.yml", "bitbucket-pipelines.yml", "sitecustomize.py", "usercustomize.py", ".pdbrc", ".pythonrc", ".gdbinit",
    ".lldbinit", ".vimrc", ".exrc", ".nvimrc", ".direnvrc", ".inputrc", ".netrc", ".pypirc",
))  # fmt: skip
"""By name alone, in whatever folder: some program runs what such a file says as soon as somebody works there."""
OBEYED_FOLDERS = frozenset((
    ".vscode", ".idea", ".devcontainer", ".husky", ".circleci", ".buildkite", ".fleet", ".zed", ".cursor",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """`path` is hostile text: escape it before showing."""

    path: str
    reason: str


def refusals(changes: Sequence[FileChange]) -> tuple[Finding, ...]:
    """Every reason for which the patch is refused as a whole; none where it may go on."""
    found = []
    for change in changes:
        for path in {change.path, change.old_path}:
            reason = _path_refusal(path)
            if reason:
                found.append(Finding(path.decode("utf-8", "backslashreplace"), reason))
    return (*found, *_overlaps(changes))


def notable(changes: Iterable[FileChange]) -> tuple[Finding, ...]:
    """What a person must have seen by name: new links, gitlinks, executables, changes of mode, and what is obeyed."""
    return tuple(Finding(change.name, reason) for change in changes if (reason := _notable_reason(change)))


def _notable_reason(change: FileChange) -> str:
    if SYMLINK in (change.new_mode, change.old_mode):
        return "is a symbolic link" if change.new_mode == SYMLINK else "replaces or removes a symbolic link"
    if GITLINK in (change.new_mode, change.old_mode):
        return "is a gitlink (another repository's commit)"
    if change.change is Change.ADDED and change.new_mode == EXECUTABLE:
        return "is a new executable file"
    if any(_is_obeyed(path.decode("utf-8", "replace")) for path in (change.path, change.old_path)):
        return "is obeyed by a shell, an editor, an agent or a build server without being asked"
    if change.old_mode and change.new_mode and change.old_mode != change.new_mode:
        return f"changes its mode from {change.old_mode} to {change.new_mode}"
    return ""


def _is_obeyed(path: str) -> bool:
    *folders, name = path.casefold().split("/")
    return name in OBEYED_FILES or bool(OBEYED_FOLDERS & set(folders)) or ".github/workflows/" in path.casefold()


def _path_refusal(path: bytes) -> str:
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        return "the path is not UTF-8"
    if not text or "\0" in text:
        return "the path is empty or holds a zero byte"
    if text.startswith(("/", "\\")) or text[1:2] == ":":
        return "the path is absolute"
    for part in text.replace("\\", "/").split("/"):
        if part in ("", ".", ".."):
            return "the path leaves the repository or is not plain"
        if _is_git_folder(part):
            return "the path is inside a .git folder"
    return ""


def _is_git_folder(part: str) -> bool:
    """`.git` as any file system may read it: case, ignored characters (HFS+), trailing dots, spaces and streams, and
    the short name that NTFS gives it (CVE-2014-9390, CVE-2019-1352)."""
    plain = "".join(character for character in part if unicodedata.category(character) not in ("Cf", "Cc", "Mn"))
    plain = unicodedata.normalize("NFKC", plain).casefold().split(":")[0].rstrip(". ")
    return plain == ".git" or plain == "git~1"


def _overlaps(changes: Sequence[FileChange]) -> tuple[Finding, ...]:
    """A path that the patch makes a file or link may not be a folder of another path that it writes."""
    written = {change.path for change in changes if change.change is not Change.DELETED}
    found = []
    for path in written:
        parts = path.split(b"/")
        if any(b"/".join(parts[:count]) in written for count in range(1, len(parts))):
            found.append(
                Finding(path.decode("utf-8", "backslashreplace"), "the patch writes through a path that it creates")
            )
    return tuple(found)

"""Small git repositories for tests, made with a clean git environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def git(folder: Path, *arguments: str) -> bytes:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60, check=True).stdout


def commit_all(folder: Path) -> str:
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "--allow-empty", "-m", "x")
    return git(folder, "rev-parse", "HEAD").decode().strip()


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def make_repository(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A repository with one commit that holds `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    write_files(folder, files)
    commit_all(folder)
    return folder


def patch_of(folder: Path) -> bytes:
    """The patch of all that changed since the last commit; the folder is then put back to that commit."""
    git(folder, "add", "-A", "-f")
    patch = git(folder, "diff", "--cached", "--binary", "--full-index", "HEAD")
    git(folder, "reset", "-q", "--hard", "HEAD")
    return patch

"""Small repositories for tests, made with the machine's git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ringfence_sandbox.contract import Bundle


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "app.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("ignored/\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    return folder


def clone(bundle: Bundle, target: Path) -> Path:
    command = ["git", "clone", "-q", str(bundle.path), str(target), "-b", bundle.branch]
    subprocess.run(command, check=True, capture_output=True)
    return target


def apply(patch: bytes, checkout: Path) -> None:
    subprocess.run(["git", "apply"], input=patch, cwd=checkout, check=True)

"""Ringfence as separate processes over one state folder: what an operator has on a machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from ringfence.local_store import open_store
from ringfence.settings import Settings
from ringfence_audit.events import JsonValue
from ringfence_audit.port import Transaction
from tests.contracts.sandbox.repositories import git

T = TypeVar("T")
Calls = Sequence[tuple[str, Mapping[str, JsonValue]]]

PROFILE = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: test, owner: owner, version: 1}
extends: default@1
"""


def transcript(path: Path, *turns: Calls) -> Path:
    """A recorded model that asks for these calls, turn by turn, and then finishes."""
    lines: list[JsonValue] = [{"kind": "transcript", "version": 1, "model": "scripted", "note": ""}]
    for calls in (*turns, [("finish", {"summary": "done", "status": "success"})]):
        asked: list[JsonValue] = [
            {"id": f"c{index}", "name": name, "arguments": dict(words)} for index, (name, words) in enumerate(calls)
        ]
        usage = {"input": 10, "output": 10}
        lines.append({"kind": "answer", "content": "", "tool_calls": asked, "usage": usage})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shell(command: str) -> tuple[str, Mapping[str, JsonValue]]:
    return ("shell", {"command": command})


class Household:
    """A state folder, a small repository, a profile and a recorded model."""

    def __init__(self, folder: Path, *, profile: str = PROFILE) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.repository = folder / "shop"
        self.repository.mkdir()
        (self.repository / "README.md").write_text("A shop.\n")
        git(self.repository, "init", "-q", "-b", "main")
        git(self.repository, "add", "-A")
        git(self.repository, "commit", "-q", "-m", "start")
        self.profile = folder / "test.yaml"
        self.profile.write_text(profile)
        self.quick = transcript(folder / "quick.jsonl", [shell("echo hello > note.txt")])

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ringfence", *words]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RINGFENCE_"))}
        return {**kept, "RINGFENCE_HOME": str(self.home), "RINGFENCE_CONFIG": str(self.home / "config")}

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, config=self.home / "config")

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    def run_words(self, *options: str, model: Path | None = None) -> tuple[str, ...]:
        chosen = f"replay:{model or self.quick}"
        where = ("--repo", str(self.repository), "--profile", str(self.profile), "--model", chosen)
        return ("run", *where, *options, "--json", "Write a note")

    def read(self, work: Callable[[Connection], T]) -> T:
        with open_store(self.settings) as store:
            return store.read_now(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
        with open_store(self.settings) as store:
            return asyncio.run(store.write(work))

    def until(self, holds: Callable[[Connection], bool], *, within_s: float = 120) -> None:
        """Wait until the tables say so."""
        end = time.monotonic() + within_s
        with open_store(self.settings) as store:
            while not store.read_now(holds):
                assert time.monotonic() < end, "what was waited for did not happen"
                time.sleep(0.02)

"""A person at a shell with a state folder of their own, in this process: commands need not import everything anew."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from ringfence.cli import app
from tests.integration.programs.server import ModelServer


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass(frozen=True)
class Entry:
    call: str
    data: Mapping[str, object]


CLOSED = """\
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {name: closed, owner: owner, version: 1}
description: Nobody is asked.
extends: default@1
unmatched: forbid
rules:
  - {id: closed, forbid: [network]}
after_deny: {same_resource: refuse, end_run_at: 50}
"""


class Person:
    def __init__(self, folder: Path) -> None:
        self.home = folder / "state"
        self._config = folder / "config"

    def closed(self) -> Path:
        """A profile that asks nobody."""
        path = self.home.parent / "closed.yaml"
        path.write_text(CLOSED)
        return path

    def types(self, *words: str, model: ModelServer | None = None, base_url: str = "") -> Done:
        """Type a command; it ends with a code, and never with an exception."""
        environment: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("OPENAI_", "RINGFENCE_"))
        }
        environment |= {"RINGFENCE_HOME": str(self.home), "RINGFENCE_CONFIG": str(self._config)}
        if model is not None or base_url:
            environment["OPENAI_BASE_URL"] = base_url or (model.base_url if model is not None else "")
        said = CliRunner().invoke(app, words, env=environment, prog_name="ringfence")
        if said.exception is not None and not isinstance(said.exception, SystemExit):
            raise said.exception
        return Done(said.exit_code, said.stdout, said.stderr)

    def entries(self, kind: str) -> list[Entry]:
        """Every entry of a kind, oldest first."""
        found = self.types("audit", "query", "--kind", kind, "--limit", "1000", "--json").records
        return [Entry(str(one["call"]), one["data"]) for one in reversed(found)]  # type: ignore[arg-type]  # JSON objects

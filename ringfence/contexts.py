"""Where commands work: on this machine's state (`local`), or as a person against a server.

Kept in `contexts.json` in the configuration folder, for its owner alone, since it holds tokens. `RINGFENCE_CONTEXT`
overrules which one counts.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from ringfence.errors import Mistake

LOCAL = "local"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}\Z")


class Context(BaseModel):
    """A server, and the token that `ringfence login` was given there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    url: str
    person: str
    token: SecretStr


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    current: str = LOCAL
    contexts: dict[str, Context] = {}


@dataclass
class Contexts:
    """The file, read once; every change is written whole."""

    path: Path
    current: str = LOCAL
    known: dict[str, Context] = field(default_factory=dict)

    @classmethod
    def read(cls, config: Path) -> Contexts:
        """Raises `Mistake` where the file is open to others or not in its form."""
        path = config / "contexts.json"
        try:
            with path.open("rb") as file:
                is_open = os.fstat(file.fileno()).st_mode & 0o077
                body = file.read(1 << 20)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise Mistake(f"{path} cannot be read ({error.strerror})", fix="Check its permissions") from error
        if is_open:
            raise Mistake(f"{path} holds tokens and is open to others", fix=f"chmod 600 {path}")
        try:
            found = _File.model_validate_json(body)
        except ValidationError as error:
            raise Mistake(f"{path} is not in its form", fix="Remove it and log in again") from error
        return cls(path, found.current, dict(found.contexts))

    def active(self) -> Context | None:
        """The server that commands work against; None for this machine. Raises `Mistake` for an unknown name."""
        name = os.environ.get("RINGFENCE_CONTEXT") or self.current
        if name == LOCAL:
            return None
        if name not in self.known:
            raise Mistake(f"there is no context {name[:63]!r}", fix="`ringfence context list` shows them")
        return self.known[name]

    def keep(self, name: str, context: Context) -> None:
        """Add or replace a context, and use it. Raises `Mistake`."""
        if not NAME.match(name) or name == LOCAL:
            raise Mistake(f"{name[:63]!r} cannot name a context", fix="Use lower-case letters, digits, dots, hyphens")
        self.known[name], self.current = context, name
        self._write()

    def use(self, name: str) -> None:
        """Raises `Mistake`."""
        if name != LOCAL and name not in self.known:
            raise Mistake(f"there is no context {name[:63]!r}", fix="`ringfence context list` shows them")
        self.current = name
        self._write()

    def _write(self) -> None:
        contexts = {
            name: {"url": one.url, "person": one.person, "token": one.token.get_secret_value()}
            for name, one in self.known.items()
        }
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"current": self.current, "contexts": contexts}, file)
        part.replace(self.path)

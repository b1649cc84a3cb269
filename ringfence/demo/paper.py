"""A sandbox of paper for the demo data set: it answers what its scenario wrote down and executes nothing.

Gate, policy, cards and log around it are real. It exists so that a full console can be looked at in seconds, on
machines that cannot build a fence too; no command line offers it to a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ringfence_sandbox.contract import (
    Action,
    Backend,
    Bundle,
    CallId,
    ChangedFile,
    EgressGatekeeper,
    Ending,
    Exec,
    FileContent,
    Layer,
    Listing,
    Matches,
    Mount,
    Outcome,
    OutputSink,
    Patch,
    Proof,
    Recall,
    Sandbox,
    SandboxId,
    SandboxSpec,
    Write,
)
from ringfence_sandbox.errors import PathRefused, SandboxGone


class PaperSandbox(Sandbox):
    """`outputs`: the end of a command line → what it prints; anything else prints nothing and succeeds."""

    def __init__(self, name: SandboxId, outputs: Mapping[str, str], patch: str) -> None:
        self._name = name
        self._outputs = outputs
        self._patch = patch
        self._files: dict[str, bytes] = {}
        self._outcomes: dict[CallId, Outcome] = {}

    @property
    def id(self) -> SandboxId:
        return self._name

    @property
    def layers(self) -> Sequence[Layer]:
        return ()

    async def perform(self, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        if action.call_id not in self._outcomes:
            self._outcomes[action.call_id] = self._outcome(action)
        return self._outcomes[action.call_id]

    def _outcome(self, action: Action) -> Outcome:
        if isinstance(action, Write):
            self._files[str(action.path)] = action.content
            return Outcome(action.call_id, Ending.DONE, duration_ms=2)
        command = action.argv[-1] if isinstance(action, Exec) else ""
        said = next((text for end, text in self._outputs.items() if command.endswith(end)), "")
        code = 1 if "FAILED" in said else 0
        return Outcome(action.call_id, Ending.DONE, exit_code=code, head=said.encode(), duration_ms=340)

    async def recall(self, call_id: CallId) -> Outcome | Recall:
        return self._outcomes.get(call_id, Recall.NEVER_STARTED)

    async def acknowledge(self, call_id: CallId) -> None:
        return None

    async def load(self, bundle: Bundle) -> None:
        return None

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit_bytes: int = 1 << 20) -> FileContent:
        data = self._files.get(str(path), self._outputs.get(str(path), "").encode())
        if not data:
            raise PathRefused(f"no file {path}")
        return FileContent(data[offset : offset + limit_bytes], len(data), hashlib.sha256(data).hexdigest())

    async def list(self, path: PurePosixPath, *, depth: int = 1, limit: int = 1000) -> Listing:
        return Listing((), is_truncated=False)

    async def search(self, pattern: str, path: PurePosixPath, *, limit: int = 200) -> Matches:
        return Matches((), is_truncated=False)

    async def changed(self) -> Sequence[ChangedFile]:
        return [
            ChangedFile(path.removeprefix("/workspace/"), "modified", hashlib.sha256(data).hexdigest())
            for path, data in self._files.items()
        ]

    async def diff(self) -> Patch:
        return Patch(self._patch.encode(), "0" * 40)

    async def pack(self, sink: OutputSink, *, stays_frozen: bool = False) -> int:
        return 0

    async def unpack(self, archive: Path) -> None:
        return None

    async def apply(self, patch: Path) -> None:
        return None

    async def prove(self) -> Proof:
        return Proof(())

    async def remount(self, mounts: tuple[Mount, ...]) -> None:
        return None

    async def suspend(self) -> None:
        return None


class PaperBackend(Backend):
    """Sandboxes that live as long as this object."""

    def __init__(self, outputs: Mapping[str, str], patch: str) -> None:
        self._outputs = outputs
        self._patch = patch
        self._made: dict[SandboxId, PaperSandbox] = {}

    @property
    def kind(self) -> str:
        return "paper"

    async def check(self) -> Sequence[Layer]:
        return ()

    async def create(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        made = self._made[spec.id] = PaperSandbox(spec.id, self._outputs, self._patch)
        return made

    async def attach(self, spec: SandboxSpec, *, egress: EgressGatekeeper | None = None) -> Sandbox:
        if spec.id not in self._made:
            raise SandboxGone(f"no sandbox {spec.id}")
        return self._made[spec.id]

    async def destroy(self, sandbox: SandboxId) -> None:
        self._made.pop(sandbox, None)

    async def sweep(self, live: frozenset[SandboxId]) -> Sequence[SandboxId]:
        return ()

    async def close(self) -> None:
        return None

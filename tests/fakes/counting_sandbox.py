"""A sandbox in memory that counts effects where nothing else can: the gate's ledger is compared with it.

`crash` makes the next action fail before or after it took effect, as a killed worker would see it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from ringfence_sandbox.contract import (
    Action,
    Bundle,
    CallId,
    ChangedFile,
    Ending,
    FileContent,
    Layer,
    Listing,
    Matches,
    Mount,
    Move,
    Outcome,
    OutputSink,
    Patch,
    Proof,
    Recall,
    Sandbox,
    SandboxId,
    Write,
)
from ringfence_sandbox.errors import PathRefused, SandboxGone, StaleFence


class Crash(BaseException):
    """The worker died here."""


class CountingSandbox(Sandbox):
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.effects: list[Action] = []
        self.outcomes: dict[CallId, Outcome] = {}
        self.acknowledged: set[CallId] = set()
        self.mounts: tuple[Mount, ...] = ()
        self.changes: list[ChangedFile] = []
        self.patch = b""
        """All that was done in here, command by command, where a test has set `keeps_patch`."""
        self.keeps_patch = False
        self.fence = 0
        self.crash: Literal["", "before", "after"] = ""
        self.is_gone = False

    @property
    def id(self) -> SandboxId:
        return SandboxId("fake")

    @property
    def layers(self) -> Sequence[Layer]:
        return ()

    async def perform(self, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        self._alive()
        if action.fence < self.fence:
            raise StaleFence(f"{action.fence} is lower than {self.fence}")
        self.fence = action.fence
        if action.call_id in self.outcomes:
            return self.outcomes[action.call_id]
        crash, self.crash = self.crash, ""
        if crash == "before":
            raise Crash
        outcome = self._do(action)
        self.outcomes[action.call_id] = outcome
        if crash == "after":
            raise Crash
        if on_output is not None:
            on_output(outcome.head)
        return outcome

    def _do(self, action: Action) -> Outcome:
        if isinstance(action, Write):
            held = self.files.get(str(action.path))
            found = "" if held is None else hashlib.sha256(held).hexdigest()
            if action.expected_sha256 is not None and action.expected_sha256 != found:
                return Outcome(action.call_id, Ending.REFUSED, detail="the file has changed")
            self.files[str(action.path)] = action.content
            self.effects.append(action)
            return Outcome(action.call_id, Ending.DONE)
        if isinstance(action, Move):
            self.files[str(action.target)] = self.files.pop(str(action.source))
            self.effects.append(action)
            return Outcome(action.call_id, Ending.DONE)
        for path, sha256 in action.sealed.items():
            if hashlib.sha256(self.files.get(path, b"")).hexdigest() != sha256:
                return Outcome(action.call_id, Ending.REFUSED, detail=f"{path} changed after it was approved")
        self.effects.append(action)
        if self.keeps_patch:
            self.patch += action.argv[-1].encode() + b"\n"
        return Outcome(action.call_id, Ending.DONE, exit_code=0, head=action.argv[-1].encode())

    async def recall(self, call_id: CallId) -> Outcome | Recall:
        self._alive()
        return self.outcomes.get(call_id, Recall.NEVER_STARTED)

    async def acknowledge(self, call_id: CallId) -> None:
        self.acknowledged.add(call_id)

    async def load(self, bundle: Bundle) -> None:
        self._alive()

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit_bytes: int = 1 << 20) -> FileContent:
        self._alive()
        data = self.files.get(str(path))
        if data is None:
            raise PathRefused(f"no file {path}")
        return FileContent(data[offset : offset + limit_bytes], len(data), hashlib.sha256(data).hexdigest())

    async def list(self, path: PurePosixPath, *, depth: int = 1, limit: int = 1000) -> Listing:
        return Listing((), is_truncated=False)

    async def search(self, pattern: str, path: PurePosixPath, *, limit: int = 200) -> Matches:
        return Matches((), is_truncated=False)

    async def changed(self) -> Sequence[ChangedFile]:
        return self.changes

    async def diff(self) -> Patch:
        return Patch(self.patch, "0" * 40)

    async def pack(self, sink: OutputSink, *, stays_frozen: bool = False) -> int:
        self._alive()
        sink(self.patch)
        self.is_gone = stays_frozen
        return 0

    async def unpack(self, archive: Path) -> None:
        self.patch = archive.read_bytes()

    async def apply(self, patch: Path) -> None:
        self.patch = patch.read_bytes()

    async def prove(self) -> Proof:
        return Proof(())

    async def remount(self, mounts: tuple[Mount, ...]) -> None:
        self.mounts = mounts

    async def suspend(self) -> None:
        self._alive()

    def _alive(self) -> None:
        if self.is_gone:
            raise SandboxGone("the test took it away")

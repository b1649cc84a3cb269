"""A `Sandbox` that speaks to an in-sandbox server: what all backends share. Only how they connect and stop differs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ringfence_sandbox import answers
from ringfence_sandbox.connection import JsonObject, Reply, ServerConnection, is_sound
from ringfence_sandbox.contract import (
    Action,
    Bundle,
    CallId,
    ChangedFile,
    Ending,
    Exec,
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
from ringfence_sandbox.errors import (
    IsolationUnavailable,
    PathRefused,
    ProtocolViolation,
    SandboxError,
    WorkspaceRefused,
)
from ringfence_sandbox.inside import wire

ANSWER_WITHIN_S = 30.0
"""How much longer than its own limit an action may take to be answered, before the server counts as gone."""
OUTPUT_CEILING = 1 << 20
READ_CEILING = 64 << 20
LIST_CEILING = 16 << 20
CHANGED_CEILING = 500_000
PATCH_CEILING = 256 << 20
WRITE_CEILING = 64 << 20
FILES_WITHIN_S = 1830.0


class ServedSandbox(Sandbox):
    """Owns its connection. Backends derive from it for `remount` and `suspend`, or use it as it is."""

    def __init__(self, id: SandboxId, connection: ServerConnection, layers: Sequence[Layer]) -> None:
        self._id = id
        self._connection = connection
        self._layers = tuple(layers)

    @property
    def id(self) -> SandboxId:
        return self._id

    @property
    def layers(self) -> Sequence[Layer]:
        return self._layers

    @property
    def connection(self) -> ServerConnection:
        return self._connection

    def reconnect(self, connection: ServerConnection) -> None:
        """Go on over another connection to the same server, or to its successor over the same files."""
        self._connection = connection

    async def perform(self, action: Action, *, on_output: OutputSink | None = None) -> Outcome:
        if not _is_sound(action):
            return Outcome(action.call_id, Ending.REFUSED, detail="it holds a character that no system call takes")
        connection = self._connection
        try:
            if isinstance(action, Exec):
                return await self._exec(action, on_output)
            if isinstance(action, Write):
                return await self._write(action)
            return await self._move(action)
        except asyncio.CancelledError:
            connection.notify({"op": "cancel", "call": action.call_id})
            raise

    async def _exec(self, action: Exec, on_output: OutputSink | None) -> Outcome:
        limit = min(action.output_limit_bytes, OUTPUT_CEILING)
        header: dict[str, wire.Json] = {
            "op": "exec",
            "call": action.call_id,
            "fence": action.fence,
            "argv": list(action.argv),
            "cwd": str(action.cwd),
            "environment": dict(action.environment),
            "timeout_s": action.timeout_s,
            "output_limit": limit,
        }
        if action.sealed:
            header["sealed"] = dict(action.sealed)
        if on_output is not None:
            header["stream"] = True
        if action.has_terminal:
            header["has_terminal"] = True
        reply = await self._connection.request(
            header,
            action.stdin,
            limit_bytes=limit,
            timeout_s=action.timeout_s + ANSWER_WITHIN_S,
            on_part=on_output,
        )
        return answers.outcome(action.call_id, reply)

    async def _write(self, action: Write) -> Outcome:
        header: dict[str, wire.Json] = {
            "op": "write",
            "call": action.call_id,
            "fence": action.fence,
            "path": str(action.path),
            "expected_sha256": action.expected_sha256,
        }
        return answers.outcome(action.call_id, await self._connection.request(header, action.content))

    async def _move(self, action: Move) -> Outcome:
        header: dict[str, wire.Json] = {
            "op": "move",
            "call": action.call_id,
            "fence": action.fence,
            "path": str(action.source),
            "target": str(action.target),
        }
        return answers.outcome(action.call_id, await self._connection.request(header))

    async def recall(self, call_id: CallId) -> Outcome | Recall:
        reply = await self._connection.request({"op": "recall", "call": call_id}, limit_bytes=OUTPUT_CEILING)
        known = reply.header.get("recall")
        if known is None:
            return answers.outcome(call_id, reply)
        if known not in (Recall.NEVER_STARTED.value, Recall.RUNNING.value):
            raise ProtocolViolation("an unknown recall")
        return Recall(known)

    async def acknowledge(self, call_id: CallId) -> None:
        self._connection.notify({"op": "acknowledge", "call": call_id})

    async def load(self, bundle: Bundle) -> None:
        await self._bring_in(bundle.path, "load-chunk")
        header: JsonObject = {"op": "load", "commit": bundle.commit, "branch": bundle.branch}
        await self._connection.request(header, timeout_s=630.0)

    async def read(self, path: PurePosixPath, *, offset: int = 0, limit_bytes: int = 1 << 20) -> FileContent:
        limit = min(limit_bytes, READ_CEILING)
        header: JsonObject = {"op": "read", "path": str(path), "offset": offset, "limit": limit}
        return answers.content(await self._request(header, limit_bytes=limit))

    async def list(self, path: PurePosixPath, *, depth: int = 1, limit: int = 1000) -> Listing:
        header: JsonObject = {"op": "list", "path": str(path), "depth": depth, "limit": limit}
        reply = await self._request(header, limit_bytes=LIST_CEILING)
        entries = [answers.dirent(fields) for fields in answers.items(reply.body, limit=limit)]
        return Listing(entries, answers.flag(reply.header, "is_truncated"))

    async def search(self, pattern: str, path: PurePosixPath, *, limit: int = 200) -> Matches:
        header: JsonObject = {"op": "search", "pattern": pattern, "path": str(path), "limit": limit}
        reply = await self._request(header, limit_bytes=LIST_CEILING)
        matches = [answers.match(fields) for fields in answers.items(reply.body, limit=limit)]
        return Matches(matches, answers.flag(reply.header, "is_truncated"))

    async def changed(self) -> Sequence[ChangedFile]:
        reply = await self._request({"op": "changed"}, limit_bytes=PATCH_CEILING)
        return [answers.changed_file(fields) for fields in answers.items(reply.body, limit=CHANGED_CEILING)]

    async def diff(self) -> Patch:
        return answers.patch(await self._request({"op": "diff"}, limit_bytes=PATCH_CEILING))

    async def pack(self, sink: OutputSink, *, stays_frozen: bool = False) -> int:
        header: JsonObject = {"op": "pack", "stays_frozen": stays_frozen}
        reply = await self._connection.request(header, timeout_s=FILES_WITHIN_S, on_part=sink)
        return answers.number(reply.header, "skipped")

    async def unpack(self, archive: Path) -> None:
        await self._bring_in(archive, "files-chunk")
        await self._connection.request({"op": "unpack"}, timeout_s=FILES_WITHIN_S)

    async def apply(self, patch: Path) -> None:
        await self._bring_in(patch, "files-chunk")
        await self._connection.request({"op": "apply"}, timeout_s=FILES_WITHIN_S)

    async def _bring_in(self, source: Path, op: str) -> None:
        """Send a file in chunks. Raises `WorkspaceRefused` where it cannot be read."""
        try:
            with source.open("rb") as file:
                offset = 0
                while (chunk := file.read(wire.CHUNK)) or not offset:
                    await self._connection.request({"op": op, "offset": offset}, chunk)
                    if not chunk:
                        return
                    offset += len(chunk)
        except OSError as error:
            raise WorkspaceRefused(f"{source.name} cannot be read: {error.strerror}") from error

    async def prove(self) -> Proof:
        return await self.probed(is_short=False)

    async def probed(self, *, is_short: bool) -> Proof:
        """What all probes found, or the short set."""
        reply = await self._request({"op": "prove", "is_short": is_short}, limit_bytes=1 << 20)
        return Proof([answers.probe(fields) for fields in answers.items(reply.body, limit=200)])

    async def _request(self, header: JsonObject, *, limit_bytes: int) -> Reply:
        for key in ("path", "pattern"):
            if not is_sound(str(header.get(key, ""))):
                raise PathRefused(f"the {key} holds a character that no system call takes")
        return await self._connection.request(header, limit_bytes=limit_bytes, timeout_s=330.0)

    async def remount(self, mounts: tuple[Mount, ...]) -> None:
        raise IsolationUnavailable(
            f"sandbox {self._id} cannot show trees of the host", fix="bring the files in through the repository"
        )

    async def suspend(self) -> None:
        await self._connection.request({"op": "suspend"})
        await self._connection.close()

    async def let_go(self) -> None:
        """Close the connection; an error that it already had is of no interest any more."""
        try:
            await self._connection.close()
        except SandboxError:
            return


def _is_sound(action: Action) -> bool:
    """Whether every text of a call can reach a system call: a model's JSON can carry halves of characters."""
    if isinstance(action, Exec):
        environment = (*action.environment.keys(), *action.environment.values())
        return all(map(is_sound, (*action.argv, str(action.cwd), *environment)))
    if isinstance(action, Write):
        return is_sound(str(action.path))
    return is_sound(str(action.source)) and is_sound(str(action.target))

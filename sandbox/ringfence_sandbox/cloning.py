"""Cloning a URL: inside a short-lived sandbox of its own, which is gone before the agent's begins.

What a server sends, and what git makes of it, never touches the host; the bundle comes out as bytes and goes into the
run's sandbox the same way as a local repository's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ringfence_sandbox.contract import (
    Backend,
    Bundle,
    CallId,
    EgressGatekeeper,
    Ending,
    Exec,
    Outcome,
    Sandbox,
    SandboxId,
    SandboxSpec,
)
from ringfence_sandbox.errors import PathRefused, WorkspaceRefused

CLONE_WITHIN_S = 900.0
ABANDONED_AFTER = timedelta(hours=2)
"""More than all steps of a clone may take: whoever made the sandbox is gone."""
CHUNK_BYTES = 8 << 20
LIMIT_BYTES = 4 << 30
_NAMED = "clone-"
_CLONED = PurePosixPath("/workspace/clone")
_BUNDLE = PurePosixPath("/workspace/clone.bundle")
_SAFE = (
    "git", "-c", "protocol.allow=never", "-c", "protocol.https.allow=always", "-c", "core.hooksPath=/dev/null",
    "-c", "submodule.recurse=false", "-c", "credential.helper=",
)  # fmt: skip


def host_of(url: str) -> tuple[str, int]:
    """Host and port that a clone of this URL must reach. Raises `WorkspaceRefused` for what is not cloned."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise WorkspaceRefused(f"{url[:200]!r} is no URL: {error}") from error
    if parts.scheme != "https" or not parts.hostname or not url.isprintable() or " " in url:
        raise WorkspaceRefused(
            f"{url[:200]!r} cannot be cloned: https and ssh URLs are; for another kind, clone it and give the path"
        )
    if any(unquote(part) in (".", "..") for part in parts.path.split("/")):
        raise WorkspaceRefused(f"{url[:200]!r} holds dot segments; write the path that it means")
    if parts.username or parts.password:
        raise WorkspaceRefused("the URL carries a credential; put it into the profile's network.credentials instead")
    return parts.hostname, port


def clone_spec() -> SandboxSpec:
    """A sandbox to clone in, of a name that no run's has."""
    return SandboxSpec(SandboxId(f"{_NAMED}{secrets.token_hex(8)}"), labels={"purpose": "clone"}, has_egress=True)


def is_clone(sandbox: str) -> bool:
    """Whether something is cloned in it, so that it is in no run's row."""
    return sandbox.startswith(_NAMED)


async def bundle_from_url(
    url: str, backend: Backend, *, into: Path, egress: EgressGatekeeper, spec: SandboxSpec
) -> Bundle:
    """Clone with nothing open but what `egress` admits, and bring HEAD out as a bundle in `into`.

    `spec` is a `clone_spec`, perhaps with an image, which must hold git. Raises `WorkspaceRefused`.
    """
    host_of(url)
    sandbox = await backend.create(spec, egress=egress)
    try:
        clone = ("clone", "--quiet", "--no-checkout", "--no-recurse-submodules", "--", url, str(_CLONED))
        await _git(sandbox, url, 0, clone)
        commit = (await _git(sandbox, url, 1, ("-C", str(_CLONED), "rev-parse", "--verify", "HEAD"))).strip()
        branch = (await _git(sandbox, url, 2, ("-C", str(_CLONED), "rev-parse", "--abbrev-ref", "HEAD"))).strip()
        if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):
            raise WorkspaceRefused(f"{url} has no commit to work on")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", branch) or ".." in branch or branch == "HEAD":
            branch = "main"
        reference = f"refs/heads/{branch}"
        await _git(sandbox, url, 3, ("-C", str(_CLONED), "update-ref", reference, commit))
        await _git(sandbox, url, 4, ("-C", str(_CLONED), "bundle", "create", "--quiet", str(_BUNDLE), reference))
        target = into / "repository.bundle"
        await _bring_out(sandbox, target)
    finally:
        await backend.destroy(spec.id)
    return Bundle(target, commit, branch)


async def _git(sandbox: Sandbox, url: str, step: int, arguments: Sequence[str]) -> str:
    call = CallId(f"{sandbox.id}/0/{step}/{secrets.token_hex(8)}")
    action = Exec(call, 0, (*_SAFE, *arguments), cwd=PurePosixPath("/workspace"), timeout_s=CLONE_WITHIN_S)
    outcome = await sandbox.perform(action)
    if outcome.ending is not Ending.DONE or outcome.exit_code != 0:
        raise WorkspaceRefused(f"{url} could not be cloned: {_last_line(outcome)}")
    return outcome.head.decode(errors="replace")


def _last_line(outcome: Outcome) -> str:
    lines = (outcome.head + outcome.tail).decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else outcome.detail or outcome.ending.value


async def _bring_out(sandbox: Sandbox, target: Path) -> None:
    offset = 0
    try:
        with target.open("wb") as file:
            while True:
                part = await sandbox.read(_BUNDLE, offset=offset, limit_bytes=CHUNK_BYTES)
                if part.size_bytes > LIMIT_BYTES:
                    raise WorkspaceRefused(f"the repository is larger than {LIMIT_BYTES >> 30} GiB")
                file.write(part.data)
                offset += len(part.data)
                if not part.data or offset >= part.size_bytes:
                    return
    except PathRefused as error:
        raise WorkspaceRefused(f"the clone made no bundle: {error}") from error

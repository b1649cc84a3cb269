"""Bringing a repository in over ssh, with the person's key and without the key ever entering a sandbox.

The machine's own `ssh` is nothing but the pipe: it authenticates as the person set it up, forwards no agent, port or
terminal, asks nothing and trusts no host that it does not know. What comes out of it is not understood here. It is
git's upload-pack conversation in its oldest form (gitprotocol-pack, gitprotocol-common): refs are read as bounded
lines, the pack behind them is copied as it is into a bundle (gitformat-bundle), and only git inside the run's sandbox
opens that.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ringfence_sandbox.contract import Bundle, EgressGatekeeper, EgressRequest, SandboxId
from ringfence_sandbox.errors import WorkspaceRefused

WITHIN_S = 900.0
LIMIT_BYTES = 4 << 30
REFS_LIMIT = 200_000
SAID_LIMIT_BYTES = 64 << 10
_PIECE = 1 << 20
_SCP_FORM = re.compile(r"(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9.-]+):([^/].*|/.+)\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}\Z")
_OPTIONS = (
    "-T", "-x", "-a",
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "ForwardAgent=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "PermitLocalCommand=no",
    "-o", "ConnectTimeout=20",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where an ssh URL leads. `port` 0: what the person's ssh makes of it."""

    url: str
    host: str
    user: str
    port: int
    path: str


def place_of(url: str) -> Place | None:
    """The parts of `ssh://[user@]host[:port]/path` or `user@host:path`; None for another kind of URL.

    Raises `WorkspaceRefused` for an ssh URL that is not safe to hand to ssh.
    """
    if "://" in url:
        try:
            parts = urlsplit(url)
            port = parts.port or 0
        except ValueError as error:
            raise WorkspaceRefused(f"{url[:200]!r} is no URL: {error}") from error
        if parts.scheme not in ("ssh", "git+ssh"):
            return None
        if parts.password:
            raise WorkspaceRefused("the URL carries a password; use a key that your ssh knows, and leave it out")
        path = unquote(parts.path)
        place = Place(url, parts.hostname or "", parts.username or "", port, path[1:] if path[:2] == "/~" else path)
    else:
        found = _SCP_FORM.match(url)
        if found is None:
            return None
        place = Place(url, found[2].lower(), found[1] or "", 0, found[3])
    if any(part in (".", "..") for part in place.path.split("/")):
        raise WorkspaceRefused(f"{url[:200]!r} holds dot segments; write the path that it means")
    is_named = _HOST.match(place.host) and (not place.user or _USER.match(place.user))
    if not is_named or not place.path.strip("/") or not place.path.isprintable():
        raise WorkspaceRefused(f"{url[:200]!r} is not an ssh URL: write ssh://user@host/path or user@host:path")
    return place


async def bundle_over_ssh(place: Place, *, into: Path, sandbox: SandboxId, egress: EgressGatekeeper) -> Bundle:
    """Fetch what HEAD reaches, as a bundle in `into`. The connection is admitted, and recorded, as `sandbox`'s.

    Raises `WorkspaceRefused`, which says what to do; nothing is left in `into` then.
    """
    target = into / "repository.bundle"
    request = EgressRequest(sandbox, "ssh", place.host, place.port or 22, "CONNECT")
    if not (await egress.admit(request)).is_allowed:
        raise WorkspaceRefused(f"{place.url} may not be reached")
    started, received = time.monotonic(), 0
    try:
        async with asyncio.timeout(WITHIN_S), _speaking(place) as (reader, writer):
            head = await _read_head(reader, place)
            _ask(writer, head)
            await writer.drain()
            received = await _copy_pack(reader, head, target=target, place=place)
    except TimeoutError as error:
        target.unlink(missing_ok=True)
        raise WorkspaceRefused(f"{place.url} did not come within {WITHIN_S:.0f} s") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        took_ms = int((time.monotonic() - started) * 1000)
        await egress.closed(request, sent_bytes=0, received_bytes=received, duration_ms=took_ms)
    return Bundle(target, head.commit, head.branch)


@dataclass(frozen=True, slots=True)
class _Head:
    commit: str
    branch: str
    capabilities: frozenset[str]


def command_of(place: Place, ssh: str) -> Sequence[str]:
    """The argument list: everything that a URL names is an argument of its own, or quoted for the other side."""
    user = ("-l", place.user) if place.user else ()
    port = ("-p", str(place.port)) if place.port else ()
    return (ssh, *_OPTIONS, *user, *port, "--", place.host, f"git-upload-pack {shlex.quote(place.path)}")


@asynccontextmanager
async def _speaking(place: Place) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The conversation over ssh. Where it breaks off, what ssh said is the reason."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise WorkspaceRefused("ssh is not installed; install it with your package manager, or give an https URL")
    process = await asyncio.create_subprocess_exec(
        *command_of(place, ssh),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        start_new_session=True,
        limit=_PIECE,
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise WorkspaceRefused("ssh could not be spoken with")
    complaint = asyncio.ensure_future(_read_whole(process.stderr))
    try:
        yield process.stdout, process.stdin
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        await asyncio.wait({complaint}, timeout=5)
        said = complaint.result().decode(errors="replace").strip().splitlines() if complaint.done() else []
        raise WorkspaceRefused(f"{place.url} could not be fetched: {_why(said, place)}") from error
    finally:
        complaint.cancel()
        await asyncio.gather(complaint, return_exceptions=True)
        if process.returncode is None:
            with suppress(ProcessLookupError):
                # With whatever it started, which holds our pipes as it does.
                os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.communicate(), 5)


async def _read_whole(stream: asyncio.StreamReader) -> bytes:
    """All that comes until its end, of which the first part is kept: one read would be one piece of it."""
    kept = b""
    while piece := await stream.read(_PIECE):
        kept += piece[: SAID_LIMIT_BYTES - len(kept)]
    return kept


def _why(said: Sequence[str], place: Place) -> str:
    last = said[-1][:300] if said else "the connection broke off"
    if any("Host key verification failed" in line for line in said):
        return f"its host key is not known; connect once with `ssh {place.host}` and check it"
    if any("Permission denied" in line for line in said):
        return f"{last}; load the key into your ssh agent (ssh-add), or name it in ~/.ssh/config"
    return last


async def _read_line(reader: asyncio.StreamReader, place: Place) -> bytes | None:
    """One pkt-line; None for a flush. Raises `WorkspaceRefused` for what is none."""
    head = await reader.readexactly(4)
    try:
        size = int(head, 16)
    except ValueError as error:
        raise WorkspaceRefused(f"{place.url} does not answer as a git server: {head!r}") from error
    if size == 0:
        return None
    if size < 4:
        raise WorkspaceRefused(f"{place.url} does not answer as a git server: a line of {size} bytes")
    line = await reader.readexactly(size - 4)
    if line.startswith(b"ERR "):
        raise WorkspaceRefused(f"{place.url}: {line[4:].decode(errors='replace').strip()[:300]}")
    return line.rstrip(b"\n")


async def _read_head(reader: asyncio.StreamReader, place: Place) -> _Head:
    """HEAD and the branch that it is, from the refs that the server tells."""
    commit, capabilities = "", frozenset[str]()
    for number in range(REFS_LIMIT):
        line = await _read_line(reader, place)
        if line is None:
            break
        words, _, offered = line.partition(b"\0")
        if number == 0:
            capabilities = frozenset(offered.decode(errors="replace").split())
        name, _, ref = words.decode(errors="replace").partition(" ")
        if ref == "HEAD":
            commit = name
    else:
        raise WorkspaceRefused(f"{place.url} has more than {REFS_LIMIT} refs")
    if not _COMMIT.match(commit):
        raise WorkspaceRefused(f"{place.url} has no commit to work on")
    names = [word.removeprefix("symref=HEAD:refs/heads/") for word in capabilities if word.startswith("symref=HEAD:")]
    branch = names[0] if names and _BRANCH.match(names[0]) and ".." not in names[0] else "main"
    return _Head(commit, branch, capabilities)


def _ask(writer: asyncio.StreamWriter, head: _Head) -> None:
    """Want all of HEAD, have nothing."""
    wishes = [word for word in ("ofs-delta", "no-progress", "object-format=sha256") if word in head.capabilities]
    want = f"want {head.commit} {' '.join(wishes)}".rstrip() + "\n"
    writer.write(f"{len(want) + 4:04x}{want}0000".encode() + b"0009done\n")


async def _copy_pack(reader: asyncio.StreamReader, head: _Head, *, target: Path, place: Place) -> int:
    """The pack as it comes, behind the head of a bundle. Returns its size."""
    if await _read_line(reader, place) != b"NAK":
        raise WorkspaceRefused(f"{place.url} does not answer as a git server")
    version = "# v3 git bundle\n@object-format=sha256\n" if len(head.commit) == 64 else "# v2 git bundle\n"
    size = 0
    with target.open("xb") as file:
        file.write(f"{version}{head.commit} refs/heads/{head.branch}\n\n".encode())
        while piece := await reader.read(_PIECE):
            size += len(piece)
            if size > LIMIT_BYTES:
                raise WorkspaceRefused(f"the repository is larger than {LIMIT_BYTES >> 30} GiB")
            await asyncio.to_thread(file.write, piece)
    if size < 32:
        raise WorkspaceRefused(f"{place.url} sent no objects")
    return size

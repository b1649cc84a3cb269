"""Which process's server serves a sandbox: one at a time, and never one with a lower fencing token.

A worker that was stopped beyond its lease still holds the server that it started. Its successor ends that server before
it starts its own over the same files, and a worker that wakes up and starts one anew finds the higher fence here. The
file lies beside the sandbox's own folders, where nothing inside can reach it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.errors import SandboxBusy, StaleFence

FILE = "owner"
RECORD_BYTES = 256
LOCKED_WITHIN_S = 5.0
ENDED_WITHIN_S = 5.0
_LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class Owner:
    """The fence by which the sandbox was started last, and the process that holds its server (0: not started yet)."""

    fence: int = 0
    pid: int = 0
    started: str = ""
    """When that process began, in the kernel's words: a number that was given out again is another process."""


def take_over(folder: Path, fence: int) -> None:
    """Claim the sandbox in `folder` for `fence`, and end whatever server another process has over its files.

    Blocks for a moment. Raises `StaleFence` where a higher fence has claimed it, `SandboxBusy` where another process
    is about to and does not go on.
    """
    with _locked(folder) as file:
        owner = _read(file)
        if owner.fence > fence:
            raise StaleFence(f"{folder.name} was taken over by fence {owner.fence}; this one is {fence}")
        _end(owner)
        _write(file, Owner(fence))


def settle(folder: Path, fence: int, pid: int) -> None:
    """Name the process that now holds the server. Raises `StaleFence` where another fence took over meanwhile."""
    with _locked(folder) as file:
        owner = _read(file)
        if owner.fence != fence:
            raise StaleFence(f"{folder.name} was taken over by fence {owner.fence}; this one is {fence}")
        _write(file, Owner(fence, pid, _started(pid)))


def keep(folder: Path, fence: int) -> None:
    """The server that this process holds goes on under a newer fence. Raises `StaleFence`."""
    with _locked(folder) as file:
        owner = _read(file)
        if owner.fence > fence:
            raise StaleFence(f"{folder.name} was taken over by fence {owner.fence}; this one is {fence}")
        _write(file, Owner(fence, owner.pid, owner.started))


def evict(folder: Path) -> None:
    """End whatever server any process has over the files in `folder`, which are about to be removed."""
    if (folder / FILE).exists():
        with _locked(folder) as file:
            _end(_read(file))


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise SandboxBusy(f"another process is about to start {folder.name} and does not go on") from error
                time.sleep(_LOOK_S)
        yield file
    finally:
        os.close(file)


def _read(file: int) -> Owner:
    data = os.pread(file, 4096, 0)
    return Owner(**json.loads(data)) if data else Owner()


def _write(file: int, owner: Owner) -> None:
    data = json.dumps({"fence": owner.fence, "pid": owner.pid, "started": owner.started}).encode()
    # Padded, never cut: ext4 writes a file that was cut and filled again to disk at once, which costs a start 14 ms.
    os.pwrite(file, data.ljust(RECORD_BYTES), 0)


def _end(owner: Owner) -> None:
    """End the server and all that is inside, and wait until none of it runs."""
    if owner.pid == 0 or not owner.started or _started(owner.pid) != owner.started:
        return
    doomed = [*children(owner.pid), owner.pid]
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + ENDED_WITHIN_S
    while any(_is_running(pid) for pid in doomed):
        if time.monotonic() > deadline:
            raise SandboxBusy(f"the processes {doomed} of an earlier worker do not end")
        time.sleep(_LOOK_S)


def children(pid: int) -> list[int]:
    """Direct children: of bubblewrap's own process that is the first process inside, with which all inside ends."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _is_running(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")

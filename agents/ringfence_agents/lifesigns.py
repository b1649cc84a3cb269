"""A worker's name tells which process it is, so that a claimer on the same machine can see that it has ended.

Judged is only what cannot be mistaken: the same boot of the same kernel, the same pid and time namespace (a pid and a
start time mean nothing elsewhere), and then the kernel's own word that there is no such process, that it is a zombie
without threads, or that the pid belongs to one that began at another time. Anything else, a name in another form
included, is not judged: its lease runs out. A wrong verdict would interrupt a run, never double it: that is the
fence's work.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_SIGN = re.compile(r"-(?P<pid>[1-9][0-9]{0,6})-(?P<place>[0-9a-f]{24})-(?P<start>[0-9]{1,19})-[0-9a-f]{4}", re.ASCII)
_BOOT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Status:
    """Fields 3, 20 and 22 of `/proc/PID/stat` (proc_pid_stat(5)). `start` is in clock ticks since boot."""

    state: str
    threads: int
    start: int

    @property
    def has_ended(self) -> bool:
        """Nobody has asked for its exit code yet, and no thread of it is left."""
        return self.state in "ZX" and self.threads <= 1


def worker_name(host: str, nonce: str, *, proc: Path = PROC) -> str:
    """A name for a worker in this process. `nonce`: four hexadecimal digits.

    Where the process cannot be told beyond doubt (no `/proc` of its own namespace), the name says nothing of it.
    """
    place = _place(proc)
    own = _status(proc, os.getpid())
    sign = "" if place is None or own is None else f"{place}-{own.start}-"
    return f"{host[:40]}-{os.getpid()}-{sign}{nonce}"


def has_ended(worker: str, *, proc: Path = PROC) -> bool:
    """Whether the process of that worker ran here and is certainly gone. False for whatever cannot be judged."""
    found = None if (begin := _begin_of_sign(worker)) is None else _SIGN.fullmatch(worker, begin)
    if found is None or found["place"] != _place(proc):
        return False
    pid, start = int(found["pid"]), int(found["start"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and there: its start time tells whether it is the one
    status = _status(proc, pid)
    return status is not None and (status.has_ended or status.start != start)


def _begin_of_sign(worker: str) -> int | None:
    """Where the last four parts begin: a host's name may hold anything, and what looks like a sign too."""
    parts = worker.rsplit("-", 4)
    return len(parts[0]) if len(parts) == 5 else None


def _place(proc: Path) -> str | None:
    """Boot, pid namespace and time namespace, as one digest. None where they, or `/proc` itself, cannot be trusted."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text("ascii")
        pids = str((proc / "self/ns/pid").readlink())
        status = (proc / "self/status").read_text("utf-8", "replace")
    except (OSError, UnicodeDecodeError):
        return None
    try:
        times = str((proc / "self/ns/time").readlink())
    except FileNotFoundError:
        times = "none"  # a kernel before 5.6 has no others
    except OSError:
        return None
    # One number, and ours: this /proc is that of our own namespace. Of an outer one it would list both.
    own = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    if own != [str(os.getpid())] or not _BOOT.fullmatch(boot):
        return None
    return hashlib.sha256(f"{boot}{pids}\n{times}".encode()).hexdigest()[:24]


def _status(proc: Path, pid: int) -> _Status | None:
    """None where it cannot be read: gone meanwhile, or hidden from us."""
    try:
        text = (proc / str(pid) / "stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(") ")[2].split()  # a process's name may hold brackets and blanks
    try:
        return _Status(fields[0], int(fields[17]), int(fields[19]))
    except (IndexError, ValueError):
        return None

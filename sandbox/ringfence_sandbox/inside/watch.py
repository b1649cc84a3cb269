"""A watch over what no single process limit bounds: memory, disk and processes of the whole sandbox.

It looks ten times a second while a command or something it left behind lives, and not at all otherwise. Cheap figures
come first; the exact and dear ones (proportional memory) only where the cheap ones are over. It is not started in a
container whose runtime holds the limits.
"""

from __future__ import annotations

import os

from . import processes
from .disk import DiskWatch
from .processes import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .server import Server

EVERY_S = 0.1
CROWDED_TICKS = 8
DESCRIPTORS_EVERY = 5
MEMORY_FOLDERS = ("/tmp", "/dev/shm")  # noqa: S108 - this sandbox's own, sized
PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Started with each command; stops itself when nothing of any command is left."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._settings = server.settings
        self._is_on = False
        self._ticks = 0
        self._crowded = 0
        self._hidden_bytes = 0
        self._disk = DiskWatch(server)

    def start(self) -> None:
        if not self._is_on and self._settings.is_limited_by_rlimit:
            self._is_on = True
            self._server.loop.after(EVERY_S, self._tick)

    def _tick(self) -> None:
        runner = self._server.runner
        if not runner.by_keeper:
            self._is_on = False
            return
        self._ticks += 1
        found = processes.table()
        for own in runner.own_pids():
            found.pop(own, None)
        self._memory(found)
        self._processes(found)
        self._disk.look()
        self._server.loop.after(EVERY_S if len(found) < 100 else 3 * EVERY_S, self._tick)

    # -- memory --------------------------------------------------------------------------------------------------

    def _memory(self, found: dict[int, Process]) -> None:
        limit = self._settings.memory_bytes
        if not limit:
            return
        if self._ticks % DESCRIPTORS_EVERY == 0:
            self._hidden_bytes = _memory_files(found) + _shared_segments()
        held = _tmpfs_bytes() + self._hidden_bytes
        if held + sum(process.resident_pages for process in found.values()) * PAGE <= limit:
            return
        # Resident size counts a shared page once for each process; only the proportional size is the truth.
        sizes = {pid: proportional_bytes(pid) for pid in found}
        if held + sum(sizes.values()) > limit:
            self._end_heaviest(found, sizes, f"memory: more than {limit} bytes")

    def _end_heaviest(self, found: dict[int, Process], sizes: dict[int, int], reason: str) -> None:
        """End the tree that weighs most, and that one only: the others may be well within what they may use."""
        heaviest, weight = None, -1
        for keeper, call in self._server.runner.by_keeper.items():
            total = sum(sizes.get(pid, 0) for pid in processes.descendants(keeper, found))
            if total > weight:
                heaviest, weight = call, total
        if heaviest is not None:
            heaviest.end("limit", reason)

    # -- processes -----------------------------------------------------------------------------------------------

    def _processes(self, found: dict[int, Process]) -> None:
        limit = self._settings.processes
        threads = {pid: process.threads for pid, process in found.items()}
        self._crowded = self._crowded + 1 if limit and sum(threads.values()) >= limit * 0.9 else 0
        if self._crowded >= CROWDED_TICKS:
            self._crowded = 0
            self._end_heaviest(found, threads, f"processes: as many as {limit} for a second")


def proportional_bytes(pid: int) -> int:
    """A process's share of memory: private pages, and of each shared page its part. 0 for one that has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        return _resident_bytes(pid)
    return _resident_bytes(pid)


def _resident_bytes(pid: int) -> int:
    """What it holds now, where its share cannot be had: nothing, where it has ended since it was listed."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _tmpfs_bytes() -> int:
    total = 0
    for folder in MEMORY_FOLDERS:
        try:
            system = os.statvfs(folder)
        except OSError:
            continue
        total += (system.f_blocks - system.f_bfree) * system.f_frsize
    return total


def _memory_files(found: dict[int, Process]) -> int:
    """Bytes in memory files (memfd_create) that somebody holds open, mapped or not."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in found:
        folder = f"/proc/{pid}/fd/"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                if os.readlink(folder + name).startswith("/memfd:"):
                    status = os.stat(folder + name)
                    sizes[(status.st_dev, status.st_ino)] = status.st_blocks * 512
            except OSError:
                continue
    return sum(sizes.values())


def _shared_segments() -> int:
    """Bytes in System V shared memory, attached or not."""
    try:
        with open("/proc/sysvipc/shm") as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    at = lines[0].split().index("rss") if lines and "rss" in lines[0].split() else -1
    return sum(int(line.split()[at]) for line in lines[1:]) if at >= 0 else 0

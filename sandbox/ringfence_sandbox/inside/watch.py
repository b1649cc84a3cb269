"""A watch over what no single process limit bounds: memory, disk and processes of the whole sandbox.

It looks ten times a second while a command or something it left behind lives, and not at all otherwise. Cheap figures
come first; the exact and dear ones (proportional memory, a walk over the files) only where the cheap ones are over. It
is not started in a container whose runtime holds the limits.
"""

from __future__ import annotations

import os
from time import monotonic

from . import processes
from .processes import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .server import Server

EVERY_S = 0.1
CROWDED_TICKS = 8
BARRED = (13, 36)
"""EACCES and ENAMETOOLONG: files are there, and cannot be seen."""
UNCOUNTED = 1 << 60
"""Said of files that cannot be counted."""
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
        self._disk_free = -1
        self._disk_used = 0
        self._disk_told = 0
        self._disk_walk_after = 0.0
        self._reserve = server.settings.disk_reserve_bytes
        self._is_walking = False

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
        self._disk()
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

    # -- disk ----------------------------------------------------------------------------------------------------

    def _disk(self) -> None:
        limit = self._settings.disk_bytes
        if not limit or not self._settings.disk_paths or self._is_walking or monotonic() < self._disk_walk_after:
            return
        free = _free_bytes(self._settings.disk_paths[0])
        taken = self._disk_free - free
        is_scarce = free < self._reserve
        # What others write to the same disk counts here too, which only makes for a walk in vain.
        if self._disk_free < 0 or taken > (1 << 20 if is_scarce else max(1 << 20, (limit - self._disk_used) // 8)):
            self._disk_free = free
            self._walk()

    def _walk(self) -> None:
        self._is_walking = True
        began = monotonic()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writing, str(used_bytes(self._settings.disk_paths)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        self._server.runner.workers.add(pid)

        def done(_: int) -> None:
            self._server.loop.unwatch(reading)
            said = os.read(reading, 64)
            os.close(reading)
            self._is_walking = False
            self._disk_walk_after = monotonic() + 10 * (monotonic() - began)
            if said.isdigit():
                self._judge_disk(int(said))

        self._server.loop.watch(reading, 1, done)

    def _judge_disk(self, used: int) -> None:
        """Over the limit and still growing ends every command. Over it but shrinking is somebody tidying up.

        So does growing on a disk that has nothing to spare, whatever the limit: the machine goes on.
        """
        grown, self._disk_used = used - self._disk_used, used
        limit = self._settings.disk_bytes
        reason = f"disk: {used} bytes where {limit} are allowed"
        if used >= UNCOUNTED:
            reason = "disk: a folder lies too deep to be counted"
            self._disk_told = 0
        is_over = used > limit and used > self._disk_told
        if not is_over and grown > 1 << 20 and _free_bytes(self._settings.disk_paths[0]) < self._reserve:
            is_over, reason = True, f"disk: {used} bytes, and the machine's disk has no more to spare"
        if is_over:
            self._disk_told = used
            for call in list(self._server.runner.by_keeper.values()):
                call.end("limit", reason)
        elif used <= limit:
            self._disk_told = 0


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


def _free_bytes(path: str) -> int:
    system = os.statvfs(path)
    return system.f_bavail * system.f_frsize


def used_bytes(folders: list[str]) -> int:
    """What the files below take on disk, each hard-linked file once.

    A folder whose owner took the right to look from itself gets it back. One that cannot be looked into all the same,
    since its path is longer than any call takes, counts as more than any limit: what lies below it would be free.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = list(folders)
    while pending:
        folder = pending.pop()
        try:
            entries = _entries(folder)
        except OSError as error:
            if error.errno in BARRED:
                return UNCOUNTED
            continue  # it went away, or became something else
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno in BARRED:
                    return UNCOUNTED
                continue
            if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                key = (status.st_dev, status.st_ino)
                if key in seen:
                    continue
                seen.add(key)
            total += status.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return total


def _entries(folder: str) -> list[os.DirEntry[str]]:
    if os.access(folder, os.R_OK | os.X_OK):
        return list(os.scandir(folder))
    # Without following a link that was put in the folder's place meanwhile.
    opened = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chmod("/proc/self/fd/%d" % opened, 0o700)
    finally:
        os.close(opened)
    return list(os.scandir(folder))


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

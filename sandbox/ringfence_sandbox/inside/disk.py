"""How much disk the sandbox takes, where that has to be counted by whoever shares it with those that are counted.

A sandbox whose files lie on a disk of their own asks the kernel. Elsewhere a child walks the files: often and beside
the commands while all goes well; and with every command stopped where that took too long, was cut off, or leaves more
of the machine's disk unexplained than the sandbox may use. What cannot be counted so counts as over the limit.

What no count finds (a file without a name that is mapped in part, or on its way through a socket) is bounded by the
last line alone: a disk that has less than half of its reserve, and goes on filling, ends commands without a count.
"""

from __future__ import annotations

import os
import stat
from time import monotonic

from . import processes
from .worker import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

SCARCE = "the machine's disk has no more to spare"
BESIDE_S = 3.0
"""How long a count may take beside running commands."""
STILL_S = 60.0
"""And with all of them stopped."""
STOPPED_WITHIN_S = 0.2
LEAST_EVERY_S = 60.0
"""What others free on the disk may hide what is taken: so long it may stay unseen."""
REST = 10
"""After a count nobody counts for so many times as long."""
DYING_S = 0.5
"""What is found to have grown so soon after an end was written by those that were ended."""
MIB = 1 << 20
INODE_BYTES = 256
BARRED = (13, 36)
"""EACCES and ENAMETOOLONG: files are there, and cannot be seen."""
GONE = (2, 20)
"""ENOENT and ENOTDIR: it went away, or became something else."""
UNCOUNTED = 1 << 60
"""Said of files that cannot be counted."""


class DiskWatch:
    """Looks when asked, and ends every command where the sandbox takes more than it may."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._settings = server.settings
        self._reserve = server.settings.disk_reserve_bytes
        self._limit = server.settings.disk_bytes
        self._used = 0
        self._told = 0
        self._ended_at = -DYING_S
        self._free = -1
        """Of the machine's disk, when the files were counted last; -1 before the first count."""
        self._free_before = 0
        self._trusted: tuple[int, int] | None = None
        """Free and used when they were last known to belong together."""
        self._counted_at = 0.0
        self._rest_until = 0.0
        self._give_up: Callable[[], None] | None = None
        self._is_still = False

    def look(self) -> None:
        """Once for each tick of the watch, while commands run."""
        if not self._limit or not self._settings.disk_paths or self._server.is_final:
            return
        free = _free(self._settings.machine_disk or self._settings.disk_paths[0])
        if self._is_last_line(free):
            self._end_all("disk: " + SCARCE)
        elif self._settings.machine_disk:
            self._judge(_taken(self._settings.disk_paths[0]), free)
        elif self._give_up is not None:
            if self._free - free > self._limit and not self._is_still:
                self._give_up()
        elif self._is_due(free):
            self._count(free)

    def _is_last_line(self, free: int) -> bool:
        before, self._free_before = self._free_before, free
        return free < self._reserve // 2 and before - free > MIB // 4

    def _is_due(self, free: int) -> bool:
        taken, room = self._free - free, max(self._limit - self._used, 0)
        now = monotonic()
        if self._free < 0:
            return True
        if now < self._rest_until and taken < room:
            return False
        # What others write to the same disk counts here too, which only makes for a count in vain.
        step = MIB if free < self._reserve else max(MIB, room // 8)
        return taken > step or now > self._counted_at + LEAST_EVERY_S

    def _count(self, free: int) -> None:
        self._free = free
        began = monotonic()

        def done(said: str | None) -> None:
            self._give_up = None
            self._counted_at = monotonic()
            self._rest_until = self._counted_at + REST * (self._counted_at - began)
            used = int(said) if said is not None and said.isdigit() else -1
            trusted_free, trusted_used = self._trusted = self._trusted or (free, used)
            if used < 0 or (trusted_free - free) - (used - trusted_used) > self._limit:
                self._count_still()
            else:
                self._judge(used, free)

        paths = self._settings.disk_paths
        # A child that is ended, stopped or starved from inside says nothing, and then the commands are stopped instead.
        self._give_up = ask(self._server, lambda: str(used_bytes(paths, must_see_all=False)), BESIDE_S, done)

    def _count_still(self) -> None:
        """Count while nothing inside can add to what was counted, move it, or reach who counts."""
        held = self._server.stillness.hold(
            self._server.runner.own_pids(), within_s=STOPPED_WITHIN_S, accepts_waiting=True
        )
        if held is None:
            self._judge(UNCOUNTED, self._free)
            return
        self._is_still = True
        began = monotonic()
        free = _free(self._settings.disk_paths[0])

        def done(said: str | None) -> None:
            self._give_up = None
            self._is_still = False
            self._counted_at = monotonic()
            self._rest_until = self._counted_at + REST * (self._counted_at - began)
            used = int(said) if said is not None and said.isdigit() else UNCOUNTED
            self._free = free
            self._trusted = (free, used)
            self._judge(used, free)
            if not self._server.is_final:
                self._server.stillness.release(held)

        paths = self._settings.disk_paths
        self._give_up = ask(self._server, lambda: str(used_bytes(paths, must_see_all=True)), STILL_S, done)

    def _judge(self, used: int, free: int) -> None:
        """Over the limit and still growing ends every command. Over it but shrinking is somebody tidying up.

        So does growing on a disk that has nothing to spare, whatever the limit: the machine goes on.
        """
        grown, self._used = used - self._used, used
        if used >= UNCOUNTED:
            self._used, self._told = 0, 0
            self._end_all("disk: what lies there cannot be counted")
        elif used > self._limit:
            if used > self._told:
                self._told = used
                if monotonic() < self._ended_at + DYING_S:
                    return
                self._end_all(f"disk: {used} bytes where {self._limit} are allowed")
        elif grown > MIB and free < self._reserve:
            self._end_all(f"disk: {used} bytes, and {SCARCE}")
        else:
            self._told = 0

    def _end_all(self, reason: str) -> None:
        self._ended_at = monotonic()
        for call in list(self._server.runner.by_keeper.values()):
            call.end("limit", reason)


def _free(path: str) -> int:
    """Bytes that may still be taken; none where there is no place for another file."""
    system = os.statvfs(path)
    if system.f_files and system.f_favail * 40 < system.f_files:
        return 0
    return system.f_bavail * system.f_frsize


def _taken(path: str) -> int:
    system = os.statvfs(path)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def used_bytes(folders: list[str], *, must_see_all: bool) -> int:
    """What the files below take on disk, each hard-linked file once, and what is held open without a name.

    A folder whose owner took the right to look from itself gets it back. One that cannot be looked into all the same,
    since its path is longer than any call takes, counts as more than any limit: what lies below it would be free. So
    does a process that shows nobody what it holds, where `must_see_all`.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = list(folders)
    while pending:
        try:
            entries = _entries(pending.pop())
        except OSError as error:
            if error.errno in GONE:
                continue
            return UNCOUNTED
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno in GONE:
                    continue
                return UNCOUNTED
            is_folder = stat.S_ISDIR(status.st_mode)
            if status.st_nlink > 1 and not is_folder:
                key = (status.st_dev, status.st_ino)
                if key in seen:
                    continue
                seen.add(key)
            total += status.st_blocks * 512 + INODE_BYTES
            if is_folder:
                pending.append(entry.path)
    return total + _unnamed_bytes({os.stat(folder).st_dev for folder in folders}, must_see_all=must_see_all)


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


def _unnamed_bytes(devices: set[int], *, must_see_all: bool) -> int:
    """Bytes of files on `devices` that were removed and are still held, by a descriptor or a mapping."""
    sizes: dict[tuple[int, int], int] = {}
    me = os.getppid()  # the server; its children hold what it holds
    for pid, process in processes.table().items():
        if pid == me or process.state in "ZX":
            continue
        try:
            _add_open(pid, devices, sizes)
            _add_mapped(pid, devices, sizes)
        except PermissionError:
            if must_see_all and process.parent != me:
                return UNCOUNTED
        except OSError:
            continue  # it has ended
    return sum(sizes.values())


def _add_open(pid: int, devices: set[int], sizes: dict[tuple[int, int], int]) -> None:
    folder = "/proc/%d/fd/" % pid
    for name in os.listdir(folder):
        try:
            status = os.stat(folder + name)
        except FileNotFoundError:
            continue
        if status.st_nlink == 0 and status.st_dev in devices and stat.S_ISREG(status.st_mode):
            sizes[(status.st_dev, status.st_ino)] = status.st_blocks * 512


def _add_mapped(pid: int, devices: set[int], sizes: dict[tuple[int, int], int]) -> None:
    """As far as each is mapped: its true size is told to root alone."""
    with open("/proc/%d/maps" % pid, "rb") as file:
        for line in file:
            if not line.endswith(b" (deleted)\n"):
                continue
            span, _, offset, device, inode = line.split()[:5]
            major, minor = (int(part, 16) for part in device.split(b":"))
            key = (os.makedev(major, minor), int(inode))
            if key[0] in devices:
                begin, end = (int(part, 16) for part in span.split(b"-"))
                sizes[key] = max(sizes.get(key, 0), int(offset, 16) + end - begin)

"""A disk of its own for each sandbox of a root machine: what it may take is bounded by the file system itself.

A sandbox's files lie in a sparse image, copied from a template and mounted over a loop device. Nobody has to give
anything back: the image is mounted in the mount namespace of this process alone, from where bubblewrap takes it over
into the sandbox's, and then only there. It goes with the last process inside, and the loop device with it, however
the host's process ended. While a loop device has an image it holds a lock on it, so no two ever write to one.

Nothing inside can reach the image itself: what the kernel reads there, the kernel has written.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from ringfence_sandbox.errors import SandboxBusy, SandboxError

IMAGE = "disk.ext4"
PLACE = "disk"
"""In a sandbox's folder: the image, and the folder where it is mounted for a moment."""
PARTS = ("workspace", "home")
"""What lies in an image. The server's own state does not: it must be able to write when the disk is full."""
SLACK_PART, SLACK_BYTES = 4, 64 << 20
"""By how much an image is larger than the limit: the watch is to end who goes over it, and say why, before that."""
MAKE = (
    "-q", "-F", "-m", "0", "-b", "4096", "-G", "1024", "-J", "size=4", "-O", "^resize_inode", "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
)  # fmt: skip
"""Such that a fresh image has some 250 KB to copy, however large it is."""
OPTIONS = b"discard,noinit_itable"
FREE_WITHIN_S = 5.0
_LOOK_S = 0.005

CLONE_FS, CLONE_NEWNS = 0x200, 0x20000
NO_SUID, NO_DEVICES, DETACH = 2, 4, 2
LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A
"""ioctls of <linux/loop.h>."""
AUTOCLEAR = 4
"""LO_FLAGS_AUTOCLEAR: the device lets go of its file when nobody has it open or mounted any more."""
LOOP_CONFIG = struct.Struct("=II 5Q 4I 64s64s32s 2Q 8Q")
"""struct loop_config: fd, block size, struct loop_info64, reserved."""

Found = TypeVar("Found")


class NoDisks(Exception):
    """This machine has no loop devices for us; the reason, and what mends it."""


class DiskImages:
    """Makes and mounts images. `root` keeps the templates; the mounts are made in the namespace of `namespace_fd`.

    A thread of its own lives in that namespace, since a process started for every mount would take longer than all
    the rest.
    """

    def __init__(self, root: Path, namespace_fd: int) -> None:
        self._root = root
        self._thread = ThreadPoolExecutor(1, "ringfence-disks")
        self._entering = self._thread.submit(_enter, namespace_fd)

    @classmethod
    async def open(cls, root: Path, namespace_fd: int) -> DiskImages:
        """Raises NoDisks, after a whole trial, where no image can be made or mounted here."""
        disks = cls(root, namespace_fd)
        trial = root / f".trial-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            await asyncio.wrap_future(disks._entering)
            trial.mkdir()
            await disks.make(trial, 16 << 20)
            async with disks.mounted(trial, trial / PLACE, os.getuid()):
                pass
        except (OSError, SandboxError) as error:
            disks.close()
            raise NoDisks(str(error)) from error
        except NoDisks:
            disks.close()
            raise
        finally:
            shutil.rmtree(trial, ignore_errors=True)
        return disks

    async def make(self, folder: Path, limit_bytes: int) -> None:
        """An empty image in a sandbox's folder, and the place where it is mounted. Raises NoDisks without mkfs."""
        template = await asyncio.to_thread(self._template, limit_bytes)
        (folder / PLACE).mkdir(mode=0o711)
        await self._there(lambda: _copy(template, folder / IMAGE))

    def _template(self, limit_bytes: int) -> Path:
        size = -(-(limit_bytes + limit_bytes // SLACK_PART + SLACK_BYTES) // 4096) * 4096
        digest = hashlib.sha256(repr((size, MAKE)).encode()).hexdigest()[:16]
        template = self._root / f"disk-{digest}.ext4"
        if template.exists():
            return template
        fresh = self._root / f".disk-{os.getpid()}-{os.urandom(4).hex()}"
        fresh.touch(mode=0o600)
        os.truncate(fresh, size)
        program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if program is None:
            fresh.unlink()
            raise NoDisks("mkfs.ext4 is not there: apt-get install e2fsprogs")
        done = subprocess.run([program, *MAKE, str(fresh)], capture_output=True, check=False, timeout=60)
        if done.returncode != 0:
            fresh.unlink()
            raise NoDisks(f"mkfs.ext4: {done.stderr.decode(errors='replace').strip()[:300]}")
        fresh.replace(template)
        return template

    @asynccontextmanager
    async def mounted(self, folder: Path, place: Path, uid: int) -> AsyncIterator[None]:
        """The image of a sandbox's folder, mounted at `place` (as that namespace knows it) for as long as this lasts.

        Whoever took the mount over meanwhile keeps it. Raises SandboxBusy where something has the image still.
        """
        deadline = asyncio.get_running_loop().time() + FREE_WITHIN_S
        while True:
            try:
                await self._mounted(folder / IMAGE, place, uid)
                break
            except BlockingIOError as error:
                # Whoever had it has been ended: the kernel writes out what it still had to write.
                if asyncio.get_running_loop().time() > deadline:
                    raise SandboxBusy(f"the disk of {folder.name} is in use and does not become free") from error
                await asyncio.sleep(_LOOK_S)
            except OSError as error:
                raise SandboxError(f"the disk of {folder.name} cannot be mounted: {error}") from error
        try:
            yield
        finally:
            await asyncio.shield(self._there(lambda: _detach(place)))

    async def _mounted(self, image: Path, place: Path, uid: int) -> None:
        """Done or not at all: who is cancelled meanwhile cannot stop the thread, and waits to undo it."""
        mounting = asyncio.ensure_future(self._there(lambda: mount(image, place, uid)))
        try:
            await asyncio.shield(mounting)
        except asyncio.CancelledError:
            await asyncio.wait([mounting])
            if mounting.exception() is None:
                await self._there(lambda: _detach(place))
            raise

    async def _there(self, act: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def close(self) -> None:
        self._thread.shutdown()


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _enter(namespace_fd: int) -> None:
    """Take this thread, and no other, into the mount namespace."""
    library = _library()
    _checked(library.unshare(CLONE_FS), "unshare")
    _checked(library.setns(namespace_fd, CLONE_NEWNS), "setns")


def mount(image: Path, place: Path, uid: int) -> None:
    """Raises BlockingIOError where a loop device has the image, or another process is about to mount it."""
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        device, name = _attached(file)
    finally:
        os.close(file)  # the loop device has it now, and with it the lock
    try:
        told = [os.fsencode(part) for part in (name, place)]
        _checked(_library().mount(*told, b"ext4", NO_SUID | NO_DEVICES, OPTIONS), "mount")
    finally:
        os.close(device)
    try:
        for part in PARTS:
            if not (place / part).exists():
                (place / part).mkdir(mode=0o700)
                os.chown(place / part, uid, uid)
    except OSError:
        _detach(place)
        raise


def _attached(file: int) -> tuple[int, str]:
    """A loop device that has `file`: its descriptor, with which it is kept, and its name."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            name = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, _loop_config(file))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else was given the same one
                    raise
                continue
            return device, name
    finally:
        os.close(control)


def _loop_config(file: int) -> bytes:
    nothing = (0,) * 5
    return LOOP_CONFIG.pack(file, 4096, *nothing, 0, 0, 0, AUTOCLEAR, b"", b"", b"", 0, 0, *(0,) * 8)


def _detach(place: Path) -> None:
    _checked(_library().umount2(os.fsencode(place), DETACH), "umount")


def _copy(template: Path, image: Path) -> None:
    """Copy what there is of a sparse file."""
    source = os.open(template, os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(source).st_size
        os.ftruncate(target, size)
        at = 0
        while at < size:
            try:
                begin = os.lseek(source, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = os.lseek(source, begin, os.SEEK_HOLE)
            while begin < at:
                begin += os.copy_file_range(source, target, at - begin, begin, begin)
    finally:
        os.close(source)
        os.close(target)

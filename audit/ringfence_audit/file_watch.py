"""Hears that a file beside the log was written, through inotify, so that nobody has to look again and again."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_READ = 64 << 10


class FileWatch:
    """Watches files of one folder whose names begin with `prefix`. Used on one event loop; `close` it.

    Where the system gives no watch (too many, or none on this file system) `wait` ends with its time.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._written = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._descriptor = _watch(folder)
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._hear, self._descriptor)

    async def wait(self, timeout_s: float) -> None:
        """Until such a file was written since the last call, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._written.wait()
        self._written.clear()

    def close(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _hear(self, descriptor: int) -> None:
        try:
            heard = os.read(descriptor, _READ)
        except BlockingIOError:
            return
        at = 0
        while at < len(heard):
            length = _EVENT.unpack_from(heard, at)[3]
            name = heard[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            if name.startswith(self._prefix) or not name:  # a nameless one says that some were lost
                self._written.set()


def _watch(folder: Path) -> int | None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(_FLAGS)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE) < 0:
        os.close(descriptor)
        return None
    return descriptor

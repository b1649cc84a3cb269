"""A command's output: head and tail in memory, all of it in a file once it is long, an end to it at the limit."""

from __future__ import annotations

import os


class Capture:
    """Takes output as it comes. `head_and_tail` never holds more than `limit`; the file never more than `file_limit`.

    `path` is "" until something was written to the file. What comes after `is_over` is counted and dropped.
    """

    def __init__(self, path: str, *, limit: int, file_limit: int) -> None:
        self._wanted_path = path
        self._head_limit = limit // 2
        self._limit = limit
        self._file_limit = file_limit
        self._fd = -1
        self._kept = bytearray()
        self._tail = bytearray()
        self._written = 0
        self.total = 0
        self.path = ""
        self.is_over = False

    def add(self, data: bytes) -> None:
        before = self.total
        self.total += len(data)
        if self.path:
            self._spool(data)
        if before < self._limit and self.total <= self._limit:
            self._kept += data
            return
        if not self.path:
            self.to_file()
            self._spool(data)
        if before <= self._limit and not self._tail:
            self._kept += data[: self._limit]
            # Up to here everything was kept; from here on only head and tail are.
            self._tail = bytearray((bytes(self._kept[:before]) + data)[self._head_limit :])
            del self._kept[self._head_limit :]
        else:
            self._tail += data
        tail_limit = self._limit - self._head_limit
        if len(self._tail) > tail_limit:
            del self._tail[: len(self._tail) - tail_limit]

    def to_file(self) -> None:
        """From now on keep everything in the file too, what came before included."""
        if self.path:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._wanted_path, flags, 0o644)
        except OSError:
            self.is_over = True  # no room even for an empty file: the disk limit is what ends the command
            return
        self.path = self._wanted_path
        self._spool(bytes(self._kept))

    def _spool(self, data: bytes) -> None:
        room = self._file_limit - self._written
        if len(data) > room:
            self.is_over = True
            data = data[:room]
        if not data or self._fd < 0:
            return
        try:
            self._written += os.write(self._fd, data)
        except OSError:
            self.is_over = True

    def head_and_tail(self) -> tuple[bytes, bytes]:
        return bytes(self._kept), bytes(self._tail)

    @property
    def omitted(self) -> int:
        return self.total - len(self._kept) - len(self._tail)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

"""The run's files as one tar stream, and back, and a patch over a fresh workspace: how work outlives a sandbox.

Both directions run in here, under the fence: the archive was made by a server that commands may have bent, so the
control plane keeps it as bytes and never opens it. Hard links become files of their own; sockets, pipes and devices
are left out, since nothing serves them any more.
"""

from __future__ import annotations

import os
import stat
import tarfile

from . import files
from .repository import Git
from .worker import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .settings import Settings
    from .worker import Emit

INCOMING = "incoming.files"


def roots(settings: Settings) -> list[str]:
    """The directories that belong to the run: what commands may write and what is kept."""
    return settings.disk_paths or [settings.workspace]


class _Stream:
    """What tarfile writes to: each piece goes out as it comes."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def write(self, data: bytes) -> int:
        for at in range(0, len(data), files.PIECE):
            self._emit({"part": True}, bytes(data[at : at + files.PIECE]))
        return len(data)


def pack(settings: Settings, emit: Emit) -> None:
    """Emit the archive in parts, then how many entries could not be read (a path longer than the kernel takes)."""
    stream: Any = _Stream(emit)  # Any: tarfile is declared for whole files, and a stream needs `write` alone
    skipped = 0
    with tarfile.open(
        fileobj=stream,
        mode="w|",
        format=tarfile.PAX_FORMAT,
        bufsize=files.PIECE,
        encoding="utf-8",
        errors="surrogateescape",
    ) as archive:
        pending = list(reversed(roots(settings)))
        while pending:
            path = pending.pop()
            try:
                pending += _add(archive, path)
            except OSError:
                skipped += 1
    emit({"ok": True, "skipped": skipped}, b"")


def _add(archive: tarfile.TarFile, path: str) -> list[str]:
    """Add one entry; return what lies below it, the last first."""
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.mode, entry.mtime = mode, int(found.st_mtime)
    entry.pax_headers = {"mtime": "%d.%09d" % divmod(found.st_mtime_ns, 1_000_000_000)}
    if stat.S_ISDIR(found.st_mode):
        entry.type = tarfile.DIRTYPE
        if mode & 0o500 != 0o500:  # its owner took the right to list it from itself
            os.chmod(path, mode | 0o500)
        below = [path + "/" + name for name in sorted(os.listdir(path), reverse=True)]
        archive.addfile(entry)
        return below
    if stat.S_ISLNK(found.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        archive.addfile(entry)
    elif stat.S_ISREG(found.st_mode):
        if not mode & 0o400:
            os.chmod(path, mode | 0o400)
        with open(path, "rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)
    return []


def unpack(settings: Settings, emit: Emit) -> None:
    """Replace the run's files by the archive that lies in the server's state. Raises Answer for any other archive.

    Links are made last, so that nothing is ever written through one.
    """
    incoming = settings.state + "/" + INCOMING
    for root in roots(settings):
        _empty(root)
    links = []
    folders = []
    try:
        with tarfile.open(incoming, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for entry in archive:
                path = _inside(settings, entry.name)
                if entry.isdir():
                    os.makedirs(path, mode=0o700, exist_ok=True)
                    folders.append((path, entry))
                elif entry.issym():
                    links.append((path, entry))
                elif entry.isreg():
                    _write(archive, entry, path)
                else:
                    raise Answer("path", f"{entry.name}: neither a file, a directory nor a link")
    except tarfile.TarError as error:
        raise Answer("path", f"the archive cannot be read: {error}") from error
    for path, entry in links:
        os.symlink(entry.linkname, path)
        os.utime(path, ns=_times(entry), follow_symlinks=False)
    for path, entry in reversed(folders):
        os.chmod(path, entry.mode & 0o7777)
        os.utime(path, ns=_times(entry))
    os.unlink(incoming)
    emit({"ok": True}, b"")


def _inside(settings: Settings, name: str) -> str:
    path = "/" + name
    if ".." in path.split("/") or not any(files.is_below(path, root) for root in roots(settings)):
        raise Answer("path", f"{name}: lies outside the run's files")
    return path


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
    source = archive.extractfile(entry)
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as target:
        while source is not None:
            piece = source.read(files.PIECE)
            if not piece:
                break
            target.write(piece)
        os.fchmod(target.fileno(), entry.mode & 0o7777)
    os.utime(path, ns=_times(entry))


def _times(entry: tarfile.TarInfo) -> tuple[int, int]:
    seconds, _, rest = str(entry.pax_headers.get("mtime", entry.mtime)).partition(".")
    moment = int(seconds) * 1_000_000_000 + int((rest + "0" * 9)[:9])
    return moment, moment


def _empty(folder: str) -> None:
    import shutil

    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def apply(settings: Settings, emit: Emit) -> None:
    """Lay the patch that lies in the server's state over the fresh workspace. Raises Answer where it does not fit."""
    incoming = settings.state + "/" + INCOMING
    if os.path.getsize(incoming):
        Git(settings).run("apply", "--binary", "--whitespace=nowarn", incoming)
    os.unlink(incoming)
    emit({"ok": True}, b"")

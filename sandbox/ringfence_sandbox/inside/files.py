"""Files of the sandbox, read, listed and written on the control plane's behalf beside processes that race with it.

Writing walks component by component and never through a symbolic link. Reading may follow links: it happens inside, so
a link leads nowhere that a command could not read, save to the server's own state and the kernel's files; both are
refused by where the opened file really lies.
"""

from __future__ import annotations

import os
import stat

from .worker import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .wire import Header, Json
    from .worker import Emit

READ_CEILING = 64 << 20
WHOLE = 1 << 30
"""Files of up to this many bytes are hashed byte for byte."""
HASHED_AT_ONCE = 64 << 20
"""What is hashed while everything waits, and no more: as much as one write can bring."""
PIECE = 512 << 10
PATH_LIMIT = 4000
NAME_LIMIT = 300
NAMES_LIMIT = 100
O_DIRECTORY_WALK = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_PATH
KERNEL_FILES = ("/proc", "/sys", "/dev")


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def resolved(workspace: str, path: str) -> str:
    """`path` as an absolute path; relative ones lie in the workspace. Refuses `..`, and what no call could name."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise Answer("path", f"{path[:100]}…: a path of more than {PATH_LIMIT} bytes")
    if ".." in path.split("/"):
        raise Answer("path", f"{path}: a path must not contain ..")
    return os.path.normpath(path if path.startswith("/") else workspace + "/" + path)


def open_regular(path: str, state: str) -> int:
    """A readable descriptor of a regular file. Raises Answer."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise Answer("path", f"{path}: {error.strerror}") from error
    real = os.readlink("/proc/self/fd/%d" % opened)
    is_kept_from = is_below(real, state) or any(is_below(real, folder) for folder in KERNEL_FILES)
    if is_kept_from or not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Answer("path", f"{path}: not a regular file")
    return opened


def sha256_of(opened: int) -> str:
    """The SHA-256 (hex) of an open file, from its start to where it ended when it was begun.

    A file of more than `WHOLE` is known by its length and its stretches of data, each with its place: a file without
    content can have any length, and hashing a tebibyte of nothing takes a quarter of an hour. Should the file system
    tell the same content in other stretches, the digest differs, and what was approved by it is refused.
    """
    from hashlib import sha256

    size = os.fstat(opened).st_size
    if size <= WHOLE:
        digest = sha256()
        stretches: Iterable[tuple[int, int]] = ((0, size),)
    else:
        digest = sha256(b"stretches of a file of %d bytes" % size)
        stretches = _stretches(opened, size)
    for begin, end in stretches:
        if size > WHOLE:
            digest.update(b"\0%d-%d\0" % (begin, end))
        while begin < end:
            piece = os.pread(opened, min(1 << 20, end - begin), begin)
            if not piece:
                break
            digest.update(piece)
            begin += len(piece)
    return digest.hexdigest()


def _stretches(opened: int, size: int) -> Iterator[tuple[int, int]]:
    """Where an open file has data, up to `size`, in order (lseek(2), SEEK_DATA)."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(opened, at, os.SEEK_DATA)
            at = os.lseek(opened, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == 6:  # ENXIO: nothing but a hole from here on
                return
            raise
        yield begin, min(at, size)


def read(path: str, state: str, offset: int, limit: int, emit: Emit) -> None:
    """Emit a slice, then size and SHA-256 of the whole."""
    opened = open_regular(path, state)
    try:
        at, left = max(offset, 0), min(max(limit, 0), READ_CEILING)
        while left > 0:
            piece = os.pread(opened, min(left, PIECE), at)
            if not piece:
                break
            emit({"part": True}, piece)
            at += len(piece)
            left -= len(piece)
        emit({"ok": True, "size_bytes": os.fstat(opened).st_size, "sha256": sha256_of(opened)}, b"")
    finally:
        os.close(opened)


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def walk(top: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """(path, lstat) below `top`, sorted, folders before what they hold, `.git` and links left unentered."""
    try:
        names = sorted(os.listdir(top))
    except (NotADirectoryError, FileNotFoundError, PermissionError):
        return
    for name in names:
        if name == ".git":
            continue
        path = top + "/" + name
        try:
            found = os.lstat(path)
        except OSError:
            continue
        yield path, found
        if depth > 1 and stat.S_ISDIR(found.st_mode):
            yield from walk(path, depth - 1)


def shown(path: str, workspace: str) -> str:
    """How a path is told: relative to the workspace where it lies in it, absolute elsewhere."""
    return path[len(workspace) + 1 :] if path.startswith(workspace + "/") else path


def printable(path: str) -> str:
    """A file name as text; bytes that are no UTF-8 are shown as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def listing(path: str, workspace: str, state: str, depth: int, limit: int, emit: Emit) -> None:
    real = os.path.realpath(path)
    if is_below(real, state) or not os.path.isdir(real):
        raise Answer("path", f"{path}: not a directory")
    entries: list[Json] = []
    is_truncated = False
    for found, status in walk(real, min(depth, 64)):
        if is_below(found, state):
            continue
        if len(entries) >= limit:
            is_truncated = True
            break
        name = printable(shown(found, workspace))
        entries.append({"path": name, "kind": kind_of(status.st_mode), "size_bytes": status.st_size})
    emit_items(entries, emit, {"ok": True, "is_truncated": is_truncated})


def told(paths: Iterable[str]) -> list[str]:
    """Paths to be read by people, sorted: at most a hundred lines, each cut to what fits into a header beside the
    others; the last one counts those that are not named."""
    found = sorted(paths)
    shown = [printable(path)[:NAME_LIMIT] for path in found[:NAMES_LIMIT]]
    if len(found) > NAMES_LIMIT:
        shown[-1] = "and %d more" % (len(found) - NAMES_LIMIT + 1)
    return shown


def emit_items(items: list[Json], emit: Emit, final: Header) -> None:
    """Emit a list as parts, in bodies, since a header is small; a part holds as many as fit, and one at least."""
    from . import wire

    part: list[str] = []
    size = 0
    for item in items:
        text = wire.dumps(item)
        if part and (len(part) >= 200 or size + len(text) > PIECE):
            emit({"part": True}, ("[" + ",".join(part) + "]\n").encode())
            part, size = [], 0
        part.append(text)
        size += len(text) + 1
    if part:
        emit({"part": True}, ("[" + ",".join(part) + "]\n").encode())
    emit(final, b"")


def open_folder(path: str, *, is_making: bool) -> int:
    """An O_PATH descriptor of the directory at an absolute path, reached through no symbolic link. Raises OSError."""
    current = os.open("/", O_DIRECTORY_WALK)
    for name in [part for part in path.split("/") if part]:
        try:
            if is_making:
                try:
                    os.mkdir(name, 0o755, dir_fd=current)
                except FileExistsError:
                    pass
                except OSError as error:
                    if error.errno not in (30, 13):  # a read-only or foreign parent: the open decides
                        raise
            following = os.open(name, O_DIRECTORY_WALK, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def sha256_without_links(path: str) -> str | None:
    """The SHA-256 of a regular file reached through no symbolic link; None where there is none."""
    folder, name = os.path.split(path)
    try:
        parent = open_folder(folder, is_making=False)
    except OSError:
        return None
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    except OSError:
        return None
    finally:
        os.close(parent)
    try:
        return sha256_of(opened) if stat.S_ISREG(os.fstat(opened).st_mode) else None
    finally:
        os.close(opened)


def write(path: str, content: bytes, expected: str | None) -> str:
    """Create or replace a regular file. Returns "" where it was done, else why it was refused."""
    folder, name = os.path.split(path)
    try:
        parent = open_folder(folder, is_making=True)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    try:
        return _replace(parent, name, content, expected)
    except OSError as error:
        return f"{path}: {error.strerror}"
    finally:
        os.close(parent)


def move(source: str, target: str) -> str:
    """Rename within one file system. Returns "" where it was done, else why it was refused."""
    try:
        old = open_folder(os.path.dirname(source), is_making=False)
    except OSError as error:
        return f"{source}: {error.strerror}"
    try:
        new = open_folder(os.path.dirname(target), is_making=True)
    except OSError as error:
        os.close(old)
        return f"{target}: {error.strerror}"
    try:
        return _rename(old, os.path.basename(source), new, os.path.basename(target))
    finally:
        os.close(old)
        os.close(new)


def _rename(old: int, name: str, new: int, fresh: str) -> str:
    try:
        os.stat(fresh, dir_fd=new, follow_symlinks=False)
    except FileNotFoundError:
        try:
            os.rename(name, fresh, src_dir_fd=old, dst_dir_fd=new)
        except OSError as error:
            return f"{name}: {error.strerror}"
        return ""
    except OSError as error:
        return f"{fresh}: {error.strerror}"
    return f"{fresh}: something stands there already"


def _replace(parent: int, name: str, content: bytes, expected: str | None) -> str:
    mode = 0o644
    try:
        standing = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        if expected:
            return "the file does not exist"
    else:
        if not stat.S_ISREG(standing.st_mode):
            return "not a regular file"
        if expected == "":
            return "the file exists"
        mode = stat.S_IMODE(standing.st_mode) & 0o777
        if expected is not None:
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
            try:
                if os.fstat(opened).st_size > HASHED_AT_ONCE:
                    return f"the file is larger than {HASHED_AT_ONCE} bytes: change it by a command"
                if sha256_of(opened) != expected:
                    return "the file has changed since it was read"
            finally:
                os.close(opened)
    _put(parent, name, content, mode)
    return ""


def _put(parent: int, name: str, content: bytes, mode: int) -> None:
    fresh = f".{name[:100]}.{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open(fresh, flags, 0o600, dir_fd=parent)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(opened, rest) :]
        os.fchmod(opened, mode)
        os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        os.unlink(fresh, dir_fd=parent)
        raise
    finally:
        os.close(opened)

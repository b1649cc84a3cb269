"""The read-only system that every local sandbox sees: programs and libraries, nothing of anyone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ringfence_sandbox.contract import Mount

ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, slots=True)
class SystemTree:
    """What is shown of the machine itself. `links` are symbolic links (target, path) in the sandbox's root."""

    mounts: tuple[Mount, ...]
    links: tuple[tuple[str, str], ...]
    python: str
    """The Python that runs the in-sandbox server, as a path inside."""


def system_tree(etc: Path) -> SystemTree:
    """The system of this machine; `etc` is what `prepared_etc` made."""
    mounts = [Mount(Path("/usr"), PurePosixPath("/usr")), Mount(etc, PurePosixPath("/etc"))]
    links = [("/tmp", "/var/tmp")]  # noqa: S108 - inside
    for name in ROOT_LINKS:
        path = Path("/") / name
        if path.is_symlink():
            links.append((str(path.readlink()), f"/{name}"))
        elif path.is_dir():
            mounts.append(Mount(path, PurePosixPath(f"/{name}")))
    mounts += _python_mounts()
    return SystemTree(tuple(mounts), tuple(links), server_python())


def server_python() -> str:
    """The interpreter that runs this process, outside any virtual environment."""
    executable = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(executable)


def _python_mounts() -> Sequence[Mount]:
    prefix = Path(sys.base_prefix).resolve()
    if prefix == Path("/usr") or prefix.is_relative_to("/usr"):
        return ()
    return (Mount(prefix, PurePosixPath(prefix)),)

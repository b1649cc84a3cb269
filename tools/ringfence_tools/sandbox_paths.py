"""Paths as agents write them, made absolute, and whether they lie where an agent is at home."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

from ringfence_sandbox.contract import WORKSPACE
from ringfence_tools.calls import Access, Family
from ringfence_tools.toolbox import ToolRefusal

WRITABLE = (str(WORKSPACE), "/tmp", "/home/agent")  # noqa: S108 - the sandbox's own sized tmpfs
READABLE = (*WRITABLE, "/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/proc/self")


def absolute(path: str) -> PurePosixPath:
    """A path inside the sandbox: relative ones start at the workspace, `..` is resolved as text.

    Symbolic links are the sandbox's matter: what they lead to lies inside its fence in any case.
    """
    if "\0" in path or not path:
        raise ToolRefusal("a path must not be empty or hold a NUL")
    if len(path) > 4096:
        raise ToolRefusal("a path is at most 4096 characters long")
    return PurePosixPath(posixpath.normpath(posixpath.join(str(WORKSPACE), path)).replace("//", "/"))


def file_access(path: str, *, write: bool) -> Access:
    """The access that reading or writing a path comes down to."""
    try:
        resolved = str(absolute(path))
    except ToolRefusal:
        return Access(Family.FILES, path[:4096], {"write": write, "outside": True})
    home = WRITABLE if write else READABLE
    is_inside = any(resolved == root or resolved.startswith(root + "/") for root in home)
    return Access(Family.FILES, resolved, {"write": write, "outside": not is_inside})


def shown(path: PurePosixPath) -> str:
    """A path as the agent knows it: relative to the workspace where it lies there."""
    return str(path.relative_to(WORKSPACE)) if path.is_relative_to(WORKSPACE) else str(path)

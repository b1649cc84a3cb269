"""A real uid of its own for each sandbox of a root machine, leased through lock files so that processes never collide.

A lease is a file named after the uid, made exclusively, that names its sandbox. It lives as long as the sandbox's
files do, since they belong to the uid; destroy and sweep give it back.
"""

from __future__ import annotations

from pathlib import Path

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import SandboxBusy

FIRST = 2_000_000_000
"""Far above people, services and the subordinate ranges that distributions hand out."""
COUNT = 60_000


class UidLeases:
    """Leases below `folder`, shared by every process of this machine that uses the same folder."""

    def __init__(self, folder: Path, *, first: int = FIRST, count: int = COUNT) -> None:
        self._folder = folder
        self._first = first
        self._count = count

    def take(self, sandbox: SandboxId) -> int:
        """A uid that no other sandbox holds; the same one again for the same sandbox. Raises SandboxBusy."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = self._held()
        for uid, owner in held.items():
            if owner == sandbox:
                return uid
        start = (max(held) + 1 - self._first) if held else 0
        for step in range(self._count):
            uid = self._first + (start + step) % self._count
            if uid not in held and self._claim(uid, sandbox):
                return uid
        raise SandboxBusy(f"all {self._count} uids for sandboxes are in use")

    def release(self, sandbox: SandboxId) -> None:
        """Give back what a sandbox holds. Only once nothing runs under the uid and no file belongs to it."""
        (self._folder / f".{sandbox}").unlink(missing_ok=True)
        for uid, owner in self._held().items():
            if owner == sandbox:
                (self._folder / str(uid)).unlink(missing_ok=True)

    def _claim(self, uid: int, sandbox: SandboxId) -> bool:
        # A link appears with its content in one step; a file made and then written could be read empty in between.
        fresh = self._folder / f".{sandbox}"
        fresh.write_text(sandbox)
        try:
            (self._folder / str(uid)).hardlink_to(fresh)
        except FileExistsError:
            return False
        finally:
            fresh.unlink(missing_ok=True)
        return True

    def _held(self) -> dict[int, str]:
        held: dict[int, str] = {}
        if not self._folder.is_dir():
            return held
        for path in self._folder.iterdir():
            if path.name.isdigit():
                try:
                    held[int(path.name)] = path.read_text()
                except FileNotFoundError:
                    continue
        return held

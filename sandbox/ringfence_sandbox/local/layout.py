"""Where a local sandbox's files lie on the host, and how they are made and removed.

ROOT/sandboxes/ID/            0700 root or the user; the sandbox's own uid owns what is below
    workspace/  home/         what commands write
    state/  output/           the server's journal and base repository; whole outputs
ROOT/uids/  ROOT/etc-HASH/  ROOT/inside-HASH.zip
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import SandboxError, SandboxGone

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
PARTS = ("workspace", "home", "state", "output")


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one state root."""

    root: Path

    @property
    def sandboxes(self) -> Path:
        return self.root / "sandboxes"

    @property
    def uids(self) -> Path:
        return self.root / "uids"

    def sandbox(self, id: SandboxId) -> Path:
        """One sandbox's folder. Raises SandboxError on an id that could name another place."""
        if not NAME.match(id):
            raise SandboxError(f"not a sandbox id: {id!r}")
        return self.sandboxes / id

    def exists(self, id: SandboxId) -> bool:
        return (self.sandbox(id) / "state").is_dir()

    def make(self, id: SandboxId, *, uid: int | None) -> Path:
        """The folders of a fresh sandbox. Raises SandboxError where there are some already."""
        folder = self.sandbox(id)
        self.sandboxes.mkdir(parents=True, exist_ok=True)
        self.sandboxes.chmod(0o711)
        try:
            folder.mkdir(mode=0o711)
        except FileExistsError as error:
            raise SandboxError(f"sandbox {id} exists already") from error
        for part in PARTS:
            (folder / part).mkdir(mode=0o700)
            if uid is not None:
                os.chown(folder / part, uid, uid)
        return folder

    def require(self, id: SandboxId) -> Path:
        """The folder of a sandbox that exists. Raises SandboxGone."""
        if not self.exists(id):
            raise SandboxGone(f"the files of sandbox {id} are gone")
        return self.sandbox(id)

    def remove(self, id: SandboxId) -> None:
        """Remove a sandbox's files. They are hostile, so nothing is followed and no mode stands in the way."""
        folder = self.sandbox(id)
        if not folder.exists():
            return
        if not shutil.rmtree.avoids_symlink_attacks:
            raise SandboxError("this platform cannot remove hostile trees safely")
        shutil.rmtree(folder, onerror=_open_up)


def _open_up(function: object, path: str, failure: object) -> None:
    """A folder that its owner made unreadable stops an ordinary user; root never comes here."""
    target = Path(path)
    for folder in (target.parent, target):
        if not folder.is_symlink() and folder.is_dir():
            folder.chmod(0o700)
    if target.is_symlink() or target.is_file():
        target.unlink(missing_ok=True)
    elif target.exists():
        shutil.rmtree(target)

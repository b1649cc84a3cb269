"""Where a local sandbox's files lie on the host, and how they are made and removed.

ROOT/sandboxes/ID/            0700 root or the user; the sandbox's own uid owns what is below
    workspace/  home/         what commands write; with a disk of its own in disk.ext4, mounted at disk/ inside alone
    state/  output/           the server's journal and base repository; whole outputs
ROOT/uids/  ROOT/etc-HASH/  ROOT/inside-HASH.zip  ROOT/disk-HASH.ext4
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.contract import SandboxId
from ringfence_sandbox.errors import SandboxError, SandboxGone

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
SCRAP = re.compile(r"\.(etc-|trust-|disk-|trial-|inside-[0-9a-f]+\.zip\.)(?P<pid>[0-9]+)[.-][0-9a-f]+\Z")
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

    def claim(self, id: SandboxId) -> None:
        """The folder of a fresh sandbox, before all else of it, so that `sweep` finds whatever a crash leaves.

        Raises SandboxError where there is one already.
        """
        folder = self.sandbox(id)
        self.sandboxes.mkdir(parents=True, exist_ok=True)
        self.sandboxes.chmod(0o711)
        try:
            folder.mkdir(mode=0o711)
        except FileExistsError as error:
            raise SandboxError(f"sandbox {id} exists already") from error

    def fill(self, id: SandboxId, *, uid: int | None, without: Sequence[str] = ()) -> None:
        """What lies in a claimed folder, for the sandbox's own uid; `without` what lies on a disk of its own."""
        folder = self.sandbox(id)
        for part in PARTS:
            if part in without:
                continue
            (folder / part).mkdir(mode=0o700)
            if uid is not None:
                os.chown(folder / part, uid, uid)

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
        try:
            shutil.rmtree(folder, onerror=_open_up)
        except (OSError, RecursionError):
            # Deeper than this interpreter or a path can go: coreutils walk by descriptors, to any depth.
            for command in (("chmod", "-R", "u+rwX"), ("rm", "-rf")):
                subprocess.run([*command, "--", str(folder)], check=False, capture_output=True)
            if folder.exists():
                raise

    def sweep_scraps(self) -> None:
        """Remove what a process that is gone was about to put in place: each such name tells its number."""
        for path in self.root.glob(".*"):
            found = SCRAP.match(path.name)
            if found is None or Path("/proc", found["pid"]).exists():
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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

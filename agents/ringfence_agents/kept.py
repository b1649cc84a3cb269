"""Where the files of a run outlive its sandbox: the patch after each step, and the archive of one that was released.

Beside the log, in the run's folder, whole or not at all, named by digest. They are hostile: written, hashed and handed
to a sandbox again, never opened here. Workers on several machines share this folder.

RUN/patch.diff  RUN/steps/SHA256.patch  RUN/files.tar  RUN/sealed.tar
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.errors import ProtocolViolation, WorkspaceRefused
from ringfence_tools.calls import RunId


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept file: its digest (hex) and size."""

    sha256: str
    size_bytes: int


class Receiving:
    """A file that is being received; `kept` tells of it once it is complete."""

    def __init__(self, part: Path, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._digest = hashlib.sha256()
        self._file = part.open("wb")
        self._size = 0

    def __call__(self, data: bytes) -> None:
        """Raises `ProtocolViolation` where more comes than a sandbox may hold."""
        self._size += len(data)
        if self._size > self._limit_bytes:
            raise ProtocolViolation(f"an archive of more than {self._limit_bytes} bytes")
        self._digest.update(data)
        self._file.write(data)

    @property
    def kept(self) -> Kept:
        return Kept(self._digest.hexdigest(), self._size)

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


class RunFiles:
    """The folders of runs below `artifacts`."""

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts

    def step(self, run: RunId, sha256: str) -> Path:
        return self._artifacts / run / "steps" / f"{sha256}.patch"

    def archive(self, run: RunId) -> Path:
        """The files of a run whose sandbox was released."""
        return self._artifacts / run / "files.tar"

    def sealed(self, run: RunId) -> Path:
        """The files of a run as they were when someone stopped it and wanted them preserved."""
        return self._artifacts / run / "sealed.tar"

    def keep_step(self, run: RunId, patch: bytes) -> Kept:
        """Blocks until it is on disk."""
        kept = Kept(hashlib.sha256(patch).hexdigest(), len(patch))
        path = self.step(run, kept.sha256)
        if not path.exists():
            write_whole(path, patch)
        return kept

    @contextmanager
    def receiving(self, path: Path, *, limit_bytes: int) -> Iterator[Receiving]:
        """Receive a file piece by piece; it has its name once all of it is on disk, and leaves nothing otherwise."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        receiving = Receiving(part, limit_bytes)
        try:
            yield receiving
            receiving.finish()
            part.chmod(0o600)
            part.replace(path)
        finally:
            receiving.abandon()
            part.unlink(missing_ok=True)

    def check(self, path: Path, sha256: str) -> None:
        """Raises `WorkspaceRefused` where the file is gone or is not the one that was kept. Blocks."""
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise WorkspaceRefused(f"the kept files {path} cannot be read ({error.strerror})") from error
        if found != sha256:
            raise WorkspaceRefused(f"the kept files {path} are not those that were kept: restore them from a backup")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, on disk on return."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

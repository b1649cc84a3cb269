"""How a sandbox's uid reaches what only root may walk to, on a machine where the control plane runs as root.

bubblewrap must not run with real uid 0, and as another uid it cannot walk through, say, root's home to the Python that
runs inside. So all that is to be shown is bound, once, to reachable places below one folder, in a mount namespace of
our own: the machine's never changes, and the namespace goes with the last process that holds its descriptor.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import subprocess
from pathlib import Path

from ringfence_sandbox.errors import IsolationUnavailable

HOLDER = """
set -e
mount --make-rslave /
mount -t tmpfs -o mode=0755,size=4m,nosuid,nodev tmpfs "$1"
echo ready
read -r end || true
"""
BIND = """
set -e
while [ $# -gt 0 ]; do
    if [ -d "$1" ]; then mkdir -p "$2"; else : > "$2"; fi
    mount --rbind "$1" "$2"
    shift 2
done
"""


def is_reachable(path: Path) -> bool:
    """Whether any uid may walk to `path` and enter it."""
    for folder in path.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return False
    mode = path.stat().st_mode
    return bool(mode & stat.S_IXOTH) if stat.S_ISDIR(mode) else bool(mode & stat.S_IROTH)


class Reach:
    """The mount namespace and what is bound in it. Root only. Not for concurrent use: the backend holds a lock."""

    def __init__(self, folder: Path, namespace_fd: int) -> None:
        self._folder = folder
        self._bound: dict[Path, Path] = {}
        self.namespace_fd = namespace_fd

    @classmethod
    async def open(cls, folder: Path) -> Reach:
        """Make the namespace; `folder` (an empty directory that any uid can walk to) is where things get bound."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            holder = await asyncio.create_subprocess_exec(
                "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", HOLDER, "sh", str(folder),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise IsolationUnavailable(
                "the program `unshare` is not there", fix="apt-get install util-linux"
            ) from error
        said, complaint = b"", b""
        if holder.stdout is not None and holder.stderr is not None:
            said = await asyncio.wait_for(holder.stdout.readline(), 10)
            if said != b"ready\n":
                complaint = await asyncio.wait_for(holder.stderr.read(4096), 10)
        if said != b"ready\n":
            await holder.wait()
            raise IsolationUnavailable(
                f"root may not make a mount namespace here ({complaint.decode(errors='replace').strip()})",
                fix="run as an ordinary user, or give this container CAP_SYS_ADMIN",
            )
        namespace_fd = os.open(f"/proc/{holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        await holder.communicate(b"\n")
        return cls(folder, namespace_fd)

    def reachable(self, *paths: Path) -> None:
        """Bind what is not reachable yet. Raises IsolationUnavailable."""
        wanted = [path for path in dict.fromkeys(paths) if path not in self._bound]
        arguments: list[str] = []
        places: dict[Path, Path] = {}
        for path in wanted:
            if is_reachable(path):
                places[path] = path
                continue
            target = self._folder / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
            places[path] = target
            arguments += [str(path), str(target)]
        if arguments:
            self._bind(arguments)
        self._bound.update(places)

    def _bind(self, arguments: list[str]) -> None:
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/self/fd/{self.namespace_fd}", "sh", "-c", BIND, "sh", *arguments],
            pass_fds=(self.namespace_fd,),
            capture_output=True,
            check=False,
            timeout=30,
        )
        if done.returncode != 0:
            raise IsolationUnavailable(
                f"trees of the host could not be bound: {done.stderr.decode(errors='replace').strip()}",
                fix="see whether `unshare --mount mount --bind /usr /mnt` works as root",
            )

    def place(self, path: Path) -> Path:
        """Where `path` (or what lies below a path that was bound) is reachable."""
        for known in (path, *path.parents):
            if known in self._bound:
                return self._bound[known] / path.relative_to(known)
        return path

    def close(self) -> None:
        if self.namespace_fd >= 0:
            os.close(self.namespace_fd)
            self.namespace_fd = -1

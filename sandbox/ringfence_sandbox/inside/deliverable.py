"""What differs from the workspace's start, said in a way that the agent cannot bend, and cannot prevent.

It is computed against the server's own repository: the workspace's `.git` (configuration, hooks, index, history) is
never read, so rewriting it hides nothing. The tree is walked here rather than by git, since a nested `.git` would make
git skip what lies below. No file can keep the others out of a patch: what its owner closed is opened meanwhile, what
its attributes would garble is taken byte for byte, and what git cannot carry at all is left out by name.
"""

from __future__ import annotations

import os
import shutil
import stat

from . import files, git_folder
from .repository import Git
from .worker import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings
    from .wire import Json
    from .worker import Emit

DIFF_CEILING = 256 << 20
CONTENT_CEILING = 128 << 20
"""Of all changed files together: what does not compress grows by a quarter in a patch."""
TRIES = 500
"""How often git is started again to find the files that it refuses."""
AS_IT_IS = "* -text !eol !ident !filter !working-tree-encoding"
SHOWN = "* !diff"
"""No file may call itself binary: a person is to read the patch."""


class Tree:
    """What the workspace holds now beside its base commit, as paths in bytes. `close` it.

    `left_out`: what no patch carries. Nothing else may change files meanwhile.
    """

    def __init__(self, settings: Settings, scratch: str) -> None:
        self._top = os.fsencode(settings.workspace)
        self._opened: list[tuple[bytes, int]] = []
        self._sizes: dict[bytes, int] = {}
        self.left_out: set[bytes] = set()
        self.git = Git(settings)
        if not os.path.exists(self.git.base + "/ringfence-base"):
            raise Answer("workspace", "no workspace has been loaded")
        with open(self.git.base + "/ringfence-base") as file:
            self.base = file.read().strip()
        self.git.throw_away(scratch)
        self._walk()
        present = set(self._sizes)
        self._tracked = self._listed("ls-files", "-z")
        links = self.git.run("ls-files", "-z", "-s").split(b"\0")
        gitlinks = {entry.split(b"\t", 1)[1] for entry in links if entry.startswith(b"160000 ")}
        gone = self._tracked - present - gitlinks
        self.gone = {path for path in gone if not any(path.startswith(folder + b"/") for folder in self.left_out)}
        # A submodule's content belongs to another repository: a patch of this one has no words for it.
        below = {path for path in present if gitlinks and any(path.startswith(link + b"/") for link in gitlinks)}
        self.left_out |= below
        self.ignored = self._ignored(present - self._tracked - below)
        self.standing = present - self.ignored - gitlinks - below

    def close(self) -> None:
        """Give back every mode that was changed."""
        for path, mode in reversed(self._opened):
            os.chmod(path, mode)

    def _walk(self) -> None:
        """Find every regular file and symbolic link below the workspace, any `.git` left out."""
        self._open_up(self._top, os.lstat(self._top).st_mode, 0o500)
        pending = [b""]
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(self._top + b"/" + folder))
            except OSError:
                self.left_out.add(folder.rstrip(b"/"))
                continue
            for entry in entries:
                if entry.name.lower() == b".git":
                    continue
                try:
                    if self._take(entry, folder + entry.name):
                        pending.append(folder + entry.name + b"/")
                except OSError:
                    self.left_out.add(folder + entry.name)

    def _take(self, entry: os.DirEntry[bytes], path: bytes) -> bool:
        """Note a file; True for a folder, to be looked into."""
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            self._open_up(entry.path, found.st_mode, 0o500)
            return True
        if stat.S_ISREG(found.st_mode):
            self._open_up(entry.path, found.st_mode, 0o400)
            self._sizes[path] = found.st_size
        elif stat.S_ISLNK(found.st_mode):
            self._sizes[path] = 0
        return False

    def _open_up(self, path: bytes, mode: int, wanted: int) -> None:
        """The owner took a right from itself."""
        if mode & wanted != wanted:
            os.chmod(path, stat.S_IMODE(mode) | wanted)
            self._opened.append((path, stat.S_IMODE(mode)))

    def _listed(self, *arguments: str) -> set[bytes]:
        return set(self.git.run(*arguments).split(b"\0")) - {b""}

    def _ignored(self, untracked: set[bytes]) -> set[bytes]:
        if not untracked:
            return set()
        listed = b"\0".join(sorted(untracked)) + b"\0"
        told = self.git.run("check-ignore", "--no-index", "-z", "--stdin", stdin=listed, statuses=(0, 1))
        return set(told.split(b"\0")) - {b""}

    def stage(self) -> None:
        """Put the workspace's state into the index to throw away."""
        if sum(self._sizes[path] for path in self.standing) > CONTENT_CEILING:
            self._leave_out_what_is_large()
        # What is gone goes first and is not looked for: a folder may stand where the file stood.
        if self.gone:
            self.git.run("update-index", "--force-remove", "-z", "--stdin", stdin=b"\0".join(sorted(self.gone)) + b"\0")
        if not self._add(sorted(self.standing)):
            # Attributes that the agent wrote ask for a conversion that fails.
            self.git.attribute(AS_IT_IS)
            self._add_one_by_one(sorted(self.standing & self._changed()))
        self.git.attribute(SHOWN)
        self.left_out |= self.standing - self._listed("ls-files", "-z")

    def _changed(self) -> set[bytes]:
        """What is not tracked, and what is no longer as the index knows it, told by size and times."""
        return (self.standing - self._tracked) | self._listed("diff-files", "-z", "--name-only")

    def _leave_out_what_is_large(self) -> None:
        """Before git reads it: a file without content can have any size."""
        left = CONTENT_CEILING
        for path in sorted(self.standing & self._changed(), key=lambda path: (self._sizes[path], path)):
            left -= self._sizes[path]
            if left < 0:
                self.left_out.add(path)
        self.standing -= self.left_out

    def _add(self, paths: list[bytes]) -> bool:
        """Whether git took all of them; else it took none."""
        if not paths:
            return True
        try:
            self.git.run("update-index", "--add", "--replace", "-z", "--stdin", stdin=b"\0".join(paths) + b"\0")
        except Answer:
            return False
        return True

    def _add_one_by_one(self, paths: list[bytes]) -> None:
        """Halve what git refuses until the ones that it refuses are found."""
        pending, tries = [paths], 0
        while pending:
            some = pending.pop()
            tries += 1
            if tries <= TRIES and self._add(some):
                continue
            if len(some) == 1 or tries > TRIES:
                self.left_out.update(some)
            else:
                pending += [some[len(some) // 2 :], some[: len(some) // 2]]


def diff(settings: Settings, emit: Emit) -> None:
    """Emit the patch in parts, then the base commit and what no patch carries."""
    scratch = _scratch(settings)
    try:
        tree = Tree(settings, scratch)
        try:
            tree.stage()
            patch = tree.git.run(
                "diff", "--cached", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-renames",
                "--no-color", "--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=all", tree.base, "--",
            )  # fmt: skip
        finally:
            tree.close()
        if len(patch) > DIFF_CEILING:
            raise Answer("path", "the patch is larger than %d bytes" % DIFF_CEILING)
        for at in range(0, len(patch), files.PIECE):
            emit({"part": True}, patch[at : at + files.PIECE])
        watched: list[Json] = list(git_folder.changes(settings))
        left_out: list[Json] = list(files.told(os.fsdecode(path) for path in tree.left_out))
        emit({"ok": True, "base_commit": tree.base, "watched": watched, "left_out": left_out}, b"")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def changed(settings: Settings, emit: Emit) -> None:
    """Emit every path that differs from the base commit, ignored ones included, with the content's SHA-256."""
    scratch = _scratch(settings)
    try:
        tree = Tree(settings, scratch)
        try:
            files.emit_items(_changes(tree, settings), emit, {"ok": True})
        finally:
            tree.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _changes(tree: Tree, settings: Settings) -> list[Json]:
    tree.stage()
    told = tree.git.run(
        "diff", "--cached", "--name-status", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=all",
        tree.base, "--",
    ).split(b"\0")  # fmt: skip
    status_of = dict(zip(told[1::2], told[0::2]))
    status_of.update((path, b"A") for path in tree.ignored | tree.left_out)
    items: list[Json] = []
    names = {b"A": "added", b"D": "deleted"}
    for path in sorted(status_of):
        status = names.get(status_of[path][:1], "modified")
        shown = files.printable(os.fsdecode(path))
        items.append({"path": shown, "status": status, "sha256": _sha256(settings, path)})
    return items


def _sha256(settings: Settings, path: bytes) -> str:
    try:
        opened = os.open(
            os.fsencode(settings.workspace) + b"/" + path,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
        )
    except OSError:
        return ""
    try:
        return files.sha256_of(opened) if stat.S_ISREG(os.fstat(opened).st_mode) else ""
    finally:
        os.close(opened)


def _scratch(settings: Settings) -> str:
    folder = "%s/scratch-%d" % (settings.state, os.getpid())
    if os.path.lexists(folder):
        shutil.rmtree(folder)  # of a worker that was killed under an earlier server: numbers come again in here
    os.makedirs(folder, mode=0o700)
    return folder

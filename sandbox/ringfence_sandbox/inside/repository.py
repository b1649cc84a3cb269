"""The workspace as a git repository, and what differs from its start, said in a way that the agent cannot bend.

The server keeps a bare repository of its own in its state directory, which commands cannot open. What has changed is
computed against that one: the workspace's `.git` (configuration, hooks, index, history) is never read, so rewriting it
hides nothing. The tree is walked here rather than by git, since a nested `.git` would make git skip what lies below.
Git runs with no configuration but ours, no hooks, no filters, no external diff.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

from . import files, git_folder
from .worker import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings
    from .wire import Json
    from .worker import Emit

SAFE = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "core.attributesFile=/dev/null",
    "-c", "core.excludesFile=/dev/null",
    "-c", "core.quotePath=false",
    "-c", "core.autocrlf=false",
    "-c", "core.fileMode=true",
    "-c", "core.symlinks=true",
    "-c", "submodule.recurse=false",
    "-c", "diff.external=",
    "-c", "protocol.allow=never",
    "-c", "protocol.file.allow=always",
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "init.defaultBranch=main",
    "-c", "advice.detachedHead=false",
    "-c", "index.threads=1",
    "-c", "safe.directory=*",
)  # fmt: skip
DIFF_CEILING = 256 << 20


def _environment(settings: Settings, **more: str) -> dict[str, str]:
    return {
        "PATH": settings.environment.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        **settings.git_environment,
        **more,
    }


class Git:
    """Git on the server's own repository, the workspace as its work tree; index and objects can be thrown away."""

    def __init__(self, settings: Settings) -> None:
        self.base = settings.state + "/base.git"
        self.workspace = settings.workspace
        self._settings = settings
        self._more: dict[str, str] = {}

    def run(self, *arguments: str, stdin: bytes = b"", statuses: tuple[int, ...] = (0,)) -> bytes:
        """Standard output. Raises Answer with the end of standard error."""
        more = {"GIT_DIR": self.base, "GIT_WORK_TREE": self.workspace, **self._more}
        done = subprocess.run(
            [self._settings.git, *SAFE, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.workspace,
            env=_environment(self._settings, **more),
            check=False,
        )
        if done.returncode not in statuses:
            raise Answer("workspace", "git {}: {}".format(arguments[0], done.stderr.decode("utf-8", "replace")[-2000:]))
        return done.stdout

    def throw_away(self, folder: str) -> None:
        """From now on write into `folder` only."""
        os.makedirs(folder + "/objects/info")
        with open(folder + "/objects/info/alternates", "w") as file:
            file.write(self.base + "/objects\n")
        # With its times: git compares contents where a file is as young as the index that knows it.
        shutil.copy2(self.base + "/index", folder + "/index")
        self._more = {"GIT_OBJECT_DIRECTORY": folder + "/objects", "GIT_INDEX_FILE": folder + "/index"}


def load(settings: Settings, bundle: str, commit: str, branch: str) -> None:
    """Make the workspace and the server's own copy from a bundle. Raises Answer, leaving nothing half-made behind."""
    try:
        _load(settings, bundle, commit, branch)
    except (Answer, OSError):
        shutil.rmtree(settings.state + "/base.git", ignore_errors=True)
        _empty(settings.workspace)
        raise


def _empty(folder: str) -> None:
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _load(settings: Settings, bundle: str, commit: str, branch: str) -> None:
    if len(commit) not in (40, 64) or not all(c in "0123456789abcdef" for c in commit):
        raise Answer("workspace", f"not a commit id: {commit[:80]}")
    if os.path.exists(settings.state + "/base.git") or os.listdir(settings.workspace):
        raise Answer("workspace", "the workspace has been loaded already")
    git = Git(settings)
    form = "sha256" if len(commit) == 64 else "sha1"
    own = Git(settings)
    own.base = settings.workspace + "/.git"
    own.run("init", "--quiet", "--object-format=" + form)
    own.run("check-ref-format", "--branch", branch)
    _take_over_shallow_ends(own, bundle)
    own.run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", bundle, "+refs/*:refs/ringfence/*")
    _take_over_refs(own)
    own.run("cat-file", "-e", commit + "^{commit}")
    own.run("update-ref", "refs/heads/" + branch, commit)
    own.run("symbolic-ref", "HEAD", "refs/heads/" + branch)
    own.run("reset", "--quiet", "--hard")
    shutil.copytree(own.base, git.base, symlinks=True)
    with open(git.base + "/ringfence-base", "w") as file:
        file.write(commit)
    git.run("config", "core.bare", "false")
    git_folder.remember(settings)


def _take_over_shallow_ends(own: Git, bundle: str) -> None:
    """Where the history of a shallow clone ends, which its bundle tells as `refs/shallow/COMMIT`."""
    heads = own.run("bundle", "list-heads", bundle).decode().splitlines()
    ends = [name for name, ref in (line.split(" ", 1) for line in heads) if ref == "refs/shallow/" + name]
    if ends:
        with open(own.base + "/shallow", "w") as file:
            file.write("\n".join(ends) + "\n")


def _take_over_refs(own: Git) -> None:
    """Branches and tags of the bundle become the workspace's; whatever else it names is dropped."""
    refs = own.run("for-each-ref", "--format=%(objectname) %(refname)", "refs/ringfence/").decode().splitlines()
    lines = []
    for line in refs:
        name, ref = line.split(" ", 1)
        rest = ref[len("refs/ringfence/") :]
        if rest.startswith(("heads/", "tags/")):
            lines.append(f"create refs/{rest} {name}\n")
        lines.append(f"delete {ref}\n")
    own.run("update-ref", "--stdin", stdin="".join(lines).encode())


class Tree:
    """What the workspace holds now beside its base commit, as paths in bytes."""

    def __init__(self, settings: Settings, scratch: str) -> None:
        self.settings = settings
        self.git = Git(settings)
        if not os.path.exists(self.git.base + "/ringfence-base"):
            raise Answer("workspace", "no workspace has been loaded")
        with open(self.git.base + "/ringfence-base") as file:
            self.base = file.read().strip()
        self.git.throw_away(scratch)
        tracked = set(self.git.run("ls-files", "-z").split(b"\0")) - {b""}
        links = self.git.run("ls-files", "-z", "-s").split(b"\0")
        gitlinks = {entry.split(b"\t", 1)[1] for entry in links if entry.startswith(b"160000 ")}
        present = set(_present(settings.workspace))
        self.gone = tracked - present - gitlinks
        self.ignored = self._ignored(present - tracked)
        self.standing = sorted((present - self.ignored) - gitlinks)

    def _ignored(self, untracked: set[bytes]) -> set[bytes]:
        if not untracked:
            return set()
        listed = b"\0".join(sorted(untracked)) + b"\0"
        return set(self.git.run("check-ignore", "-z", "--stdin", stdin=listed, statuses=(0, 1)).split(b"\0")) - {b""}

    def stage(self) -> None:
        """Put the workspace's state into the index to throw away."""
        # What is gone goes first and is not looked for: a folder may stand where the file stood.
        if self.gone:
            self.git.run("update-index", "--force-remove", "-z", "--stdin", stdin=b"\0".join(sorted(self.gone)) + b"\0")
        if self.standing:
            self.git.run("update-index", "--add", "--replace", "-z", "--stdin", stdin=b"\0".join(self.standing) + b"\0")


def _present(workspace: str) -> list[bytes]:
    """Every regular file and symbolic link below the workspace, any `.git` left out, relative, as bytes."""
    top = os.fsencode(workspace)
    found = []
    pending = [b""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(top + b"/" + folder))
        except OSError as error:
            raise Answer("workspace", f"{os.fsdecode(folder)} cannot be listed: {error.strerror}") from error
        for entry in entries:
            if entry.name.lower() == b".git":
                continue
            path = folder + entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path + b"/")
            elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                found.append(path)
    return found


def diff(settings: Settings, emit: Emit) -> None:
    """Emit the patch in parts, then the base commit."""
    scratch = _scratch(settings)
    try:
        tree = Tree(settings, scratch)
        tree.stage()
        patch = tree.git.run(
            "diff", "--cached", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-renames",
            "--no-color", "--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=all", tree.base, "--",
        )  # fmt: skip
        if len(patch) > DIFF_CEILING:
            raise Answer("path", "the patch is larger than %d bytes" % DIFF_CEILING)
        for at in range(0, len(patch), files.PIECE):
            emit({"part": True}, patch[at : at + files.PIECE])
        watched: list[Json] = list(git_folder.changes(settings))
        emit({"ok": True, "base_commit": tree.base, "watched": watched}, b"")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def changed(settings: Settings, emit: Emit) -> None:
    """Emit every path that differs from the base commit, ignored ones included, with the content's SHA-256."""
    scratch = _scratch(settings)
    try:
        tree = Tree(settings, scratch)
        tree.stage()
        told = tree.git.run(
            "diff", "--cached", "--name-status", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=all",
            tree.base, "--",
        ).split(b"\0")  # fmt: skip
        status_of = dict(zip(told[1::2], told[0::2]))
        status_of.update((path, b"A") for path in tree.ignored)
        items: list[Json] = []
        names = {b"A": "added", b"D": "deleted"}
        for path in sorted(status_of):
            status = names.get(status_of[path][:1], "modified")
            items.append({"path": path.decode("utf-8", "replace"), "status": status, "sha256": _sha256(settings, path)})
        files.emit_items(items, emit, {"ok": True})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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

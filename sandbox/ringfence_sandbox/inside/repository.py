"""The workspace as a git repository: made from a bundle, and git as this server runs it.

The server keeps a bare repository of its own in its state directory, which commands cannot open. Git runs with no
configuration but ours, no hooks, no filters, no external diff.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from . import git_folder
from .worker import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings

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
        for name in ("objects/info", "refs", "info"):
            os.makedirs(folder + "/" + name)
        for name, text in (("objects/info/alternates", self.base + "/objects\n"), ("HEAD", "ref: refs/heads/main\n")):
            with open(folder + "/" + name, "w") as file:
                file.write(text)
        # With its times: git compares contents where a file is as young as the index that knows it.
        for name in ("index", "config"):
            shutil.copy2(self.base + "/" + name, folder + "/" + name)
        self._more = {"GIT_DIR": folder}

    def attribute(self, line: str) -> None:
        """Overrule what any `.gitattributes` of the workspace says. After `throw_away`."""
        with open(self._more["GIT_DIR"] + "/info/attributes", "w") as file:
            file.write(line + "\n")


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

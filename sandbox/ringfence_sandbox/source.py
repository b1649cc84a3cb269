"""How a repository gets into a sandbox: as a git bundle, made without letting it run anything on the host.

A repository can run commands through its configuration (fsmonitor, filters, includes, hooks, credential helpers). So
git on the host never reads the configuration of a person's checkout: a temporary git directory with nothing but a
fresh configuration borrows its objects, and all work is done there. Nothing here reads what an agent wrote.

Nor does a repository bring in another one: a folder whose parts lead to a second, private repository of the person
(links, a `.git` file, alternates) would hand that to the agent. Such a place is refused until the person names it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.contract import Bundle
from ringfence_sandbox.errors import WorkspaceRefused

GIT_WITHIN_S = 600
SHALLOW_REFS = "refs/shallow/"
"""Known to `inside.repository` too, which imports nothing from outside."""

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_WORKTREE = re.compile(r"^\s*worktree\s*=\s*\"?([^\"\n]+)", re.IGNORECASE | re.MULTILINE)
_SHA256_FORMAT = re.compile(r"^\s*objectformat\s*=\s*\"?sha256", re.IGNORECASE | re.MULTILINE)
_QUIET = (
    "-c", "core.fsmonitor=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.untrackedCache=false",
    "-c", "protocol.allow=never",
    "-c", "submodule.recurse=false",
    "-c", "advice.detachedHead=false",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Checkout:
    """Where the parts of a person's repository lie. `top` is None for a bare one."""

    git_dir: Path
    common_dir: Path
    top: Path | None


def bundle_from_path(path: Path, *, into: Path, allow_dirty: bool = False) -> Bundle:
    """Bundle what HEAD of a checkout reaches into the folder `into`. Raises `WorkspaceRefused`, which says what to do.

    With `allow_dirty`, uncommitted changes are left out instead of refused.
    """
    checkout = _find(path)
    _refuse_foreign(checkout, path)
    commit, branch = _head(checkout, path)
    target = into / "repository.bundle"
    with _borrowed(checkout) as git_dir:
        done = _git(git_dir, "cat-file", "-e", f"{commit}^{{commit}}", check=False)
        if done.returncode:
            raise WorkspaceRefused(f"{path}: the commit of HEAD is not there; run `git fsck`, or clone it anew")
        if not allow_dirty and checkout.top is not None and (changed := _changed(git_dir, checkout)):
            names = ", ".join(repr(name)[1:-1] for name in changed[:3]) + (" …" if len(changed) > 3 else "")
            raise WorkspaceRefused(
                f"{path} has uncommitted changes ({names}); commit or stash them, or leave them out with --allow-dirty"
            )
        _git(git_dir, "update-ref", f"refs/heads/{branch}", commit)
        refs = [f"refs/heads/{branch}", *_name_shallow_ends(git_dir, commit)]
        made = _git(git_dir, "bundle", "create", "--quiet", str(target), *refs, check=False)
    if made.returncode:
        target.unlink(missing_ok=True)
        said = made.stderr.decode(errors="replace").strip().splitlines()
        raise WorkspaceRefused(
            f"{path}: git cannot bundle it ({said[-1] if said else 'no message'}); if it is a partial clone, "
            "make a full one with `git clone` and use that"
        )
    return Bundle(target, commit, branch)


def _name_shallow_ends(git_dir: Path, commit: str) -> Sequence[str]:
    """Refs that tell the other side where the history of a shallow clone ends: a bundle has no other word for it."""
    if not (git_dir / "shallow").is_file():
        return ()
    roots = _git(git_dir, "rev-list", "--max-parents=0", commit).stdout.decode().split()
    ends = sorted(set(roots) & set(_text(git_dir / "shallow").split()))
    for end in ends:
        _git(git_dir, "update-ref", f"{SHALLOW_REFS}{end}", end)
    return [f"{SHALLOW_REFS}{end}" for end in ends]


def _find(path: Path) -> _Checkout:
    if not path.exists():
        raise WorkspaceRefused(f"{path} does not exist; give the path of a git repository with --repo")
    start = path.resolve()
    for folder in (start, *start.parents):
        marker = folder / ".git"
        if marker.is_dir():
            return _Checkout(marker, _common(marker), folder)
        if marker.is_file():
            git_dir = _linked(marker)
            return _Checkout(git_dir, _common(git_dir), folder)
        if (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir():
            return _Checkout(folder, _common(folder), None)
    raise WorkspaceRefused(f"{path} is no git repository; run `git init` and commit, or give another path with --repo")


def _linked(marker: Path) -> Path:
    """The git directory that a `.git` file of a worktree or submodule points to."""
    text = marker.read_text(errors="replace").strip()
    if not text.startswith("gitdir:"):
        raise WorkspaceRefused(f"{marker} is not a git file")
    found = (marker.parent / text.removeprefix("gitdir:").strip()).resolve()
    if not found.is_dir():
        raise WorkspaceRefused(f"{marker} points to {found}, which does not exist; run `git worktree repair`")
    return found


def _refuse_foreign(checkout: _Checkout, path: Path) -> None:
    """Raise `WorkspaceRefused` for a repository that has its commits from a place that is not its own."""
    own, common = checkout.git_dir, checkout.common_dir
    if checkout.top is not None and own.resolve() != checkout.top / ".git" and not _points_back(own, checkout.top):
        raise _foreign(path, ".git", own)
    if common != own and common != own.parent.parent:
        raise _foreign(path, "commondir", common)
    for folder in (own, common):
        for name in ("HEAD", "refs", "packed-refs", "objects", "objects/pack", "objects/info"):
            if (folder / name).is_symlink():
                raise _foreign(path, name, folder / name)
    objects = common / "objects"
    for entry in (*objects.glob("[0-9a-f][0-9a-f]"), *objects.glob("pack/*")):
        if entry.is_symlink():
            raise _foreign(path, f"objects/{entry.name}", entry)
    if _text(objects / "info" / "alternates"):
        raise WorkspaceRefused(
            f"{path} borrows objects from another repository; make them its own with `git repack -ad`, "
            "then remove .git/objects/info/alternates"
        )


def _points_back(git_dir: Path, top: Path) -> bool:
    """Whether a git directory elsewhere says itself that this is its worktree (linked ones, submodules)."""
    if linked := _text(git_dir / "gitdir"):
        return (git_dir / linked).resolve() == top / ".git"
    named = _WORKTREE.search(_text(git_dir / "config"))
    return named is not None and (git_dir / named[1].strip()).resolve() == top


def _foreign(path: Path, name: str, place: Path) -> WorkspaceRefused:
    return WorkspaceRefused(
        f"{path}: its {name} leads to {place.resolve()}, which is not this repository's; if that is what the agent is "
        "to work on, name it with --repo"
    )


def _common(git_dir: Path) -> Path:
    pointer = git_dir / "commondir"
    return (git_dir / pointer.read_text(errors="replace").strip()).resolve() if pointer.is_file() else git_dir


def _head(checkout: _Checkout, path: Path) -> tuple[str, str]:
    """The commit of HEAD and the branch it is on (`main` where it is on none)."""
    text = _text(checkout.git_dir / "HEAD")
    if not text.startswith("ref: "):
        return _commit(text, path), "main"
    name = text.removeprefix("ref: ").strip()
    branch = name.removeprefix("refs/heads/")
    if (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", branch)
        or ".." in branch
        or branch.endswith((".lock", "/"))
    ):
        branch = "main"
    for folder in (checkout.git_dir, checkout.common_dir):
        loose = folder / name
        if ".." not in name and loose.is_file():
            return _commit(_text(loose), path), branch
    for line in _text(checkout.common_dir / "packed-refs").splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name:
            return _commit(commit, path), branch
    if (checkout.common_dir / "reftable").is_dir():
        raise WorkspaceRefused(f"{path} keeps its refs in a reftable; clone it with `git clone --ref-format=files`")
    raise WorkspaceRefused(f"{path} has no commits yet; commit something first")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise WorkspaceRefused(f"{path} cannot be read: {error.strerror}") from error


def _commit(text: str, path: Path) -> str:
    if not _COMMIT.match(text):
        raise WorkspaceRefused(f"{path}: HEAD names no commit; check it with `git log -1`")
    return text


@contextmanager
def _borrowed(checkout: _Checkout) -> Iterator[Path]:
    """A git directory of our own that reads the checkout's objects and nothing else of it."""
    objects = checkout.common_dir / "objects"
    if "\n" in str(objects) or '"' in str(objects):
        raise WorkspaceRefused(f"{objects} cannot be used by git as an object store; rename the folder")
    with tempfile.TemporaryDirectory(prefix="ringfence-git-") as folder:
        git_dir = Path(folder) / "repository.git"
        form = "sha256" if _SHA256_FORMAT.search(_text(checkout.common_dir / "config")) else "sha1"
        _run(["git", "init", "--quiet", "--bare", "--template=", f"--object-format={form}", str(git_dir)])
        (git_dir / "objects" / "info").mkdir(exist_ok=True)
        (git_dir / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        if ends := _text(checkout.common_dir / "shallow"):
            (git_dir / "shallow").write_text(f"{ends}\n")
        yield git_dir


def _changed(git_dir: Path, checkout: _Checkout) -> Sequence[str]:
    """Tracked files that differ from HEAD. Submodules are not looked into: theirs is a configuration of its own."""
    _git(git_dir, "update-ref", "--no-deref", "HEAD", _head(checkout, checkout.git_dir)[0])
    for name in (checkout.git_dir / "index", *checkout.git_dir.glob("sharedindex.*")):
        if name.is_file():
            # With its times: git compares contents where a file is as young as the index that knows it.
            shutil.copy2(name, git_dir / name.name)
    arguments = ("-c", "core.bare=false", f"--work-tree={checkout.top}")
    status = ("status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=all", "--no-renames")
    done = _git(git_dir, *arguments, *status, check=False)
    if done.returncode:
        raise WorkspaceRefused(
            f"git cannot compare {checkout.top} with HEAD: {done.stderr.decode(errors='replace')[:300]}"
        )
    return [entry[3:].decode(errors="replace") for entry in done.stdout.split(b"\0") if entry]


def _git(git_dir: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return _run(["git", *_QUIET, f"--git-dir={git_dir}", *arguments], check=check)


def _run(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=GIT_WITHIN_S, check=False)
    except FileNotFoundError as error:
        raise WorkspaceRefused("git is not installed; install it with your package manager") from error
    except subprocess.TimeoutExpired as error:
        raise WorkspaceRefused(f"git took longer than {GIT_WITHIN_S} s on this repository") from error
    if check and done.returncode:
        raise WorkspaceRefused(f"git failed: {done.stderr.decode(errors='replace').strip()[:300]}")
    return done

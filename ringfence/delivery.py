"""Applies a patch in a person's checkout, so that neither the patch nor the repository runs anything or half arrives.

`git apply` works here with a git folder of its own: the repository's configuration (hooks, filters, fsmonitor,
includes, aliases) is never read. Before it, every path is looked at once more on disk, since a link in the checkout
can lead out of it; after a failure the touched files are put back as they were.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringfence.errors import Mistake, Refused
from ringfence.patch_reading import FileChange, PatchRefused, read_patch
from ringfence.patch_rules import Finding, notable, refusals

_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Delivery:
    """A patch that was read and may be applied, once a person has seen each of `notable`."""

    patch: bytes
    changes: tuple[FileChange, ...]
    notable: tuple[Finding, ...]


def prepare(patch: bytes) -> Delivery:
    """Read the patch and judge it. Raises `PatchRefused` with the first reason; nothing is touched."""
    changes = read_patch(patch)
    if not changes:
        raise PatchRefused("the patch is empty", fix="The run changed nothing that could be delivered")
    refused = refusals(changes)
    if refused:
        raise _refusal(refused)
    return Delivery(patch, changes, notable(changes))


def apply(delivery: Delivery, checkout: Path, *, seen: frozenset[str]) -> None:
    """Apply it below `checkout`. `seen` are the notable paths that a person has accepted by name.

    All or nothing. Raises `Refused` where something notable was not seen or a path leads through a link, and `Mistake`
    where the checkout is not one or is not at the commit that the patch starts from.
    """
    unseen = [finding for finding in delivery.notable if finding.path not in seen]
    if unseen:
        names = " ".join(f"--seen {finding.path}" for finding in unseen)
        raise Refused(f"{unseen[0].path} {unseen[0].reason}; a person must accept it by name", fix=f"Add {names}")
    root = _root_of(checkout)
    for change in delivery.changes:
        for path in {change.path, change.old_path}:
            _refuse_links(root, path, is_link_itself_fine=change.name in seen)
    with _own_git_folder() as git_folder:
        _git_apply(delivery.patch, root, git_folder=git_folder, is_check=True)
        with _put_back_on_failure(root, delivery.changes):
            _git_apply(delivery.patch, root, git_folder=git_folder, is_check=False)


def _refusal(findings: Sequence[Finding]) -> PatchRefused:
    first, rest = findings[0], len(findings) - 1
    more = f" (and {rest} more)" if rest else ""
    return PatchRefused(
        f"the patch may not be applied: {first.path}: {first.reason}{more}",
        fix="Nothing was changed. Look at the run with `ringfence audit query --run RUN`",
    )


def top_of(path: Path) -> Path:
    """The checkout that a folder lies in; the folder itself where it lies in none, which `apply` then refuses."""
    return next((folder for folder in (path, *path.parents) if (folder / ".git").exists()), path)


def _root_of(checkout: Path) -> Path:
    try:
        root = checkout.resolve(strict=True)
    except OSError as error:
        raise Mistake(f"{checkout} cannot be used ({error.strerror})", fix="Name a checkout with --repo") from error
    if not root.is_dir() or not (root / ".git").exists():
        raise Mistake(f"{checkout} is not the top of a git checkout", fix="Name its top folder with --repo")
    return root


def _refuse_links(root: Path, path: bytes, *, is_link_itself_fine: bool) -> None:
    """Walk from the root without following anything. Raises `Refused` at the first link or odd file on the way."""
    parts = path.decode().split("/")
    current = root
    for at, part in enumerate(parts):
        current = current / part
        try:
            mode = current.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise Mistake(f"{current} cannot be looked at ({error.strerror})", fix="Check its permissions") from error
        is_last = at == len(parts) - 1
        if is_last and (stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and is_link_itself_fine)):
            return
        if not stat.S_ISDIR(mode):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "not a folder"
            raise Refused(
                f"{'/'.join(parts[: at + 1])} is {what} in your checkout, and the patch writes through it",
                fix="Nothing was changed. Replace the link, or apply the patch by hand",
            )


@contextmanager
def _own_git_folder() -> Iterator[Path]:
    """An empty repository's git folder: what `git apply` reads instead of the checkout's own."""
    with tempfile.TemporaryDirectory(prefix="ringfence-deliver-") as folder:
        git_folder = Path(folder) / "git"
        (git_folder / "objects").mkdir(parents=True)
        (git_folder / "refs").mkdir()
        (git_folder / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
        config = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tfsmonitor = false\n\thooksPath = /dev/null\n"
        (git_folder / "config").write_text(config, encoding="ascii")
        yield git_folder


def _git_apply(patch: bytes, root: Path, *, git_folder: Path, is_check: bool) -> None:
    command = ["git", "apply", "--whitespace=nowarn", *(["--check"] if is_check else []), "-"]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(git_folder),
        "LC_ALL": "C",
        "GIT_DIR": str(git_folder),
        "GIT_WORK_TREE": str(root),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    try:
        result = subprocess.run(
            command, cwd=root, env=environment, input=patch, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise Mistake("git is not installed", fix="Install git and try again") from error
    except subprocess.TimeoutExpired as error:
        raise Mistake(f"git apply did not end within {_TIMEOUT_S} s", fix="Check the disk and try again") from error
    if result.returncode != 0:
        said = (result.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"])[0]
        raise Mistake(
            f"the patch does not apply here: {said.removeprefix('error: ')}",
            fix="Nothing was changed. Check out the commit that the run started from, without local changes",
        )


@contextmanager
def _put_back_on_failure(root: Path, changes: Sequence[FileChange]) -> Iterator[None]:
    """Keep copies of what the patch touches; on any failure inside, the checkout is as it was before."""
    paths = sorted({path.decode() for change in changes for path in (change.path, change.old_path)})
    with tempfile.TemporaryDirectory(prefix="ringfence-before-") as folder:
        kept: dict[str, Path] = {}
        for number, path in enumerate(paths):
            if os.path.lexists(root / path):
                kept[path] = Path(folder) / str(number)
                shutil.copy2(root / path, kept[path], follow_symlinks=False)
        try:
            yield
        except BaseException:
            for path in paths:
                (root / path).unlink(missing_ok=True)
                if path in kept:
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(kept[path], root / path, follow_symlinks=False)
            raise

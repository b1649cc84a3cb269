"""What a machine has installed, made usable inside a local sandbox: read-only, and never a person's secrets.

Only toolchains are shown: the folders on the person's PATH, and the prefix that each belongs to where it has the shape
of one (`bin` beside `lib`). A home directory itself, whoever's, or anything above one's own is never shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ringfence_sandbox.contract import Mount

VISIBLE = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
"""Part of every local sandbox already."""

NEVER = ("/", "/home", "/root", "/etc", "/var", "/run", "/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/mnt", "/media")  # noqa: S108 - named to be refused
OF_HOMES = (".ssh", ".gnupg", ".aws", ".kube", ".docker", ".netrc", ".git-credentials", ".bash_history")
"""A folder that holds one of these is somebody's home, or as good as one."""
NAMED = ("JAVA_HOME", "GOROOT")


@dataclass(frozen=True, slots=True)
class HostTree:
    """`path_variable` and `environment` are for commands inside; every mount stands where it stands outside."""

    mounts: tuple[Mount, ...]
    path_variable: str
    environment: Mapping[str, str]


def toolchain_mounts(environment: Mapping[str, str], venv: Path | None) -> HostTree:
    """The toolchains of a person's environment. `venv` comes first on the PATH; else the one that is active."""
    home = Path(environment.get("HOME", "/nonexistent"))
    active = venv or (Path(environment["VIRTUAL_ENV"]) if environment.get("VIRTUAL_ENV") else None)
    entries = [active / "bin"] if active is not None else []
    entries += [Path(entry) for entry in environment.get("PATH", os.defpath).split(":") if entry.startswith("/")]
    trees: list[Path] = []
    shown: list[str] = []
    for entry in entries:
        for folder in _real_folders(entry):
            if not folder.is_dir():
                continue
            trees.extend(tree for tree in _trees_of(folder, home) if _may_show(tree, home))
            if _is_visible(folder) or any(folder.is_relative_to(tree) for tree in trees):
                shown.append(str(folder))
    extra = {} if active is None else {"VIRTUAL_ENV": str(active)}
    rustup = Path(environment.get("RUSTUP_HOME", home / ".rustup"))
    if rustup.is_dir() and _may_show(rustup, home) and any(entry.endswith(".cargo/bin") for entry in shown):
        trees.append(rustup)
        extra |= {"RUSTUP_HOME": str(rustup), "CARGO_HOME": "/home/agent/.cargo"}
    for name in NAMED:
        named = Path(environment.get(name) or "/nonexistent")
        if named.is_dir() and (_is_visible(named) or _may_show(named, home)):
            extra[name] = str(named)
            trees += [] if _is_visible(named) else [named]
    mounts = tuple(Mount(tree, PurePosixPath(tree)) for tree in _outermost(trees))
    return HostTree(mounts, ":".join(dict.fromkeys(shown)) or os.defpath, extra)


def _real_folders(entry: Path) -> Iterator[Path]:
    """A PATH entry, or what stands behind it: pyenv's shims are scripts that need all of pyenv, its versions do not."""
    if entry.name != "shims" or not (entry.parent / "versions").is_dir():
        yield entry
        return
    chosen = os.environ.get("PYENV_VERSION", "").split(":") if os.environ.get("PYENV_VERSION") else []
    version_file = entry.parent / "version"
    if not chosen and version_file.is_file():
        chosen = version_file.read_text(errors="replace").split()
    for name in chosen:
        if name and "/" not in name and name != "system":
            yield entry.parent / "versions" / name / "bin"


def _trees_of(folder: Path, home: Path) -> Iterator[Path]:
    """What must be shown for a PATH folder to work."""
    if _is_visible(folder):
        return
    prefix = folder.parent
    configuration = prefix / "pyvenv.cfg"
    if configuration.is_file():
        yield prefix
        base = _base_of(configuration)
        if base is not None and not _is_visible(base):
            yield base
    elif folder.name == "bin" and prefix != home and (prefix / "lib").is_dir() and prefix.name not in (".local",):
        yield prefix
    else:
        yield folder


def _base_of(configuration: Path) -> Path | None:
    """The prefix of the Python that a virtual environment was made from."""
    for line in configuration.read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip().startswith("/"):
            return Path(value.strip()).parent.resolve()
    return None


def _is_visible(path: Path) -> bool:
    return any(path == Path(root) or path.is_relative_to(root) for root in VISIBLE)


def _may_show(tree: Path, home: Path) -> bool:
    real = tree.resolve()
    if str(real) in NEVER or home.resolve().is_relative_to(real) or not real.is_dir():
        return False
    return not any(os.path.lexists(real / name) for name in OF_HOMES)


def _outermost(trees: list[Path]) -> Iterator[Path]:
    kept: list[Path] = []
    for tree in sorted(dict.fromkeys(trees), key=lambda path: len(path.parts)):
        if not any(tree.is_relative_to(outer) for outer in kept):
            kept.append(tree)
            yield tree

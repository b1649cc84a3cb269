"""What mends a machine that will not build the fence: the one step, found from what the machine says of itself.

bubblewrap's own words are the same for every cause, and its advice is for one of them only.
"""

from __future__ import annotations

import sys
from pathlib import Path

RESTRICTIONS = (
    # (setting, the value that forbids, the one that allows)
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "10000"),
)
IN_CONTAINER = (
    "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined IMAGE"
)
NAMESPACE_WORDS = ("uid map", "userns", "user namespace", "clone", "creating new namespace")
PROC_WORDS = ("pivot_root", "mount proc", "/proc")


def remedy(said: str, *, proc: Path = Path("/proc")) -> str:
    """The step for what bubblewrap complains about. `proc` is the machine's /proc."""
    lowered = said.lower()
    if is_about_namespaces(said):
        for name, _, _ in RESTRICTIONS:
            step = forbidden_by(name, proc)
            if step is not None:
                return step
        if _is_filtered(proc):
            return IN_CONTAINER
    if any(words in lowered for words in PROC_WORDS):
        return IN_CONTAINER
    return f"{sys.executable} -P -m ringfence doctor"


def in_short(said: str) -> str:
    """bubblewrap's first line, without its guess at the cause and the step that it names for one of them."""
    lines = said.splitlines() or ["no reason was told"]
    return lines[0].split(", likely because")[0].removeprefix("bwrap: ")


def is_about_namespaces(said: str) -> bool:
    """Whether bubblewrap complains that it may make no user namespace."""
    return any(words in said.lower() for words in NAMESPACE_WORDS)


def forbidden_by(setting: str, proc: Path) -> str | None:
    """The step that allows what one of the `RESTRICTIONS` forbids on this machine; None where it does not."""
    for name, forbidding, allowing in RESTRICTIONS:
        if name == setting and _text(proc / "sys" / name.replace(".", "/")) == forbidding:
            return f"sudo sysctl -w {name}={allowing}"
    return None


def _is_filtered(proc: Path) -> bool:
    """Whether a system call filter lies over this process, as containers have one: no setting of ours can lift it."""
    return any(line.split() == ["Seccomp:", "2"] for line in _text(proc / "self" / "status").splitlines())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

"""The bubblewrap command line of a sandbox. Pure: paths in, arguments out.

Kept in mind here (issues met, not theory): bubblewrap keeps root's capabilities unless told; without --proc the host's
/proc shows; `/`, `/dev` and a tmpfs without a size are writable and as large as half the memory; a mount point below a
directory that the sandbox can write invites a symbolic link in its place (GHSA-pxhw-h44j-8pfx), so there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ringfence_sandbox.contract import WORKSPACE, Limits, Mount
from ringfence_sandbox.errors import SandboxError
from ringfence_sandbox.local.system_tree import SystemTree
from ringfence_sandbox.local.trust import TRUST

UID = 1000
HOME = "/home/agent"
RUN = "/run/ringfence"
STATE = f"{RUN}/state"
OUTPUT = f"{RUN}/output"
ARTIFACT = f"{RUN}/inside.zip"
HIDDEN_IN_PROC = ("kallsyms", "kcore", "keys", "key-users", "timer_list", "cmdline", "sched_debug")
"""What tells of the machine and of others. Those that only root may read need no cover, since nobody inside is root."""
RESERVED = ("/workspace", "/home/agent", "/run", "/proc", "/dev", "/sys", "/etc")


@dataclass(frozen=True, slots=True)
class Places:
    """The sandbox's own files on the host, as bubblewrap's user can reach them."""

    workspace: Path
    home: Path
    state: Path
    output: Path
    artifact: Path
    trust: Path | None = None
    """What tools inside trust and how they find the proxy, where the sandbox has a way out."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Which switches bubblewrap gets beside the mounts. All on, but where a test removes one to see its probe fail."""

    has_seccomp: bool = True
    has_landlock: bool = True
    has_network_namespace: bool = True
    has_pid_namespace: bool = True
    has_ipc_namespace: bool = True
    drops_capabilities: bool = True
    disables_userns: bool = True
    has_uts_namespace: bool = True
    has_cgroup_namespace: bool = True
    is_root_readonly: bool = True
    is_system_readonly: bool = True
    has_own_devices: bool = True
    hides_host: bool = True
    hides_proc: bool = True
    hides_sys: bool = True
    has_own_uid: bool = True
    has_limits: bool = True
    sizes_scratch: bool = True
    hardens_server: bool = True
    has_own_disk: bool = True
    """Where the machine can give one: without, the disk is watched, which is no missing layer."""


def arguments(
    tree: SystemTree,
    mounts: Sequence[Mount],
    places: Places,
    limits: Limits,
    *,
    fence: Fence,
    proc_names: frozenset[str],
) -> list[str]:
    """Everything after `bwrap` and before the command. Sources must already be reachable by its user."""
    words = ["--unshare-user", "--uid", str(UID), "--gid", str(UID)]
    words += ["--new-session", "--clearenv", "--chdir", "/"]
    words += _switch(fence.has_uts_namespace, "--unshare-uts", "--hostname", "sandbox")
    words += _switch(fence.has_cgroup_namespace, "--unshare-cgroup-try")
    words += _switch(fence.has_network_namespace, "--unshare-net")
    words += _switch(fence.has_pid_namespace, "--unshare-pid", "--as-pid-1")
    words += _switch(fence.has_ipc_namespace, "--unshare-ipc")
    words += ("--cap-drop" if fence.drops_capabilities else "--cap-add", "ALL")
    words += _switch(fence.disables_userns, "--disable-userns")
    early = [mount for mount in mounts if not _is_below_scratch(mount)]
    words += _root(tree, early, fence)
    words += _kernel_files(limits, proc_names, fence)
    words += _scratch("/tmp", limits, fence)  # noqa: S108 - inside
    # Trees of the host below /tmp stand on the fresh tmpfs, which nothing inside has written yet.
    for mount in mounts:
        words += _switch(_is_below_scratch(mount), "--ro-bind", str(mount.source), str(mount.target))
    words += ["--bind", str(places.workspace), str(WORKSPACE), "--bind", str(places.home), HOME]
    words += ["--bind", str(places.state), STATE, "--bind", str(places.output), OUTPUT]
    words += ["--ro-bind", str(places.artifact), ARTIFACT]
    if places.trust is not None:
        words += ["--ro-bind", str(places.trust), str(TRUST)]
    words += _switch(fence.is_root_readonly, "--remount-ro", "/")
    return words


def refuse_mounts(mounts: Sequence[Mount]) -> None:
    """Raise SandboxError for a tree of the host that would hide or reach into what is the sandbox's own."""
    for mount in mounts:
        target = mount.target
        is_plain = target.is_absolute() and ".." not in target.parts and len(target.parts) > 1
        if not is_plain or any(target.is_relative_to(place) for place in RESERVED):
            raise SandboxError(f"a tree of the host may not be shown at {target}")


def first_within(mounts: Iterable[Mount], withheld: Iterable[Path]) -> tuple[Mount, Path] | None:
    """The first tree of the host that lies in one of `withheld`, or holds it, and which; links are followed."""
    kept = [path.resolve() for path in withheld]
    for mount in mounts:
        source = mount.source.resolve()
        for path in kept:
            if source.is_relative_to(path) or path.is_relative_to(source):
                return mount, path
    return None


def _is_below_scratch(mount: Mount) -> bool:
    return any(mount.target.is_relative_to(scratch) for scratch in ("/tmp", "/var/tmp"))  # noqa: S108 - inside


def _switch(is_on: bool, *words: str) -> Sequence[str]:
    return words if is_on else ()


def _root(tree: SystemTree, mounts: Sequence[Mount], fence: Fence) -> list[str]:
    words: list[str] = []
    words += _switch(not fence.hides_host, "--ro-bind", "/", "/host")
    words += _switch(not fence.hides_sys, "--ro-bind", "/sys", "/sys")
    bind = "--ro-bind" if fence.is_system_readonly else "--bind"
    for mount in (*tree.mounts, *mounts):
        words += [bind, str(mount.source), str(mount.target)]
    for target, path in tree.links:
        words += ["--symlink", target, path]
    return words


def _scratch(place: str, limits: Limits, fence: Fence) -> list[str]:
    return ["--perms", "1777", *_switch(fence.sizes_scratch, "--size", str(limits.tmp_bytes)), "--tmpfs", place]


def _kernel_files(limits: Limits, proc_names: frozenset[str], fence: Fence) -> list[str]:
    words = ["--proc", "/proc"]
    for name in HIDDEN_IN_PROC:
        if name in proc_names and fence.hides_proc:
            words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    if not fence.has_own_devices:
        return [*words, "--dev-bind", "/dev", "/dev"]
    return [*words, "--dev", "/dev", *_scratch("/dev/shm", limits, fence), "--remount-ro", "/dev"]  # noqa: S108

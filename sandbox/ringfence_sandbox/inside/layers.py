"""The layers of the fence as this process finds them around itself, stated once, before the first command.

What is told here is cheap to see and says that a layer stands; that nothing gets past it is for the probes to show.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .settings import Settings
    from .wire import Header

READ_ONLY = 1
"""ST_RDONLY of statvfs(3)."""
SYSTEM = ("/", "/usr", "/etc")
SCRATCH = ("/tmp", "/dev/shm")  # noqa: S108 - this sandbox's own
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")


def found(settings: Settings) -> list[Header]:
    """One entry for each layer that a fence of the kind `linux` is made of; nothing for the others."""
    if settings.fence != "linux":
        return []
    status = _status()
    layers = [_layer("namespace-" + name, _namespace(settings, name)) for name in NAMESPACES]
    layers += [
        _layer("no-capabilities", _capabilities(status)),
        _layer("no-new-privileges", "" if status.get("NoNewPrivs") == "1" else "programs may gain privileges"),
        _layer("seccomp", "" if status.get("Seccomp") == "2" else "every system call is there"),
        _layer("own-uid", machine_root()),
        _layer("read-only-system", _writable_system()),
        _layer("sized-scratch", unsized_scratch(settings)),
    ]
    return layers


def _layer(name: str, lack: str) -> Header:
    return {"name": name, "is_held": not lack, "detail": lack}


def _status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        pairs = [line.partition(":") for line in file.read().splitlines()]
    return {name: value.strip() for name, _, value in pairs}


def _namespace(settings: Settings, name: str) -> str:
    outside = settings.host_namespaces.get(name)
    inside = os.readlink("/proc/self/ns/" + name)
    if not outside:
        return "nothing to compare with was told"
    return "shared with the host" if inside == outside else ""


def _capabilities(status: dict[str, str]) -> str:
    held = [name for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb") if int(status.get(name, "1"), 16)]
    return "held: " + ", ".join(held) if held else ""


def machine_root() -> str:
    """What root owns outside would be ours inside, were this user root outside. The map tells of one step only."""
    return "the machine's root" if os.stat("/usr").st_uid == os.getuid() else ""


def _writable_system() -> str:
    writable = [path for path in SYSTEM if not os.statvfs(path).f_flag & READ_ONLY]
    return "writable: " + ", ".join(writable) if writable else ""


def unsized_scratch(settings: Settings) -> str:
    """Which scratch folders are larger than allowed, or ""."""
    large = []
    for path in SCRATCH:
        system = os.statvfs(path)
        # A tmpfs is as large as whole pages allow.
        if settings.tmp_bytes and system.f_blocks * system.f_frsize > settings.tmp_bytes + (1 << 16):
            large.append(path)
    return "larger than allowed: " + ", ".join(large) if large else ""

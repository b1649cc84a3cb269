"""Probes of what lies around a sandbox: other processes, the network, shared memory, limits, rank."""

from __future__ import annotations

import os

from . import layers
from .probing import ALL, GUEST, LINUX, Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .probing import Attempt
    from .settings import Settings

AF_INET, AF_INET6, SOCK_DGRAM = 2, 10, 2
SOCKET_FOLDERS = ("/run", "/var/run", "/tmp", "/workspace", "/home/agent")  # noqa: S108 - looked at, inside
LOOK_AT_MOST = 5000


def _foreign_process(_: Settings) -> str:
    """In a PID namespace of its own this worker's parent is process 1, and all there is was started by it."""
    if os.getppid() != 1:
        return f"the server is process {os.getppid()}: others share its numbers"
    return ""


def _foreign_signal(_: Settings) -> str:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                os.kill(int(name), 0)
            except PermissionError:
                return f"process {name} belongs to somebody else"
            except ProcessLookupError:
                continue
    return ""


def _interfaces(_: Settings) -> str:
    with open("/proc/net/dev") as file:
        names = [line.partition(":")[0].strip() for line in file.read().splitlines()[2:]]
    others = [name for name in names if name != "lo"]
    return "interfaces: " + ", ".join(others) if others else ""


def _reach(family: int, address: str, port: int) -> Attempt:
    def attempt(_: Settings) -> str:
        from _socket import socket

        # A datagram socket that is connected sends nothing: the kernel only looks for a way.
        probe = socket(family, SOCK_DGRAM, 0)
        try:
            probe.connect((address, port))
        finally:
            os.close(probe.detach())
        return f"there is a way to {address}"

    return attempt


def _abstract_sockets(_: Settings) -> str:
    with open("/proc/net/unix") as file:
        named = [line.split()[-1] for line in file.read().splitlines()[1:] if "@" in line]
    return "sockets of others: " + ", ".join(named[:3]) if named else ""


def _socket_files(_: Settings) -> str:
    import stat

    looked = 0
    pending = [folder for folder in SOCKET_FOLDERS if os.path.isdir(folder)]
    while pending and looked < LOOK_AT_MOST:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            looked += 1
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISSOCK(status.st_mode) and status.st_uid != os.getuid():
                return f"a socket of somebody else: {entry.path}"
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
    return ""


def _shared_memory(settings: Settings) -> str:
    outside = settings.host_namespaces.get("ipc")
    return "shared with the host" if outside == os.readlink("/proc/self/ns/ipc") else ""


def _namespaces(settings: Settings) -> str:
    inside = {name: os.readlink("/proc/self/ns/" + name) for name in layers.NAMESPACES}
    shared = [name for name, place in inside.items() if settings.host_namespaces.get(name) == place]
    return "shared with the host: " + ", ".join(shared) if shared else ""


def _host_name(_: Settings) -> str:
    return "" if os.uname().nodename == "sandbox" else f"it knows the machine as {os.uname().nodename}"


def _cgroups(_: Settings) -> str:
    with open("/proc/self/cgroup") as file:
        places = [line.split(":", 2)[2] for line in file.read().splitlines()]
    told = [place for place in places if place != "/"]
    return f"it knows its place: {told[0]}" if told else ""


def _limit(name: str, most: str) -> Attempt:
    def attempt(settings: Settings) -> str:
        import resource

        wanted = getattr(settings, most) if most else 0
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        if most and not wanted:
            return f"no limit was set for {name}"
        return "" if 0 <= hard <= wanted else f"{name} is {hard}"

    return attempt


def _raised_limit(_: Settings) -> str:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (17, 17))
    except (ValueError, OSError):
        return ""
    return "a hard limit could be raised"


def _priority(_: Settings) -> str:
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return "it could put itself before others"


def _real_time(_: Settings) -> str:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "it could take a processor for itself"


PROBES: tuple[Probe, ...] = (
    Probe("sees-only-its-own-processes", _foreign_process, GUEST, is_short=True),
    Probe("cannot-signal-others", _foreign_signal),
    Probe("has-no-interface-but-loopback", _interfaces, GUEST, is_short=True),
    Probe("has-no-way-out", _reach(AF_INET, "192.0.2.1", 443), GUEST),
    Probe("has-no-way-out-v6", _reach(AF_INET6, "2001:db8::1", 443), GUEST),
    Probe("has-no-name-service", _reach(AF_INET, "9.9.9.9", 53), GUEST),
    Probe("has-no-metadata-service", _reach(AF_INET, "169.254.169.254", 80), GUEST),
    Probe("sees-no-abstract-sockets", _abstract_sockets),
    Probe("sees-no-sockets-of-others", _socket_files, GUEST),
    Probe("shares-no-memory", _shared_memory),
    Probe("shares-no-namespace", _namespaces, LINUX, is_short=True),
    Probe("knows-no-host-name", _host_name),
    Probe("knows-no-control-group", _cgroups),
    Probe("processes-are-limited", _limit("RLIMIT_NPROC", "processes"), GUEST, is_short=True),
    Probe("memory-is-limited", _limit("RLIMIT_DATA", "memory_bytes"), GUEST),
    Probe("open-files-are-limited", _limit("RLIMIT_NOFILE", "open_files"), GUEST),
    Probe("file-size-is-limited", _limit("RLIMIT_FSIZE", "file_size_bytes"), GUEST),
    Probe("leaves-no-core-files", _limit("RLIMIT_CORE", ""), ALL),
    Probe("cannot-raise-a-limit", _raised_limit, ALL, needs_child=True),
    Probe("cannot-go-before-others", _priority, GUEST, needs_child=True),
    Probe("cannot-take-a-processor", _real_time, GUEST, needs_child=True),
)

"""Probes of what can be read and written: the machine's files, the server's, links, races, descriptors, rank."""

from __future__ import annotations

import os

from . import files, layers
from .probing import ALL, GUEST, LINUX, Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .probing import Attempt
    from .settings import Settings

OWN_MOUNTS = ("/", "/proc", "/dev", "/tmp", "/workspace", "/home/agent", "/run/ringfence", "/etc", "/usr")  # noqa: S108
ROOT_NAMES = frozenset((
    "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "tmp", "usr", "var",
    "workspace",
))  # fmt: skip
DEVICES = frozenset((
    "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd", "stdin", "stdout",
    "stderr", "core",
))  # fmt: skip
NO_SUID, NO_DEVICES = 2, 4
"""ST_NOSUID and ST_NODEV of statvfs(3)."""
TELLING = ("kallsyms", "kcore", "keys", "key-users", "timer_list", "cmdline", "sched_debug")
KERNEL_MEMORY = ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/proc/kcore", "/proc/kmsg")
KERNEL_SETTINGS = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
)  # fmt: skip
SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", "/root/.ssh", "/boot")
RACES = 60


def _capabilities(_: Settings) -> str:
    with open("/proc/self/status") as file:
        lines = file.read().splitlines()
    held = [line for line in lines if line.startswith(("CapEff:", "CapPrm:", "CapBnd:")) and int(line.split()[1], 16)]
    return "; ".join(held)


def _new_privileges(_: Settings) -> str:
    with open("/proc/self/status") as file:
        return "" if "NoNewPrivs:\t1" in file.read() else "a set-uid program would gain its owner's rights"


def _root(_: Settings) -> str:
    os.setuid(0)
    return "became user 0"


def _mapped_root(_: Settings) -> str:
    return layers.machine_root()


def _write(folder: str) -> Attempt:
    """The mount must be read-only, not only closed to this user: rank may change, a mount does not."""

    def attempt(_: Settings) -> str:
        path = folder.rstrip("/") + "/ringfence-probe"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError:
            return "" if os.statvfs(folder).f_flag & layers.READ_ONLY else folder + " is mounted to be written"
        os.unlink(path)
        return "wrote " + path

    return attempt


def _scratch(settings: Settings) -> str:
    return layers.unsized_scratch(settings)


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file.read().splitlines()]


def _mounted(settings: Settings) -> str:
    known = (*OWN_MOUNTS[1:], *settings.readable, *settings.writable)
    others = [
        place for place in _mount_points() if place != "/" and not any(files.is_below(place, one) for one in known)
    ]
    return "mounted: " + ", ".join(others[:5]) if others else ""


def _root_names(settings: Settings) -> str:
    shown = {path.split("/")[1] for path in (*settings.readable, *settings.writable)}
    others = [name for name in os.listdir("/") if name not in ROOT_NAMES and name not in shown]
    return "visible: " + ", ".join(sorted(others)[:5]) if others else ""


def _flags(flag: int, spared: str) -> Attempt:
    def attempt(_: Settings) -> str:
        bad = []
        for place in _mount_points():
            if spared and files.is_below(place, spared):
                continue
            try:
                if not os.statvfs(place).f_flag & flag:
                    bad.append(place)
            except OSError:
                continue
        return "without the flag: " + ", ".join(bad[:5]) if bad else ""

    return attempt


def _devices(_: Settings) -> str:
    others = [name for name in os.listdir("/dev") if name not in DEVICES]
    return "devices: " + ", ".join(sorted(others)[:5]) if others else ""


def _opens(paths: tuple[str, ...], flags: int) -> Attempt:
    def attempt(_: Settings) -> str:
        for path in paths:
            try:
                opened = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            os.close(opened)
            return "opened " + path
        return ""

    return attempt


def _telling(_: Settings) -> str:
    for name in TELLING:
        try:
            opened = os.open("/proc/" + name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if os.read(opened, 1):
                return "read /proc/" + name
        except OSError:
            continue
        finally:
            os.close(opened)
    return ""


def _machine_tree(_: Settings) -> str:
    return "/sys shows the machine" if os.path.isdir("/sys/kernel") else ""


def _server_memory(_: Settings) -> str:
    os.close(os.open("/proc/%d/mem" % os.getppid(), os.O_RDONLY))
    return "opened the server's memory"


def _server_descriptors(_: Settings) -> str:
    return "listed: " + ", ".join(os.listdir("/proc/%d/fd" % os.getppid()))


def _server_state(settings: Settings) -> str:
    os.close(os.open(settings.state + "/calls.journal", os.O_RDONLY))
    return "opened the server's journal"


def _hard_link(settings: Settings) -> str:
    linked = settings.state + "/linked"
    os.link(settings.state + "/calls.journal", linked)
    os.unlink(linked)
    return "linked the server's journal"


def _link_read(settings: Settings) -> str:
    """A symbolic link that leads to the server's own files, read by the server on somebody's behalf."""
    from .worker import Answer

    folder = _own_folder(settings)
    link = folder + "/link"
    try:
        for target in (settings.state + "/calls.journal", "/proc/self/environ", "/dev/zero"):
            os.symlink(target, link)
            try:
                os.close(files.open_regular(link, settings.state))
            except Answer:
                continue
            finally:
                os.unlink(link)
            return "read through a link to " + target
        return ""
    finally:
        os.rmdir(folder)


def _link_race(settings: Settings) -> str:
    """A folder that becomes a link to another place, and back, again and again, while a file is written below it."""
    import threading

    folder = _own_folder(settings)
    door, real, other = folder + "/door", folder + "/real", folder + "/other"
    for path in (real, other):
        os.mkdir(path)
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            try:
                os.rename(real, door)
                os.rename(door, real)
                os.symlink(other, door)
                os.unlink(door)
            except OSError:
                _remove(door)  # the writer made a folder of that name itself

    racing = threading.Thread(target=swap)
    racing.start()
    try:
        for _ in range(RACES):
            files.write(door + "/file", b"x", None)
            if os.listdir(other):
                return "a write went through a link"
    finally:
        is_over.set()
        racing.join()
        _remove(folder)
    return ""


def _own_folder(settings: Settings) -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="ringfence-probe-", dir=settings.workspace)


def _remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _descriptors(_: Settings) -> str:
    """What a program finds open beside the three that it was given."""
    import subprocess

    listing = "for each in /proc/self/fd/*; do readlink $each; done"
    done = subprocess.run(
        ["/bin/sh", "-c", listing], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, close_fds=False
    )
    said = done.stdout.decode("utf-8", "replace").split("\n")
    strange = [one for one in said if one and not one.startswith(("/dev/null", "pipe:", "/proc/", "/memfd:complaints"))]
    return "inherited: " + ", ".join(strange[:5]) if strange else ""


PROBES: tuple[Probe, ...] = (
    Probe("holds-no-capability", _capabilities, ALL, is_short=True),
    Probe("gains-no-privilege", _new_privileges, ALL, is_short=True),
    Probe("cannot-become-root", _root, ALL, needs_child=True),
    Probe("is-not-the-machine's-root", _mapped_root, LINUX, is_short=True),
    Probe("cannot-write-the-root", _write("/"), GUEST, is_short=True),
    Probe("cannot-write-programs", _write("/usr"), GUEST),
    Probe("cannot-write-settings", _write("/etc"), GUEST),
    Probe("cannot-write-devices", _write("/dev"), LINUX),
    Probe("scratch-is-sized", _scratch, GUEST),
    Probe("sees-only-what-was-mounted", _mounted, LINUX, is_short=True),
    Probe("sees-only-its-own-root", _root_names, GUEST),
    Probe("honours-no-set-uid-bit", _flags(NO_SUID, "")),
    Probe("honours-no-device-file", _flags(NO_DEVICES, "/dev")),
    Probe("has-only-harmless-devices", _devices, GUEST),
    Probe("cannot-read-the-kernel's-memory", _opens(KERNEL_MEMORY, os.O_RDONLY), LINUX),
    Probe("cannot-write-the-kernel's-settings", _opens(KERNEL_SETTINGS, os.O_WRONLY), LINUX),
    Probe("reads-no-secret-of-the-machine", _opens(SECRETS, os.O_RDONLY), GUEST),
    Probe("proc-tells-nothing-of-the-machine", _telling),
    Probe("sys-tells-nothing-of-the-machine", _machine_tree),
    Probe("cannot-open-the-server's-memory", _server_memory, ALL, is_short=True),
    Probe("cannot-list-the-server's-descriptors", _server_descriptors, LINUX),
    Probe("cannot-open-the-server's-journal", _server_state, ALL, is_short=True),
    Probe("cannot-link-the-server's-journal", _hard_link, LINUX),
    Probe("reads-through-no-link", _link_read, ALL),
    Probe("writes-through-no-link", _link_race, ALL),
    Probe("inherits-no-descriptor", _descriptors, ALL),
)

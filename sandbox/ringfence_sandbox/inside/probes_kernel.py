"""Probes of the kernel's interfaces: calls that a developer never needs and that a sandbox must not reach.

Arguments are such that the kernel itself would answer with another error: `EPERM` or `ENOSYS` means that the call was
stopped before it. Nothing here has an effect where it is not stopped.
"""

from __future__ import annotations

import os

from .probing import ALL, EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT, GUEST, LINUX, Probe, call, is_x86

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .probing import Attempt
    from .settings import Settings

AT_FDCWD = -100
NOWHERE = b"/ringfence-nowhere"
NEW_USER, NEW_NET, NEW_UTS = 0x10000000, 0x40000000, 0x04000000
READ_IMPLIES_EXEC = 0x400000
TIOCSTI = 0x5412
# Name: number on x86-64, number on arm64, arguments.
CALLS: tuple[tuple[str, int, int, tuple[int | bytes | None, ...]], ...] = (
    ("mount", 165, 40, (None, NOWHERE, None, 0, None)),
    ("umount", 166, 39, (NOWHERE, 0)),
    ("open_tree", 428, 428, (AT_FDCWD, NOWHERE, 0)),
    ("chroot", 161, 51, (NOWHERE,)),
    ("keyctl", 250, 219, (0, -3, 0)),
    ("add_key", 248, 217, (None, None, None, 0, -3)),
    ("request_key", 249, 218, (None, None, None, 0)),
    ("perf_event_open", 298, 241, (None, 0, -1, -1, 0)),
    ("io_uring_setup", 425, 425, (1, None)),
    ("userfaultfd", 323, 282, (1,)),
    ("process_vm_readv", 310, 270, (0, None, 0, None, 0, 0)),
    ("name_to_handle_at", 303, 264, (AT_FDCWD, NOWHERE, None, None, 0)),
    ("clock_settime", 227, 112, (0, None)),
    ("clone3", 435, 435, (None, 0)),
    ("fanotify_init", 300, 262, (0x200, 0)),
    ("personality", 135, 92, (READ_IMPLIES_EXEC,)),
    ("ptrace", 101, 117, (0, 0, 0, 0)),
    ("timer_create", 222, 107, (99, None, None)),
    ("mq_notify", 244, 184, (-1, None)),
)
# Those that the kernel keeps for root itself: refused twice in a sandbox, reached only where there is none.
ROOT_CALLS: tuple[tuple[str, int, int, tuple[int | bytes | None, ...]], ...] = (
    ("bpf", 321, 280, (0, None, 0)),
    ("init_module", 175, 105, (None, 0, b"")),
    ("kexec_file_load", 320, 294, (-1, -1, 0, None, 0)),
    ("reboot", 169, 142, (0, 0, 0, None)),
    ("swapon", 167, 224, (NOWHERE, 0)),
    ("sethostname", 170, 161, (None, -1)),
)


def _call(name: str, x86: int, arm: int, arguments: tuple[int | bytes | None, ...]) -> Attempt:
    def attempt(_: Settings) -> str:
        result, error = call(x86 if is_x86() else arm, *arguments)
        return "" if result < 0 and error in (EPERM, ENOSYS) else f"the kernel answered {name}: {result}, {error}"

    return attempt


def _unshare(flag: int) -> Attempt:
    def attempt(_: Settings) -> str:
        result, error = call(272 if is_x86() else 97, flag)
        return f"unshare({flag:#x}) made a namespace" if result == 0 else os.strerror(error)[:0]

    return attempt


def _setns(_: Settings) -> str:
    opened = os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    result, _error = call(308 if is_x86() else 268, opened, 0)
    os.close(opened)
    return "entered a namespace" if result == 0 else ""


def _socket(family: int, kind: int, protocol: int) -> Attempt:
    def attempt(_: Settings) -> str:
        result, error = call(41 if is_x86() else 198, family, kind, protocol)
        if result >= 0:
            os.close(result)
        stopped = result < 0 and error in (EAFNOSUPPORT, EPROTONOSUPPORT, EPERM)
        return "" if stopped else f"the kernel answered socket({family}, {kind}, {protocol}): {result}, {error}"

    return attempt


def _families(settings: Settings) -> str:
    usual = {1, 2, 10, 16}
    through = []
    for family in range(3, 46):
        if family not in usual:
            for kind in (1, 2, 3, 5):
                if _socket(family, kind, 0)(settings):
                    through.append(str(family))
                    break
    return "families: " + ", ".join(through) if through else ""


def _fake_input(_: Settings) -> str:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    result, error = call(16 if is_x86() else 29, reading, TIOCSTI, b"x")
    os.close(reading)
    os.close(writing)
    return "" if result < 0 and error == EPERM else f"the kernel answered TIOCSTI: {result}, {error}"


PROBES: tuple[Probe, ...] = (
    *(Probe(f"no-{name}", _call(name, x86, arm, words), needs_child=True) for name, x86, arm, words in CALLS),
    *(Probe(f"no-{name}", _call(name, x86, arm, words), GUEST) for name, x86, arm, words in ROOT_CALLS),
    Probe("no-nested-user-namespace", _unshare(NEW_USER), LINUX, is_short=True, needs_child=True),
    Probe("no-nested-network-namespace", _unshare(NEW_NET), LINUX, needs_child=True),
    Probe("no-entering-a-namespace", _setns, ALL, needs_child=True),
    Probe("no-packet-socket", _socket(17, 3, 0x0300), GUEST, is_short=True),
    Probe("no-vsock", _socket(40, 1, 0)),
    Probe("no-kernel-crypto-socket", _socket(38, 5, 0)),
    Probe("no-netlink-but-routes", _socket(16, 3, 16)),
    Probe("no-raw-socket", _socket(2, 3, 1), GUEST),
    Probe("no-raw-socket-v6", _socket(10, 3, 58), GUEST),
    Probe("no-unusual-socket-family", _families),
    Probe("no-input-into-terminals", _fake_input),
)

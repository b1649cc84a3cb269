"""Which system calls exist inside a sandbox: a BPF program for the kernel, made once per process of the backend.

An allow-list in effect: every call that the tables of `seccompy` know is allowed but for those named here, and a number
that they do not know (a newer kernel's call, the x32 form) does not exist. Argument rules compare the low 32 bits where
the kernel reads an int, since the upper ones are the caller's to choose. Foreign architectures kill.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from seccompy import Action, ArgCmp, CmpOp, Filter, syscall_nr, syscalls

ABSENT = (
    # Programs fall back where these are not there; a refusal would be an error to them.
    "clone3",  # its flags lie in memory, where no filter sees them: glibc falls back to clone
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "memfd_secret",
    "map_shadow_stack",
    "timer_create",  # its signal, SIGCONT too, lies in memory: it would wake what was stopped; `timeout` falls back
)
REFUSED = (
    "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "create_module",
    "delete_module", "fanotify_init", "fanotify_mark", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick",
    "get_kernel_syms", "init_module", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl",
    "listmount", "listns", "lookup_dcookie", "mbind", "migrate_pages", "mount", "mount_setattr", "move_mount",
    "move_pages", "mq_notify", "name_to_handle_at", "nfsservctl", "open_by_handle_at", "open_tree", "open_tree_attr",
    "perf_event_open", "pidfd_getfd", "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev",
    "ptrace", "query_module", "quotactl", "quotactl_fd", "reboot", "request_key", "set_mempolicy",
    "set_mempolicy_home_node", "setdomainname", "sethostname", "setns", "settimeofday", "statmount", "stime",
    "swapoff", "swapon", "syslog", "sysfs", "_sysctl", "umount", "umount2", "uprobe", "uretprobe", "uselib",
    "ustat", "vhangup", "vm86", "vm86old",
)  # fmt: skip
NEW_NAMESPACES = 0x7E020000
NEW_TIME_NAMESPACE = 0x80
LOW = 0xFFFFFFFF
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
TCP, UDP, NETLINK_ROUTE = 6, 17, 0
TYPE_MASK = 0xF
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
F_SETSIG, PR_SET_PDEATHSIG, SIGCONT = 10, 1, 18
OTHERS = ("prlimit64", "sched_setscheduler", "sched_setparam", "sched_setattr", "setpriority", "ioprio_set")
"""What changes a process: one of the same user too, such as the server."""
PRIO_USER, SCHED_RR = 2, 2
PUNCH_HOLE = 2
RULED = ("clone", "unshare", "socket", "socketpair", "ioctl", "personality", "fcntl", "prctl", "fallocate", *OTHERS)


def program() -> bytes:
    """The filter as packed `struct sock_filter`, for `bwrap --seccomp FD`. Raises OSError on an unknown machine."""
    rules = Filter(default=Action.ERRNO | errno.ENOSYS)
    kept_away = {*ABSENT, *REFUSED, *RULED}
    for name in _known():
        if name not in kept_away:
            rules.allow(name)
    for name in REFUSED:
        if name in _known():
            rules.errno(name, errno.EPERM)
    _namespaces(rules)
    _sockets(rules)
    for request in (TIOCSTI, TIOCLINUX):
        rules.errno("ioctl", errno.EPERM, args=[_low(1, request)])
    rules.allow("ioctl")
    # Nothing has the kernel send it what would wake it while everything is to be still.
    for name, at, option in (("fcntl", 1, F_SETSIG), ("prctl", 0, PR_SET_PDEATHSIG)):
        rules.errno(name, errno.EPERM, args=[_low(at, option), _low(at + 1, SIGCONT)])
        rules.allow(name)
    _other_processes(rules)
    # A disk may fill no faster than somebody writes: taken by a mere call, it is full before anybody has looked.
    rules.allow("fallocate", args=[_low(1, PUNCH_HOLE, PUNCH_HOLE)])
    rules.errno("fallocate", errno.EOPNOTSUPP)
    for value in PERSONALITIES:
        rules.allow("personality", args=[_low(0, value)])
    rules.errno("personality", errno.EPERM)
    return rules.program


def _known() -> Iterable[str]:
    table = syscalls.X86_64_SYSCALLS if syscall_nr("read") == 0 else syscalls.AARCH64_SYSCALLS
    return table.keys()


def _low(index: int, value: int, mask: int = LOW) -> ArgCmp:
    return ArgCmp(index, CmpOp.MASKED_EQ, value, mask)


def _namespaces(rules: Filter) -> None:
    rules.allow("clone", args=[_low(0, 0, NEW_NAMESPACES)])
    rules.errno("clone", errno.EPERM)
    rules.allow("unshare", args=[_low(0, 0, NEW_NAMESPACES | NEW_TIME_NAMESPACE)])
    rules.errno("unshare", errno.EPERM)


def _other_processes(rules: Filter) -> None:
    """Each changes itself alone: a server without descriptors, or behind all others, makes no patch and holds no limit.

    Threads are told by numbers of their own, so what libraries ask for them (an ordinary or real-time policy) passes.
    """
    rules.allow("prlimit64", args=[_low(0, 0)])
    rules.allow("prlimit64", args=[ArgCmp(2, CmpOp.EQ, 0)])
    for policy in range(SCHED_RR + 1):
        rules.allow("sched_setscheduler", args=[_low(1, policy)])
    for name in ("sched_setscheduler", "sched_setparam", "sched_setattr"):
        rules.allow(name, args=[_low(0, 0)])
    for name in ("setpriority", "ioprio_set"):
        rules.errno(name, errno.EPERM, args=[_low(0, PRIO_USER if name == "setpriority" else PRIO_USER + 1)])
        rules.allow(name, args=[_low(1, 0)])
    for name in OTHERS:
        rules.errno(name, errno.EPERM)


def _sockets(rules: Filter) -> None:
    for kind in (STREAM, DGRAM, SEQPACKET):
        rules.allow("socket", args=[_low(0, AF_UNIX), _low(1, kind, TYPE_MASK)])
        rules.allow("socketpair", args=[_low(0, AF_UNIX), _low(1, kind, TYPE_MASK)])
    for family in (AF_INET, AF_INET6):
        for kind, protocol in ((STREAM, 0), (STREAM, TCP), (DGRAM, 0), (DGRAM, UDP)):
            rules.allow("socket", args=[_low(0, family), _low(1, kind, TYPE_MASK), _low(2, protocol)])
        rules.errno("socket", errno.EPROTONOSUPPORT, args=[_low(0, family)])
    for kind in (RAW, DGRAM):
        # Reading routes and addresses, which getaddrinfo does; every other netlink family configures something.
        rules.allow("socket", args=[_low(0, AF_NETLINK), _low(1, kind, TYPE_MASK), _low(2, NETLINK_ROUTE)])
    rules.errno("socket", errno.EAFNOSUPPORT)
    rules.errno("socketpair", errno.EAFNOSUPPORT)

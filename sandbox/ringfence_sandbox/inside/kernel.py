"""The few system calls that Python does not offer, through the C library without importing `ctypes` where it can."""

from __future__ import annotations

import os

PR_SET_DUMPABLE = 4
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _function(name: str) -> Callable[..., int]:
    """The C function `name`, taking ints (32 bits) and bytes (pointers), returning an int."""
    try:
        from _ctypes import call_function, dlopen, dlsym

        address = dlsym(dlopen(None, 0), name)  # type: ignore[arg-type] # None: the program itself, unknown to typeshed
        return lambda *arguments: int(call_function(address, arguments))
    except (ImportError, OSError, AttributeError):
        import ctypes

        found = getattr(ctypes.CDLL(None), name)
        return lambda *arguments: int(found(*arguments))


prctl = _function("prctl")
syscall = _function("syscall")


def must_prctl(option: int, value: int) -> None:
    """`prctl(option, value)`, or `OSError`: the caller relies on it for isolation."""
    if prctl(option, value, 0, 0, 0) != 0:
        raise OSError("prctl(%d, %d) failed" % (option, value))


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, 1))


READ_FILE, READ_DIR, EXECUTE, IOCTL_DEV = 1 << 2, 1 << 3, 1 << 0, 1 << 15
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
RIGHTS_OF_ABI = ((1, (1 << 13) - 1), (2, 1 << 13), (3, TRUNCATE), (5, IOCTL_DEV))
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def landlock_ruleset(listable: list[str], readable: list[str], writable: list[str]) -> int:
    """A Landlock ruleset's descriptor: everything below `writable`, read and execute below `readable`, else nothing.

    Below `listable`, directories can be listed and nothing more. Paths that do not exist are left out. Raises OSError
    where the kernel has no Landlock.
    """
    abi = landlock_abi()
    if abi < 1:
        raise OSError("no Landlock")
    handled = 0
    for since, rights in RIGHTS_OF_ABI:
        if abi >= since:
            handled |= rights
    attribute = handled.to_bytes(8, "little") + bytes(8 if abi >= 4 else 0)
    ruleset = syscall(SYS_LANDLOCK_CREATE_RULESET, attribute, len(attribute), 0)
    if ruleset < 0:
        raise OSError("landlock_create_ruleset failed")
    for paths, rights in (
        (listable, READ_DIR),
        (readable, READ_FILE | READ_DIR | EXECUTE),
        (writable, handled),
    ):
        for path in paths:
            _allow_beneath(ruleset, path, rights & handled)
    os.set_inheritable(ruleset, False)
    return ruleset


def _allow_beneath(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        is_directory = (os.fstat(opened).st_mode & 0o170000) == 0o040000
        allowed = rights if is_directory else rights & FILE_RIGHTS
        rule = allowed.to_bytes(8, "little") + opened.to_bytes(4, "little")
        if syscall(SYS_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0) != 0:
            raise OSError(f"landlock_add_rule failed for {path}")
    finally:
        os.close(opened)


def landlock_restrict(ruleset: int) -> None:
    """Put this process and its children to come under `ruleset`. Needs no-new-privileges. Raises OSError."""
    if syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError("landlock_restrict_self failed")

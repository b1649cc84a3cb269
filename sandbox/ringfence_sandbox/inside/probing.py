"""What probes are made of: a name, the fences that they fit, an attempt, and system calls made without a library."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Settings

    Attempt = Callable[[Settings], str]
    """Returns "" when nothing got through, else what did. OSError: the attempt was refused."""

LINUX = frozenset({"linux"})
GUEST = frozenset({"linux", "gvisor"})
ALL = frozenset({"linux", "gvisor", "container"})
EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT = 1, 38, 97, 93
TEXT_LIMIT = 400


class Probe:
    """`fences`: the kinds that must hold it. `needs_child`: success would change the process that tries."""

    __slots__ = ("attempt", "fences", "is_short", "name", "needs_child")

    def __init__(
        self,
        name: str,
        attempt: Attempt,
        fences: frozenset[str] = LINUX,
        *,
        is_short: bool = False,
        needs_child: bool = False,
    ) -> None:
        self.name = name
        self.attempt = attempt
        self.fences = fences
        self.is_short = is_short
        self.needs_child = needs_child


def in_child(attempt: Attempt, settings: Settings) -> str:
    """The attempt's answer, made in a process of its own. One that dies says so, which is no breach."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        said = b"!"
        try:
            said = attempt(settings).encode()
        except OSError as error:
            said = b"?" + (error.strerror or "refused").encode()
        finally:
            os.write(writing, said[:TEXT_LIMIT] or b"=")
            os._exit(0)
    os.close(writing)
    try:
        said = os.read(reading, TEXT_LIMIT)
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    if said.startswith(b"!"):
        return "the attempt broke off"
    if said.startswith(b"?"):
        raise OSError(0, said[1:].decode())
    return "" if said in (b"", b"=") else said.decode("utf-8", "replace")


def call(number: int, *arguments: int | bytes | None) -> tuple[int, int]:
    """A system call's result and errno (0 where it succeeded)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in (number, *arguments)]
    result = int(libc.syscall(*words))
    return result, ctypes.get_errno() if result < 0 else 0


def is_x86() -> bool:
    return os.uname().machine == "x86_64"

"""A keeper: one small process between this server and a command, so that the command's whole tree has one root.

It is a child subreaper: whatever the command starts, a daemon that forked twice into a session of its own included,
stays below the keeper for as long as it lives. It wears the limits and the Landlock rules that commands inherit. A
keeper whose command left nothing behind takes the next one; one with background processes stays with them. A spare is
forked ahead of need, since a fork of Python costs more than the spawn itself.

An agent's process has the keeper's uid and can kill it. The server sees that, and ends what was orphaned.
"""

from __future__ import annotations

import marshal
import os

from . import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import NoReturn

    from .settings import Settings
else:
    from _socket import socket

AF_UNIX, SOCK_SEQPACKET, SOL_SOCKET, SCM_RIGHTS, MSG_DONTWAIT = 1, 5, 1, 1, 0x40
SIGPIPE, SIGXFSZ = 13, 25
REQUEST_LIMIT = 96 << 10
"""What one message of the socket holds. A larger request is inherited by a keeper forked for it."""


class Request:
    """One command: `environment` is complete, `cwd` absolute, `terminal` the path of the one that controls it or ""."""

    __slots__ = ("argv", "cwd", "environment", "terminal")

    def __init__(self, argv: list[str], environment: dict[str, str], cwd: str, terminal: str = "") -> None:
        self.argv = argv
        self.environment = environment
        self.cwd = cwd
        self.terminal = terminal

    def packed(self) -> bytes:
        return marshal.dumps((self.argv, self.environment, self.cwd, self.terminal))


class Keeper:
    """The server's end. `fd` is readable when `message` has something; an empty message means the keeper is dead."""

    def __init__(self, settings: Settings, request: Request | None = None, fds: tuple[int, int] | None = None) -> None:
        ours, theirs = _pair()
        self.pid = os.fork()
        if self.pid == 0:
            _keep(settings, theirs, request, fds)
        os.close(theirs.detach())
        self._socket = ours
        self.fd = ours.fileno()
        self.is_busy = request is not None

    def send(self, request: bytes, fds: tuple[int, int]) -> None:
        """Hand over a command with its standard input and output. Raises OSError where the keeper cannot take it."""
        rights = b"".join(fd.to_bytes(4, "little") for fd in fds)
        self._socket.sendmsg([request], [(SOL_SOCKET, SCM_RIGHTS, rights)], MSG_DONTWAIT)
        self.is_busy = True

    def message(self) -> tuple[str, int, int] | None:
        """What the keeper says: `("failed", errno, 0)`, `("ended", wait status, 1 if nothing is left)`, `("idle", ..)`.

        None when the keeper is dead.
        """
        try:
            data = self._socket.recv(4096, MSG_DONTWAIT)
        except OSError:
            return None
        if not data:
            return None
        kind, first, second = marshal.loads(data)
        return kind, first, second

    def close(self) -> None:
        """Let go: an idle keeper ends by itself."""
        os.close(self._socket.detach())


def _pair() -> tuple[socket, socket]:
    if TYPE_CHECKING:
        from socket import socketpair
    else:
        from _socket import socketpair
    return socketpair(AF_UNIX, SOCK_SEQPACKET, 0)


def _keep(settings: Settings, control: socket, request: Request | None, fds: tuple[int, int] | None) -> NoReturn:
    """The life of a keeper. Never returns into the server's code."""
    try:
        control = _become_keeper(settings, control, fds)
        while True:
            if request is None:
                data, ancillary, _, _ = control.recvmsg(REQUEST_LIMIT + 4096, 64)
                if not data:
                    break
                raw = ancillary[0][2]
                fds = (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little"))
                request = Request(*marshal.loads(data))
            if fds is not None:
                _serve_one(control, request, fds)
            request = None
    except BaseException as error:  # noqa: BLE001 - a forked child must never unwind into its parent's loop
        os.write(2, (f"ringfence keeper: {error!r}\n").encode())
    os._exit(0)


def _become_keeper(settings: Settings, control: socket, fds: tuple[int, int] | None) -> socket:
    import _signal  # type: ignore[import-not-found,unused-ignore] # the C module under `signal`, absent from typeshed

    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    kept = {2, control.fileno(), settings.command_ruleset} | set(fds or ())
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor of the listing itself
    kernel.must_prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    os.setsid()
    wear(settings)
    return control


def wear(settings: Settings) -> None:
    """Put this process, and all that it starts, under the limits and the Landlock rules of commands."""
    import resource

    for name, value in settings.rlimits():
        number = getattr(resource, name)
        ceiling = resource.getrlimit(number)[1]
        if ceiling != resource.RLIM_INFINITY:
            value = min(value, ceiling)
        resource.setrlimit(number, (value, value))
    if settings.cpus:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: settings.cpus])
    if settings.command_ruleset >= 0:
        kernel.landlock_restrict(settings.command_ruleset)
        os.close(settings.command_ruleset)


def _serve_one(control: socket, request: Request, fds: tuple[int, int]) -> None:
    """Run one command to its end, and wait for what it left behind."""
    try:
        main = _spawn(request, fds)
    except OSError as error:
        control.send(marshal.dumps(("failed", error.errno or 1, 0)))
        return
    finally:
        for fd in fds:
            os.close(fd)
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            control.send(marshal.dumps(("idle", 0, 0)))
            return
        if pid == main:
            is_last = _nothing_left()
            control.send(marshal.dumps(("ended", status, 1 if is_last else 0)))
            if is_last:
                return


def _nothing_left() -> bool:
    """Whether no child is left, dead ones reaped on the way."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return False


def _spawn(request: Request, fds: tuple[int, int]) -> int:
    os.chdir(request.cwd)
    program = _resolve(request.argv[0], request.environment.get("PATH", ""))
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        # A leader of a session gets the first terminal that it opens as the one that controls it.
        (os.POSIX_SPAWN_OPEN, 0, request.terminal, os.O_RDWR, 0)
        if request.terminal
        else (os.POSIX_SPAWN_DUP2, fds[0], 0),
        (os.POSIX_SPAWN_DUP2, fds[1], 1),
        (os.POSIX_SPAWN_DUP2, fds[1], 2),
    ]
    return os.posix_spawn(
        program,
        request.argv,
        request.environment,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(SIGPIPE, SIGXFSZ),
    )


def _resolve(name: str, path: str) -> str:
    """The file that a shell would run for `name`. Raises FileNotFoundError or PermissionError."""
    if "/" in name:
        return name
    for folder in path.split(":"):
        candidate = os.path.join(folder, name)
        if folder and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError(2, "no such program", name)

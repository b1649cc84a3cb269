"""The pod's first container, whose work is done before anything of the agent's exists.

1. See from inside that the network is closed: the API server, which any pod of an open cluster can reach, must not
   answer. Until it is, or `--closed-within` has passed, nothing goes on.
2. Make the workspace's folders, so that they belong to the sandbox's own user: the kubelet would make them root's.
3. Copy the tree beside this file to the folder named by the first argument, the loader last: the main container starts
   through it, so it cannot run before. Then sleep, since a container of this pod may not end.

The kubelet starts the next container when this one's start hook (`--wait`) returns. An init container would say the
same in fewer words, but its end is noticed by a poll once a second. What was seen of the network is the one line that
this container logs, and its termination message where it is not closed (exit 7): the control plane reads both from the
API server, and nothing that runs in another container can write either.
"""

import os
import select
import sys
from time import monotonic, sleep

MESSAGE = "/dev/termination-log"
DONE, FAILED = "done", "failed"
LOADER = "ld.so"


def copy(source: str, target: str) -> None:
    """Copy a tree into an empty folder, the loader left out. What an earlier, interrupted attempt left is replaced."""
    with os.scandir(source) as entries:
        for entry in entries:
            there = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if not os.path.isdir(there):
                    os.mkdir(there, 0o755)
                copy(entry.path, there)
            elif entry.name != LOADER:
                copy_file(entry.path, there)


def copy_file(source: str, target: str) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    while os.sendfile(writing, reading, None, 1 << 26) > 0:
        continue
    os.fchmod(writing, os.fstat(reading).st_mode & 0o755)
    os.close(reading)
    os.close(writing)


class Probe:
    """One round of connection attempts that must all fail. Opened first, judged later: copying goes on beside."""

    def __init__(self, targets: "list[tuple[str, int]]") -> None:
        from _socket import socket  # the C module alone: its Python wrapper costs 8 ms

        self.started = monotonic()
        self.sockets = []
        for host, port in targets:
            family = 10 if ":" in host else 2
            one = socket(family, 1 | os.O_NONBLOCK, 0)
            error = one.connect_ex((host, port))
            self.sockets.append((f"{host}:{port}", one, error))

    def reached(self, window_s: float) -> "list[str]":
        """Which targets accepted within the window."""
        poll = select.poll()
        for _, one, _ in self.sockets:
            poll.register(one.fileno(), select.POLLOUT)
        while True:
            left = self.started + window_s - monotonic()
            if left <= 0:
                break
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
        # an accepted connection has a peer; a refused or silent one has none
        found = [name for name, one, _ in self.sockets if _has_peer(one)]
        for _, one, _ in self.sockets:
            one.close()
        return found


def _has_peer(one: object) -> bool:
    try:
        one.getpeername()  # type: ignore[attr-defined] # a socket; its type would cost an import
    except OSError:
        return False
    return True


def targets() -> "list[tuple[str, int]]":
    """The API server as every pod is told of it, and what `RINGFENCE_PROBES` adds (`host:port`, by commas)."""
    found = []
    if host := os.environ.get("KUBERNETES_SERVICE_HOST"):
        found.append((host, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))))
    for item in os.environ.get("RINGFENCE_PROBES", "").split(","):
        if item:
            host, _, port = item.rpartition(":")
            found.append((host.strip("[]"), int(port)))
    return found


def say(text: str) -> None:
    with open(MESSAGE, "w") as file:
        file.write(text[:2000])


def put_down(target: str, name: str, text: str) -> None:
    with open(f"{target}/.{name}", "w") as file:
        file.write(text)
    os.rename(f"{target}/.{name}", f"{target}/{name}")


def make_folders(volume: str) -> None:
    for name, mode in (("files", 0o755), ("home", 0o755), ("state", 0o700)):
        if not os.path.isdir(f"{volume}/{name}"):
            os.mkdir(f"{volume}/{name}")
            # a volume's root hands its set-group-id bit down, and an agent's files shall look as anywhere else
            os.chmod(f"{volume}/{name}", mode)


def wait(target: str) -> None:
    """The start hook: until the tree is there (0) or never will be (7, saying why)."""
    while True:
        if os.path.exists(f"{target}/{DONE}"):
            return
        if os.path.exists(f"{target}/{FAILED}"):
            with open(f"{target}/{FAILED}") as file:
                os.write(2, file.read().encode())
            sys.exit(7)
        sleep(0.002)


def option(name: str, default: float) -> float:
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def install(target: str) -> None:
    window_s, closed_within_s = option("--window", 0.1), option("--closed-within", 10.0)
    found = targets()
    begun = monotonic()
    probe = Probe(found)
    source = os.path.dirname(os.path.abspath(sys.argv[0]))
    copy(source, target)
    make_folders(sys.argv[sys.argv.index("--volume") + 1])
    reached = probe.reached(window_s)
    while reached and monotonic() < begun + closed_within_s:
        sleep(0.05)
        probe = Probe(found)
        # a policy that has only just come is asked again over a longer look
        reached = probe.reached(max(window_s, 0.5))
    took_ms = int((monotonic() - begun) * 1000)
    names = ", ".join(f"{host}:{port}" for host, port in found)
    if reached:
        seen = f"open: reached {', '.join(reached)} after {took_ms} ms"
    elif not found:
        seen = "open: no target is known, so nothing was shown"
    else:
        seen = f"closed: no answer from {names} within {took_ms} ms"
    say(seen)
    os.write(1, f"{seen}\n".encode())
    if not seen.startswith("closed") and "--report" not in sys.argv:
        put_down(target, FAILED, seen)
        sys.exit(7)
    copy_file(f"{source}/lib/{LOADER}", f"{target}/lib/.{LOADER}")
    os.rename(f"{target}/lib/.{LOADER}", f"{target}/lib/{LOADER}")
    put_down(target, DONE, seen)


def main() -> None:
    target = sys.argv[1]
    if "--wait" in sys.argv:
        wait(target)
        return
    if not os.path.exists(f"{target}/{DONE}"):
        install(target)
    import _signal

    # nobody else reaps here, and the kubelet's request to end must not wait out its grace
    _signal.signal(_signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        _signal.pause()


main()

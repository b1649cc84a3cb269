"""The init container's whole work, before anything of the agent's exists in the pod.

1. See from inside that the network is closed: the API server, which any pod of an open cluster can reach, must not
   answer. Until it is, or `--closed-within` has passed, the main container does not start.
2. Copy the tree beside this file to the folder named by the first argument.
3. With `--restore`: wait for the workspace's archive (written by `receive`) and unpack it.

What was seen goes to the termination message, which the control plane reads from the pod's status. Exit 7: not closed.
"""

import os
import select
import sys
from time import monotonic, sleep

MESSAGE = "/dev/termination-log"


def copy(source: str, target: str) -> None:
    with os.scandir(source) as entries:
        for entry in entries:
            there = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(there, 0o755)
                copy(entry.path, there)
                continue
            reading = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            writing = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
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


def restore(volume: str, patience_s: float) -> None:
    """Wait for `receive` to have put the archive down, and unpack it: links last, so that no path leads through one."""
    import tarfile

    archive = f"{volume}/.archive"
    end = monotonic() + patience_s
    while not os.path.exists(archive):
        if monotonic() > end:
            say("the workspace's archive did not come")
            sys.exit(8)
        sleep(0.02)
    with tarfile.open(archive) as tar:
        links = []
        for member in tar:
            parts = member.name.split("/")
            if member.name.startswith("/") or ".." in parts or parts[0] not in ("files", "state"):
                say(f"the archive holds {member.name[:200]!r}")
                sys.exit(9)
            path = f"{volume}/{member.name}"
            if member.isdir():
                os.makedirs(path, exist_ok=True)
            elif member.isfile():
                content = tar.extractfile(member)
                with open(path, "xb") as file:
                    while content is not None and (chunk := content.read(1 << 20)):
                        file.write(chunk)
                os.chmod(path, member.mode & 0o777)
                os.utime(path, (member.mtime, member.mtime))
            elif member.issym():
                links.append((member.linkname, path))
        for target, path in links:
            os.symlink(target, path)
    os.unlink(archive)


def say(text: str) -> None:
    with open(MESSAGE, "w") as file:
        file.write(text[:2000])


def option(name: str, default: float) -> float:
    return float(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def main() -> None:
    window_s, closed_within_s = option("--window", 0.1), option("--closed-within", 10.0)
    found = targets()
    begun = monotonic()
    probe = Probe(found)
    copy(os.path.dirname(os.path.abspath(sys.argv[0])), sys.argv[1])
    reached = probe.reached(window_s)
    while reached and monotonic() < begun + closed_within_s:
        sleep(0.05)
        probe = Probe(found)
        # a policy that has only just come is asked again over a longer look
        reached = probe.reached(max(window_s, 0.5))
    took_ms = int((monotonic() - begun) * 1000)
    names = ", ".join(f"{host}:{port}" for host, port in found) or "nothing to try"
    if reached:
        say(f"open: reached {', '.join(reached)} after {took_ms} ms")
    elif not found:
        say("open: no target is known, so nothing was shown")
    else:
        say(f"closed: no answer from {names} within {took_ms} ms")
    if (reached or not found) and "--report" not in sys.argv:
        sys.exit(7)
    if "--restore" in sys.argv:
        restore(sys.argv[sys.argv.index("--restore") + 1], option("--patience", 60.0))


main()

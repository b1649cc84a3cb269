"""Other processes of this sandbox, seen through its own /proc: found, stopped, continued, killed as whole trees.

The server is PID 1 of a PID namespace, so /proc lists exactly what runs inside. Every signal goes to a process that an
agent may control: it can fork meanwhile, so all is done in rounds until a round finds nothing new.
"""

from __future__ import annotations

import os
from time import monotonic, sleep

SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18
VFORKS = (b"220",) if os.uname().machine == "aarch64" else (b"56", b"58")
"""clone and vfork, as /proc/PID/syscall numbers them."""


class Process:
    """One line of the table. `state` is the letter of proc(5): R, S, D, T, t, Z, X.

    That letter is the first thread's. Where it has ended and others go on the process is not dead: `state` is R then.
    """

    __slots__ = ("parent", "pid", "resident_pages", "state", "threads")

    def __init__(self, pid: int, parent: int, state: str, threads: int, resident_pages: int) -> None:
        self.pid = pid
        self.parent = parent
        self.state = state
        self.threads = threads
        self.resident_pages = resident_pages

    def is_still(self) -> bool:
        """Whether every thread is stopped, dead, or waits for a child of its own to begin (vfork(2))."""
        if self.threads <= 1:
            return _is_still(self.state, "/proc/%d" % self.pid)
        folder = "/proc/%d/task" % self.pid
        try:
            return all(_is_still(_state(folder + "/" + name), folder + "/" + name) for name in os.listdir(folder))
        except (FileNotFoundError, ProcessLookupError):
            return not os.path.isdir(folder)  # one thread ended while its fellows were read: to be looked at again


def _state(folder: str) -> str:
    with open(folder + "/stat", "rb") as file:
        text = file.read(2048)
    return text[text.rfind(b")") + 2 :][:1].decode()


def _is_still(state: str, folder: str) -> bool:
    if state != "D":
        return state in "TtZX"
    try:
        with open(folder + "/syscall", "rb") as file:
            return file.read(64).split(b" ")[0] in VFORKS
    except OSError:
        return False  # it keeps that to itself, or has ended


def table() -> dict[int, Process]:
    """Every process of the namespace but this one. What vanishes while being read is left out."""
    found = {}
    me = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == me:
            continue
        try:
            opened = os.open("/proc/" + name + "/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            text = os.read(opened, 2048)
        except OSError:
            continue
        finally:
            os.close(opened)
        # The command name may hold spaces and parentheses; the fields begin after its last ")".
        fields = text[text.rfind(b")") + 2 :].split()
        if len(fields) > 21:
            pid, state, threads = int(name), fields[0].decode(), int(fields[17])
            if state == "Z" and threads > 1:
                state = "R"
            found[pid] = Process(pid, int(fields[1]), state, threads, int(fields[21]))
    return found


def descendants(root: int, processes: dict[int, Process]) -> set[int]:
    """The pids below `root`, itself left out."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    pending = [root]
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in found:
                found.add(child)
                pending.append(child)
    return found


def signal_all(pids: set[int], number: int) -> None:
    """Send a signal to each; one that has ended meanwhile is no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def kill_below(roots: set[int], spared: set[int]) -> int:
    """Kill every process below each of `roots` (1: what was orphaned to this server) but `spared`. Returns a count.

    Stopping first, in rounds, keeps a fork bomb from outrunning its killer; only then is everything killed.
    """
    stopped: set[int] = set()
    for _ in range(1000):
        processes = table()
        found: set[int] = set()
        for root in roots:
            if root == 1:
                orphans = {process.pid for process in processes.values() if process.parent == 1} - spared
                found |= orphans
                for orphan in orphans:
                    found |= descendants(orphan, processes)
            else:
                found |= descendants(root, processes)
        living = {pid for pid in found if processes[pid].state not in "ZX"} - spared
        fresh = living - stopped
        if not fresh:
            break
        signal_all(fresh, SIGSTOP)
        stopped |= fresh
    signal_all(stopped, SIGKILL)
    return len(stopped)


def freeze(spared: set[int], *, within_s: float, accepts_waiting: bool = False) -> set[int] | None:
    """Stop every process but `spared`, and wait until each is seen stopped. Returns those this call stopped.

    None where one would not stop in time; everything this call stopped runs again then. With `accepts_waiting` one that
    still waits within the kernel will do then: it may end the system call that it is in, and nothing more.
    """
    stopped: set[int] = set()
    deadline = monotonic() + within_s
    while True:
        processes = table()
        moving = [p for p in processes.values() if p.pid not in spared and not p.is_still()]
        if not moving:
            return stopped
        if monotonic() > deadline:
            if accepts_waiting and all(process.pid in stopped and process.state == "D" for process in moving):
                return stopped
            thaw(stopped)
            return None
        fresh = {process.pid for process in moving} - stopped
        signal_all(fresh, SIGSTOP)
        stopped |= fresh
        sleep(0.0005)


def thaw(stopped: set[int]) -> None:
    """Let run again what `freeze` stopped."""
    signal_all(stopped, SIGCONT)


class Stillness:
    """Who needs what to be still, since several may at once: a process runs again when nobody needs it still.

    What something inside stopped by itself is left as it was.
    """

    def __init__(self) -> None:
        self._stopped: set[int] = set()
        self._holds: list[set[int]] = []

    def hold(self, spared: set[int], *, within_s: float, accepts_waiting: bool = False) -> set[int] | None:
        """Stop every process but `spared`. What is returned is for `release`; None where one would not stop in time."""
        stopped = freeze(spared, within_s=within_s, accepts_waiting=accepts_waiting)
        if stopped is None:
            return None
        self._stopped |= stopped
        held = set(table()) - spared
        self._holds.append(held)
        return held

    def release(self, held: set[int]) -> None:
        self._holds = [other for other in self._holds if other is not held]
        freed = (self._stopped & held).difference(*self._holds)
        self._stopped -= freed
        thaw(freed)

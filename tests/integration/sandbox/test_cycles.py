"""The host's process is killed at any instant, again and again: after the sweep nothing is left of any sandbox.

`RINGFENCE_CYCLES=1000` makes as many cycles as an operator may want to see; the suite makes a few.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Bundle, CallId, Exec, SandboxId, SandboxSpec
from ringfence_sandbox.local.backend import LocalBackend
from ringfence_sandbox.source import bundle_from_path
from tests.contracts.sandbox.repositories import make_repository

pytestmark = pytest.mark.sandbox

CYCLES = int(os.environ.get("RINGFENCE_CYCLES", "16"))
PREPARED = ("etc-", "trust-", "inside-", "proved-", "disk-")
LONGEST_S = 0.6


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_from_path(make_repository(tmp_path / "repository"), into=tmp_path)


def test_nothing_is_left_after_the_sweep_however_the_host_died(tmp_path: Path, bundle: Bundle) -> None:
    root = tmp_path / "state"
    chance = random.Random(20261124)
    asyncio.run(sweep(root))  # what a machine prepares once
    for cycle in range(CYCLES):
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(live(root, bundle, cycle))
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, LONGEST_S))  # the instant, not a wait
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if cycle % 8 == 7 or cycle == CYCLES - 1:
            wait_for(lambda: not processes_over(root))
            asyncio.run(sweep(root))
            assert left_in(root) == []
            assert outside(root) == []


async def live(root: Path, bundle: Bundle, cycle: int) -> None:
    """A host's life: sandboxes made, used, suspended, copied back to life, destroyed, until it is killed."""
    backend = LocalBackend(root)
    for number in range(1000):
        spec = SandboxSpec(SandboxId(f"c-{cycle}-{number}"), has_egress=True)
        sandbox = await backend.create(spec)
        await sandbox.load(bundle)
        command = "(setsid sleep 500 &) ; mkfifo p; mkdir -m 0 closed; ln -s / out; head -c 100000 /dev/zero > file"
        await sandbox.perform(Exec(CallId(f"r/1/{number}/n"), 1, ("bash", "-c", command)))
        if number % 3 == 1:
            await sandbox.suspend()
            sandbox = await backend.attach(spec)
            await sandbox.perform(Exec(CallId(f"r/2/{number}/n"), 1, ("true",)))
        await backend.destroy(spec.id)


async def sweep(root: Path) -> None:
    backend = LocalBackend(root)
    try:
        await backend.sweep(frozenset())
        await backend.check()
        await backend.sweep(frozenset())
    finally:
        await backend.close()


def processes_over(root: Path) -> list[int]:
    """Processes, of whatever user, that have something below `root` mounted in a view of their own."""
    own, place = Path("/proc/self/ns/mnt").readlink(), f"{root}/sandboxes/"
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if (path / "ns" / "mnt").readlink() != own and place in (path / "mountinfo").read_text():
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def left_in(root: Path) -> list[str]:
    top = [path.name for path in root.iterdir() if not path.name.startswith(PREPARED)]
    below = [str(path.relative_to(root)) for name in top for path in (root / name).iterdir()]
    return [name for name in top if name not in ("sandboxes", "uids")] + below


def outside(root: Path) -> list[str]:
    """Mounts, loop devices and sockets of the machine that lead below `root`."""
    told = Path("/proc/self/mountinfo").read_text().splitlines() + Path("/proc/net/unix").read_text().splitlines()
    told += [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [line for line in told if str(root) in line]


def wait_for(is_so: Callable[[], bool], *, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)

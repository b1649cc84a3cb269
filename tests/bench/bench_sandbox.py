"""What a local sandbox costs, each figure beside its yardstick in the same run: prints, asserts nothing of time."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from ringfence_sandbox.contract import Bundle, CallId, Ending, Exec, Outcome, Sandbox, SandboxId, SandboxSpec
from ringfence_sandbox.local.backend import LocalBackend, find_bwraps
from ringfence_sandbox.source import bundle_from_path
from tests.contracts.sandbox.repositories import git, make_repository

ROUNDS = 40
MANY = 100
FILES = 300
COMMIT = (
    f"for i in $(seq {FILES}); do echo $i > f$i; done; git init -q .; git add -A; "
    "git -c user.name=a -c user.email=a@example.org commit -q -m x"
)


async def _ms(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return (time.perf_counter() - began) * 1000


async def _plain(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL)
    await process.wait()


def _told(name: str, values: list[float]) -> float:
    middle = statistics.median(values)
    print(f"{name}: p50 {middle:.2f} ms, least {min(values):.2f}, {len(values)} times")
    return middle


async def _run(sandbox: Sandbox, number: int, *argv: str) -> Outcome:
    return await sandbox.perform(Exec(CallId(f"b/1/{number}/n"), 1, argv))


@pytest.mark.bench
async def test_start_exec_and_destroy(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "state")
    bwrap = str(find_bwraps()[0])
    await backend.check()
    bare, starts, plain, execs, ends = [], [], [], [], []
    for number in range(ROUNDS):
        spec = SandboxSpec(SandboxId(f"bench-{number}"))
        bare.append(await _ms(partial(_plain, bwrap, "--ro-bind", "/", "/", "--unshare-all", "true")))

        async def first(spec: SandboxSpec = spec) -> None:
            await _run(await backend.create(spec), 0, "true")

        starts.append(await _ms(first))
        sandbox = await backend.attach(spec)
        for again in range(1, 6):
            plain.append(await _ms(partial(_plain, "true")))
            execs.append(await _ms(partial(_run, sandbox, again, "true")))
        ends.append(await _ms(partial(backend.destroy, spec.id)))
    await backend.close()
    ratio_start = _told("start to first command", starts) / _told("bare bubblewrap", bare)
    ratio_exec = _told("command inside", execs) / _told("plain subprocess", plain)
    _told("destroy", ends)
    print(f"start is {ratio_start:.1f} times bare bubblewrap, a command {ratio_exec:.2f} times a subprocess")
    assert len(starts) == ROUNDS


@pytest.mark.bench
async def test_a_tree_after_its_limit(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "state")
    sandbox = await backend.create(SandboxSpec(SandboxId("tree-1")))
    command = "trap '' TERM; for i in $(seq 10); do setsid sleep 300 & done; sleep 301"
    after = []
    for number in range(15):
        action = Exec(CallId(f"b/2/{number}/n"), 1, ("bash", "-c", command), timeout_s=0.3)
        outcome = await sandbox.perform(action)
        assert outcome.ending is Ending.TIMEOUT
        after.append(outcome.duration_ms - 300.0)
    _told("a tree of twelve, from its limit to its burial", after)
    await backend.destroy(SandboxId("tree-1"))
    await backend.close()


@pytest.mark.bench
async def test_a_hundred_at_once(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "state")
    await backend.check()
    before = _available_kb()
    specs = [SandboxSpec(SandboxId(f"many-{number}")) for number in range(MANY)]
    for spec in specs:
        await _run(await backend.create(spec), 0, "true")
    each = (before - _available_kb()) / MANY / 1024
    print(f"{MANY} sandboxes at once: {each:.1f} MB each, by what the machine has left")
    for spec in specs:
        await backend.destroy(spec.id)
    await backend.close()
    assert each > 0


@pytest.mark.bench
async def test_a_commit_of_many_files(tmp_path: Path) -> None:
    bundle: Bundle = bundle_from_path(make_repository(tmp_path / "repository"), into=tmp_path)
    backend = LocalBackend(tmp_path / "state")
    sandbox = await backend.create(SandboxSpec(SandboxId("commit-1")))
    await sandbox.load(bundle)
    inside, outside = [], []
    for number in range(7):
        place = tmp_path / f"outside-{number}"
        place.mkdir()
        git(place, "--version")
        outside.append(await _ms(partial(_plain, "bash", "-c", f"cd {place}; {COMMIT}")))
        command = f"mkdir /workspace/n{number}; cd /workspace/n{number}; {COMMIT}"
        began = time.perf_counter()
        assert (await _run(sandbox, number, "bash", "-c", command)).ending is Ending.DONE
        inside.append((time.perf_counter() - began) * 1000)
    ratio = _told(f"commit of {FILES} files inside", inside) / _told("outside", outside)
    print(f"a commit inside is {ratio:.2f} times one outside")
    await backend.destroy(SandboxId("commit-1"))
    await backend.close()


def _available_kb() -> int:
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
    return int(line.split()[1])
